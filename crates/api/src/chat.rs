//! `POST /v1/chat/completions`, and what can be done with the answer's id.
//!
//! A request is read strictly ([`request`]): a field that this node cannot honour is refused by name, unless its value asks
//! for nothing. The answer is one object ([`completion`]) or a stream of server-sent events ([`stream`]),
//! made of pieces ([`pieces`]). A stream can be resumed if its client asked for that ([`kept`]). An answer may be written into a
//! chat of the node while it comes ([`record`]).

mod completion;
mod kept;
mod pieces;
mod record;
mod request;
mod samplers;
mod stream;

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use shoal_node::{Caller, Error, Event};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    App, REQUESTS_MAX,
    backend::{Answer, Backend},
    body::JsonBody,
    chat::{completion::Completion, record::Recorder, request::ChatRequest},
    error::ApiError,
    guard::Known,
};

pub(crate) use kept::Answers;

/// How long a stream waits for the node to take a request in before it begins: what is refused by then has a status of its
/// own, and later news come as events. A model that is being loaded or healed takes longer.
const BEGIN_AFTER: Duration = Duration::from_secs(3);

/// An answer, or the request for it that the node has not taken in yet.
enum Coming<A> {
    Asked(BoxFuture<'static, Result<A, Error>>),
    Here(A),
    Refused,
}

impl<A: Answer> Coming<A> {
    /// Waits for the next event; `None` after the last. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> Option<Event> {
        loop {
            match self {
                Self::Asked(asked) => match asked.await {
                    Ok(answer) => *self = Self::Here(answer),
                    Err(error) => {
                        *self = Self::Refused;
                        return Some(Event::Failed(error));
                    }
                },
                Self::Here(answer) => return answer.next().await,
                Self::Refused => return None,
            }
        }
    }
}

/// An answer under way, and its place among those that may be.
struct Running<A> {
    answer: Coming<A>,
    recorder: Option<Recorder>,
    _permit: OwnedSemaphorePermit,
}

impl<A: Answer> Running<A> {
    /// Waits for the next event; `None` after the last. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> Option<Event> {
        let event = self.answer.next().await;
        if let Some(recorder) = &self.recorder {
            recorder.see(event.as_ref());
        }
        event
    }
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
    known: Known,
    JsonBody(request): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let call = request.into_call(shoal_node::random_u64()?)?;
    if let Some(record::Place { chat, message, parent }) = call.place {
        // Before anything is computed.
        app.backend.chats().check_answer(chat, message, parent).await?;
    }
    let permit = app.requests.clone().try_acquire_owned().map_err(|_| {
        ApiError::overloaded(format!("{REQUESTS_MAX} answers are under way: ask again in a while"))
    })?;
    let identity = Identity::new(call.generate.model.clone())?;
    let backend = app.backend.clone();
    let caller = Caller { answer: Some(identity.id.clone()), by: known.name() };
    let mut asked: BoxFuture<'static, Result<B::Answer, Error>> =
        Box::pin(async move { backend.generate_for(call.generate, caller).await });
    let Some(stream) = call.stream else {
        let answer = Coming::Here(asked.await?);
        let recorder = begin_record(&app, call.place, &identity).await?;
        let running = Running { answer, recorder, _permit: permit };
        return Ok(Json(collect(identity, running).await?).into_response());
    };
    let answer = match tokio::time::timeout(BEGIN_AFTER, &mut asked).await {
        Ok(answer) => Coming::Here(answer?),
        Err(_) => Coming::Asked(asked),
    };
    let recorder = begin_record(&app, call.place, &identity).await?;
    let running = Running { answer, recorder, _permit: permit };
    Ok(stream::respond(&app.answers, identity, running, stream))
}

/// Begins to write the answer into its chat, if it has one.
async fn begin_record<B: Backend>(
    app: &App<B>,
    place: Option<record::Place>,
    identity: &Identity,
) -> Result<Option<Recorder>, ApiError> {
    match place {
        Some(place) => record::begin(app, place, identity).await.map(Some),
        None => Ok(None),
    }
}

/// `GET /v1/chat/completions/{id}/stream`: the rest of an answer that can be resumed, after `Last-Event-ID`.
pub(crate) async fn resume<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = match headers.get("last-event-id") {
        None => None,
        Some(value) => {
            let parsed = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            let expected = || ApiError::invalid("last-event-id", "expected a number");
            Some(parsed.ok_or_else(expected)?)
        }
    };
    Ok(stream::follow(app.answers.attach(&id, last)?))
}

/// `DELETE /v1/chat/completions/{id}`, `POST /v1/cancel/{id}`: ends an answer.
pub(crate) async fn cancel<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    app.answers.cancel(&id)?;
    Ok(Json(json!({"id": id, "object": "chat.completion.deleted", "deleted": true})))
}

/// Waits for the whole answer. Whoever drops this future, as hyper does when the client goes away, drops the answer.
async fn collect<A: Answer>(
    identity: Identity,
    mut running: Running<A>,
) -> Result<Completion, ApiError> {
    let mut content = String::new();
    loop {
        match running.next().await {
            Some(
                Event::Queued { .. }
                | Event::Started { .. }
                | Event::Healing { .. }
                | Event::Resumed { .. },
            ) => {}
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
