//! `POST /v1/chat/completions`.
//!
//! A request is read strictly ([`request`]): a field that this node cannot honour is refused by name, unless its value asks
//! for nothing. The answer is one object ([`completion`]) or a stream of server-sent events ([`stream`]).

mod completion;
mod request;
mod stream;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    App, REQUESTS_MAX,
    backend::{Answer, Backend},
    body::JsonBody,
    chat::{completion::Completion, request::ChatRequest},
    error::ApiError,
};

/// An answer under way, and its place among those that may be.
#[derive(Debug)]
struct Running<A> {
    answer: A,
    _permit: OwnedSemaphorePermit,
}

/// What every object of one answer repeats.
#[derive(Debug, Clone)]
struct Identity {
    id: String,
    created_s: u64,
    model: String,
}

/// Names what computed the answer. The same model, request and seed give the same bytes on any device and over any
/// number of them, so the version of the software is all there is to tell.
const SYSTEM_FINGERPRINT: &str = concat!("shoal-", env!("CARGO_PKG_VERSION"));

pub(crate) async fn complete<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(request): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let call = request.into_call(shoal_node::random_u64()?)?;
    let permit = app.requests.clone().try_acquire_owned().map_err(|_| {
        ApiError::overloaded(format!("{REQUESTS_MAX} answers are under way: ask again in a while"))
    })?;
    let identity = Identity::new(call.generate.model.clone())?;
    let answer = app.backend.generate(call.generate).await?;
    let running = Running { answer, _permit: permit };
    if call.stream {
        Ok(stream::respond(identity, running, call.include_usage))
    } else {
        Ok(Json(collect(identity, running).await?).into_response())
    }
}

/// Waits for the whole answer. Whoever drops this future, as hyper does when the client goes away, drops the answer.
async fn collect<A: Answer>(
    identity: Identity,
    mut running: Running<A>,
) -> Result<Completion, ApiError> {
    use shoal_node::Event;

    let mut content = String::new();
    loop {
        match running.answer.next().await {
            Some(Event::Started { .. } | Event::Healing { .. } | Event::Resumed { .. }) => {}
            Some(Event::Text(text)) => content.push_str(&text),
            Some(Event::Finished { reason, usage, .. }) => {
                return Ok(Completion::new(identity, content, reason, usage));
            }
            Some(Event::Failed(error)) => return Err(error.into()),
            None => return Err(ApiError::cut_off()),
        }
    }
}

impl Identity {
    fn new(model: String) -> Result<Self, ApiError> {
        let id = format!(
            "chatcmpl-{:016x}{:016x}",
            shoal_node::random_u64()?,
            shoal_node::random_u64()?
        );
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Ok(Self { id, created_s: now.unwrap_or_default().as_secs(), model })
    }
}
