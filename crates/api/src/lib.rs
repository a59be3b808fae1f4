//! The HTTP side of a node: OpenAI's chat API, the cluster's API for the command line, and the dashboard.
//!
//! This is the only crate that knows OpenAI's names. Every dialect is an adapter onto [`shoal_node::GenerateRequest`]:
//! whatever a request asks for is either done or refused by name, never ignored.
//!
//! | route | answers |
//! |---|---|
//! | `POST /v1/chat/completions` | an answer, whole or as server-sent events |
//! | `GET /v1/chat/completions/{id}/stream` | the rest of an answer that can be resumed |
//! | `DELETE /v1/chat/completions/{id}`, `POST /v1/cancel/{id}` | end an answer |
//! | `GET /v1/models`, `GET /v1/models/{id}` | what requests may name |
//! | `GET /health`, `GET /node_id`, `GET /state` | the node, its peers, its instances |
//! | `GET /plan`, `POST /plan` | how a model would be placed, and how fast it would be |
//! | `POST /place_instance`, `DELETE /instance/{id or model}` | place a model, drop it |
//! | `POST /invite`, `POST /join`, `POST /leave` | a ticket for another device; join another cluster, leave this one |
//! | `GET /invites`, `DELETE /invites/{id}` | the invitations of this node, and their end |
//! | `POST /drain` | have a device give its layers away, or take that back |
//! | `DELETE /nodes/{name or id}` | remove a device from the cluster for good |
//! | `GET /doctor/network` | what stands between this node and its peers, check by check |
//! | `GET /settings`, `PATCH /settings` | what the owner of this device sets, and who else reaches it |
//! | `GET /models`, `GET /models/search` | the catalogue and what runs here, what is on this device, what the hub has |
//! | `DELETE /models/{name}` | remove a model from this device |
//! | `GET /chats`, `POST /chats`, `GET`, `PATCH`, `DELETE /chats/{id}` | the chats that the cluster keeps |
//! | `POST /chats/{id}/messages` | add a message to one |
//! | `GET /chats/export`, `GET /chats/{id}/export`, `POST /chats/import` | chats as files |
//! | `POST /download/start`, `…/pause`, `…/resume`, `…/cancel`, `GET /downloads` | bring models here |
//! | `GET /events` | what changes, as server-sent events |
//! | `GET /log`, `GET /history` | what happened, in words; the last hour, in numbers |
//! | `GET /metrics` | the node in numbers, for Prometheus |
//! | `GET /traces`, `GET /traces/{id}` | where the time of the latest requests went |
//! | `GET /` and the files that it names | the dashboard |
//!
//! Every failure has OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.
//!
//! - `chat`: the chat API: request, answer, stream
//! - `chats`: the chats that the node keeps
//! - `library`: models and downloads
//! - `view`: how models, nodes, instances and plans are shown, which the command line reads too
//! - `events`: what changes, as it changes
//! - `past`: what was
//! - `settings`: what the owner sets
//! - `plan`, `membership`: placing models, and who belongs
//! - `metrics`, `traces`: what the node measures of itself
//! - `models`, `cluster`, `page`: the other routes
//! - `guard`: which requests are let in at all
//! - `connections`: how many clients may be connected at once
//! - `body`, `error`: JSON in, errors out
//! - `backend`, `board`: what a node must offer; tests put a script in its place
//! - `qr`: texts for cameras

mod backend;
mod board;
mod body;
mod chat;
mod chats;
mod cluster;
mod connections;
mod error;
mod events;
mod guard;
mod library;
mod membership;
mod metrics;
mod models;
mod page;
mod past;
mod plan;
pub mod qr;
mod settings;
#[cfg(test)]
mod tests;
mod traces;
pub mod view;

pub use guard::{Access, Origin, OriginError};
pub use settings::lan_urls;

use std::{future::IntoFuture, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, Uri},
    middleware,
    routing::{delete, get, patch, post},
    serve::ListenerExt,
};
use shoal_node::Node;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{backend::Backend, chat::Answers, connections::Bounded, error::ApiError, guard::Guard};

/// Largest body of a request. A context of 128 Ki tokens is about half a megabyte of text.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Most answers under way at once. Each holds a sequence on every stage; a phone has no memory for more.
const REQUESTS_MAX: usize = 64;
/// Most clients that follow the events at once: a page or two for each device of a house.
const EVENTS_MAX: usize = 64;
/// How long connections may finish after the node was told to end: Ctrl-C should not seem to hang.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Returns the routes of a node.
///
/// Requests are refused unless they address the node as `localhost`, by a loopback address, by the address that it listens
/// on or by its name, unless a browser that sends them got its page from here or from an origin that was named, and, if there
/// is a token, unless they know it or come from this device.
pub fn router(node: Node, access: &Access) -> Router {
    routes(node, access)
}

