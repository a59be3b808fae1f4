//! `GET /events`: what changes, as server-sent events.
//!
//! ```text
//! event: downloads     data: {"downloads": […]}             at the beginning, and when one changes
//! event: state         data: {"nodes": […], "instances": […]}   at the beginning, and when a node or an instance changes
//! ```
//!
//! Each event says all there is to say of its subject, so that a client which has missed some needs only the next.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};

use crate::{
    App, EVENTS_MAX,
    backend::Backend,
    error::ApiError,
    library::downloads_of,
    view::{InstanceView, NodeView},
};

/// Between two looks at what has changed: four events a second are as many as anybody can read.
const DOWNLOADS_INTERVAL: Duration = Duration::from_millis(250);
/// Between two looks at the cluster, which says nothing by itself.
const STATE_INTERVAL: Duration = Duration::from_secs(1);
/// As for answers: proxies and mobile networks forget a silent connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// One client's stream.
#[derive(Debug)]
struct Changes<B> {
    backend: B,
    downloads_changed: watch::Receiver<u64>,
    /// What the client was told last.
    downloads: Option<Value>,
    state: Option<Value>,
    next_downloads: Instant,
    next_state: Instant,
    _permit: OwnedSemaphorePermit,
}

pub(crate) async fn events<B: Backend>(State(app): State<App<B>>) -> Result<Response, ApiError> {
    let permit = app.events.clone().try_acquire_owned().map_err(|_| {
        ApiError::overloaded(format!(
            "{EVENTS_MAX} clients follow the events: ask again in a while"
        ))
    })?;
    let now = Instant::now();
    let changes = Changes {
        downloads_changed: app.backend.download_changes(),
        backend: app.backend,
        downloads: None,
        state: None,
        next_downloads: now,
        next_state: now,
        _permit: permit,
    };
    let events = stream::unfold(changes, |mut changes| async move {
        let (name, data) = changes.next().await;
        let event = Event::default().event(name).data(data.to_string());
        Some((Ok::<_, Infallible>(event), changes))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // A proxy that collects the answer before it passes it on would defeat the purpose.
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl<B: Backend> Changes<B> {
    /// Waits until something is not as the client was told last.
    async fn next(&mut self) -> (&'static str, Value) {
        loop {
            let now = Instant::now();
            if now >= self.next_downloads {
                self.next_downloads = now + DOWNLOADS_INTERVAL;
                self.downloads_changed.mark_unchanged();
                let downloads = json!({"downloads": downloads_of(&self.backend)});
                if self.downloads.as_ref() != Some(&downloads) {
                    self.downloads = Some(downloads.clone());
                    return ("downloads", downloads);
                }
            }
            if now >= self.next_state {
                self.next_state = now + STATE_INTERVAL;
                let state = state(&self.backend);
                if self.state.as_ref() != Some(&state) {
                    self.state = Some(state.clone());
                    return ("state", state);
                }
            }
            let next_state = self.next_state;
            tokio::select! {
                () = self.downloads_may_have_changed() => {}
                () = sleep_until(next_state) => {}
            }
        }
    }

    /// Waits for the next change of a download, and then until it may be told.
    async fn downloads_may_have_changed(&mut self) {
        if self.downloads_changed.changed().await.is_err() {
            // A node without a library has no downloads.
            std::future::pending::<()>().await;
        }
        // `changed` is seen once, and the wait may be cut short by news of the cluster: then it is seen again.
        self.downloads_changed.mark_changed();
        sleep_until(self.next_downloads).await;
    }
}

/// Nodes and instances, without what changes all the time.
fn state<B: Backend>(backend: &B) -> Value {
    let nodes = backend.nodes().into_iter().map(NodeView::from);
    let nodes: Vec<NodeView> = nodes.map(NodeView::without_rtt).collect();
    let instances: Vec<InstanceView> =
        backend.instances().into_iter().map(InstanceView::from).collect();
    json!({"nodes": nodes, "instances": instances})
}