/// Serves HTTP on `listener` until `cancel`, and then for at most two seconds more. At most 256 clients are connected at once:
/// whoever comes then is let in, and the one that has been silent the longest goes, first of all one that never asked anything.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    cancel: CancellationToken,
) -> io::Result<()> {
    let listener = Bounded::new(listener).tap_io(|connection| {
        // Pieces of an answer are small, and each should leave at once.
        if let Err(error) = connection.set_nodelay() {
            debug!(%error, "no TCP_NODELAY");
        }
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let served =
        axum::serve(listener, service).with_graceful_shutdown(cancel.clone().cancelled_owned());
    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        served = served.into_future() => served,
        // What is still open are answers under way: they end with their node.
        () = overdue => Ok(()),
    }
}

/// What every handler gets.
#[derive(Debug, Clone)]
struct App<B> {
    backend: B,
    /// One permit for each answer under way.
    requests: Arc<Semaphore>,
    /// Answers whose ids clients know.
    answers: Arc<Answers>,
    /// One permit for each client that follows the events.
    events: Arc<Semaphore>,
    access: Arc<Access>,
}

impl<B> App<B> {
    /// Answers under way.
    fn n_requests(&self) -> usize {
        REQUESTS_MAX - self.requests.available_permits()
    }
}

fn routes<B: Backend>(backend: B, access: &Access) -> Router {
    let app = App {
        backend,
        requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        answers: Arc::default(),
        events: Arc::new(Semaphore::new(EVENTS_MAX)),
        access: Arc::new(access.clone()),
    };
    let large_body = DefaultBodyLimit::max(chats::IMPORT_BYTES_MAX);
    page::routes(Router::new())
        .route("/v1/chat/completions", post(chat::complete::<B>))
        .route("/v1/chat/completions/{id}", delete(chat::cancel::<B>))
        .route("/v1/chat/completions/{id}/stream", get(chat::resume::<B>))
        .route("/v1/cancel/{id}", post(chat::cancel::<B>))
        .route("/v1/models", get(models::list::<B>))
        .route("/v1/models/{*id}", get(models::show::<B>))
        .route("/health", get(cluster::health))
        .route("/node_id", get(cluster::node_id::<B>))
        .route("/state", get(cluster::state::<B>))
        .route("/plan", get(plan::plan_of_query::<B>).post(plan::plan::<B>))
        .route("/place_instance", post(plan::place::<B>))
        .route("/instance/{*id}", delete(plan::unplace::<B>))
        .route("/invite", post(membership::invite::<B>))
        .route("/invites", get(membership::invites::<B>))
        .route("/invites/{id}", delete(membership::revoke::<B>))
        .route("/join", post(membership::join::<B>))
        .route("/leave", post(membership::leave::<B>))
        .route("/drain", post(membership::drain::<B>))
        .route("/nodes/{node}", delete(membership::forget::<B>))
        .route("/doctor/network", get(membership::doctor::<B>))
        .route("/models", get(library::models::<B>))
        .route("/models/search", get(library::search::<B>))
        .route("/models/{*name}", delete(library::remove::<B>))
        .route("/chats", get(chats::list::<B>).post(chats::create::<B>))
        .route("/chats/export", get(chats::export_all::<B>))
        .route("/chats/import", post(chats::import::<B>).layer(large_body))
        .route(
            "/chats/{id}",
            patch(chats::change::<B>).get(chats::show::<B>).delete(chats::remove::<B>),
        )
        .route("/chats/{id}/messages", post(chats::append::<B>))
        .route("/chats/{id}/export", get(chats::export_one::<B>))
        .route("/download/start", post(library::start::<B>))
        .route("/download/pause", post(library::pause::<B>))
        .route("/download/resume", post(library::resume::<B>))
        .route("/download/cancel", post(library::cancel::<B>))
        .route("/downloads", get(library::downloads::<B>))
        .route("/events", get(events::events::<B>))
        .route("/log", get(past::log::<B>))
        .route("/history", get(past::history::<B>))
        .route("/settings", get(settings::show::<B>).patch(settings::change::<B>))
        .route("/metrics", get(metrics::metrics::<B>))
        .route("/traces", get(traces::list::<B>))
        .route("/traces/{id}", get(traces::show::<B>))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_route)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Guard::new(access), guard::guard))
        .with_state(app)
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found("unknown_url", format!("unknown route: {method} {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::wrong_method(format!("{}: method {method} is not allowed here", uri.path()))
}
