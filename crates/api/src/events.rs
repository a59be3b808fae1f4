//! `GET /events`: what changes, as server-sent events.
//!
//! ```text
//! event: state         data: {"nodes": […], "instances": […]}   at the beginning, and when a node or an instance changes
//! event: downloads     data: {"downloads": […]}             at the beginning, and when one changes
//! event: vitals        data: {"nodes": […]}                 how devices and links are doing, every two seconds
//! event: requests      data: {"requests": […]}              those under way, and the latest that have ended
//! event: tokens        data: {"instances": […]}             what was produced since the last one
//! event: log           data: {"entries": […], …}            what happened, in words
//! event: chats         data: {"version": 7, "changed": […]}   the chats that have changed
//! ```
//!
//! Each event says all there is to say of its subject, so that a client which has missed some needs only the next; but
//! `tokens` and `log` say what is new. Of chats there are too many for that: `"changed": null`, which is what a client is told first, means
//! that any of them may have changed. `?only=state,log` leaves the other subjects out. `docs/api.md` has the fields.
//!
//! Nothing waits for a client: an event is made when its connection has room for it, from how things are then.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, select_all},
    stream,
};
use serde::Deserialize;
use serde_json::{Value, json};
use shoal_node::chats::ChangedChat;
use shoal_proto::InstanceId;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};

use crate::{
    App, EVENTS_MAX,
    backend::Backend,
    chat::Answers,
    error::ApiError,
    library::downloads_of,
    view::{
        InstanceView, NodeView,
        live::{self, LinkBytes},
    },
};

/// As for answers: proxies and mobile networks forget a silent connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Requests that have ended and are told of: they come again with every change of another one.
const OVER_MAX: usize = 20;
/// Entries of the log that a client gets at the beginning: what fits a few screens.
const LOG_FIRST: usize = 100;

/// What events are about, in the order in which a new client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    State,
    Downloads,
    Vitals,
    Requests,
    Tokens,
    Log,
    Chats,
}

impl Subject {
    const ALL: [Self; 7] = [
        Self::State,
        Self::Downloads,
        Self::Vitals,
        Self::Requests,
        Self::Tokens,
        Self::Log,
        Self::Chats,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Downloads => "downloads",
            Self::Vitals => "vitals",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Log => "log",
            Self::Chats => "chats",
        }
    }

    /// Shortest time between two events.
    fn every(self) -> Duration {
        match self {
            // The cluster says nothing by itself.
            Self::State => Duration::from_secs(1),
            // Four events a second are as many as anybody can read.
            Self::Downloads | Self::Log | Self::Chats => Duration::from_millis(250),
            Self::Vitals => Duration::from_secs(2),
            Self::Requests => Duration::from_millis(500),
            // What moves on a screen.
            Self::Tokens => Duration::from_millis(100),
        }
    }

    fn changes<B: Backend>(self, backend: &B) -> Option<watch::Receiver<u64>> {
        match self {
            Self::State | Self::Vitals => None,
            Self::Downloads => Some(backend.download_changes()),
            Self::Requests | Self::Tokens => Some(backend.request_changes()),
            Self::Log => Some(backend.log_changes()),
            Self::Chats => Some(backend.chats().changes()),
        }
    }
}

/// The query of `GET /events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    /// Subjects, with commas between.
    only: Option<String>,
}

impl EventsQuery {
    fn subjects(&self) -> Result<Vec<Subject>, ApiError> {
        let Some(only) = &self.only else { return Ok(Subject::ALL.to_vec()) };
        let wanted = only.split(',').map(|name| {
            let subject = Subject::ALL.into_iter().find(|subject| subject.as_str() == name);
            subject.ok_or_else(|| {
                let known = Subject::ALL.map(Subject::as_str).join(", ");
                ApiError::invalid("only", format!("expected some of {known}, got {name:?}"))
            })
        });
        let wanted: Vec<Subject> = wanted.collect::<Result<_, _>>()?;
        // In our order, and each once.
        Ok(Subject::ALL.into_iter().filter(|subject| wanted.contains(subject)).collect())
    }
}

/// One subject of one client's stream.
#[derive(Debug)]
struct Feed {
    subject: Subject,
    /// When the next event may be.
    due: Instant,
    /// Ticks when there may be news; `None` for what has to be looked at.
    changes: Option<watch::Receiver<u64>>,
    is_first: bool,
    /// What the client was told last.
    told: Option<Value>,
}

impl Feed {
    fn new<B: Backend>(subject: Subject, backend: &B) -> Self {
        let changes = subject.changes(backend);
        Self { subject, due: Instant::now(), changes, is_first: true, told: None }
    }

    /// Whether it is time to look for news.
    fn is_due(&mut self, now: Instant) -> bool {
        if now < self.due {
            return false;
        }
        let may_be_new = match &mut self.changes {
            None => true,
            Some(changes) => changes.has_changed().unwrap_or(false),
        };
        if !may_be_new && !self.is_first {
            return false;
        }
        if let Some(changes) = &mut self.changes {
            changes.mark_unchanged();
        }
        (self.is_first, self.due) = (false, now + self.subject.every());
        true
    }

    /// Waits until it is.
    async fn wait(&mut self) {
        sleep_until(self.due).await;
        if let Some(changes) = &mut self.changes {
            if changes.changed().await.is_err() {
                // A node without a library has no downloads.
                std::future::pending::<()>().await;
            }
            // `changed` is seen once, and it is `is_due` that takes it.
            changes.mark_changed();
        }
    }

    /// The value, if the client was not told that it is so.
    fn news(&mut self, value: Value) -> Option<Value> {
        let is_news = self.told.as_ref() != Some(&value);
        is_news.then(|| self.told.insert(value).clone())
    }
}

/// One client's stream.
#[derive(Debug)]
struct Changes<B> {
    backend: B,
    answers: Arc<Answers>,
    feeds: Vec<Feed>,
    /// The bytes of links as they were at the last look.
    traffic: Option<(Instant, LinkBytes)>,
    /// What was produced until the last look.
    produced: HashMap<InstanceId, (u64, u64)>,
    /// The newest entry of the log that was told, and when that log began.
    log: Option<(u64, u64)>,
    /// The change of a chat that was told last.
    chats: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

pub(crate) async fn events<B: Backend>(
    State(app): State<App<B>>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::malformed(error.body_text()))?;
    let subjects = query.subjects()?;
    let permit = app.events.clone().try_acquire_owned().map_err(|_| {
        ApiError::overloaded(format!(
            "{EVENTS_MAX} clients follow the events: ask again in a while"
        ))
    })?;
    let feeds = subjects.into_iter().map(|subject| Feed::new(subject, &app.backend)).collect();
    let mut produced = HashMap::new();
    // What was before is no news.
    let _ = live::tokens(app.backend.id(), &app.backend.production(), &mut produced);
    let changes = Changes {
        backend: app.backend,
        answers: app.answers,
        feeds,
        traffic: None,
        produced,
        log: last_entry(&headers),
        chats: None,
        _permit: permit,
    };
    let events = stream::unfold(changes, |mut changes| async move {
        let event = changes.next().await;
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

/// The last entry of the log that a client has, which comes again: when its log began, and the entry's number. Whatever else
/// a header says is no reason to refuse: then it is told from the beginning.
fn last_entry(headers: &HeaderMap) -> Option<(u64, u64)> {
    let (began, seq) = headers.get("last-event-id")?.to_str().ok()?.split_once('-')?;
    Some((began.parse().ok()?, seq.parse().ok()?))
}

impl<B: Backend> Changes<B> {
    /// Waits until something is not as the client was told last.
    async fn next(&mut self) -> Event {
        loop {
            let now = Instant::now();
            for i in 0..self.feeds.len() {
                if !self.feeds[i].is_due(now) {
                    continue;
                }
                let subject = self.feeds[i].subject;
                if let Some((value, id)) = self.look(i, now) {
                    let event = Event::default().event(subject.as_str()).data(value.to_string());
                    return match id {
                        Some(id) => event.id(id),
                        None => event,
                    };
                }
            }
            let waits = self.feeds.iter_mut().map(|feed| feed.wait().boxed());
            select_all(waits.collect::<Vec<BoxFuture<'_, ()>>>()).await;
        }
    }

    /// What there is to say of a subject, if it is news; and the event's id.
    fn look(&mut self, feed: usize, now: Instant) -> Option<(Value, Option<String>)> {
        let value = match self.feeds[feed].subject {
            Subject::State => state(&self.backend),
            Subject::Downloads => json!({"downloads": downloads_of(&self.backend)}),
            Subject::Vitals => self.vitals(now),
            Subject::Requests => {
                let can_cancel = |id: &str| self.answers.is_listed(id);
                let mut requests = self.backend.requests();
                let mut n_over = 0;
                requests.retain(|request| {
                    n_over += usize::from(request.state.is_over());
                    !request.state.is_over() || n_over <= OVER_MAX
                });
                let requests = requests.iter().map(|it| live::request(it, can_cancel));
                json!({"requests": requests.collect::<Vec<Value>>()})
            }
            Subject::Tokens => {
                let (driver, production) = (self.backend.id(), self.backend.production());
                let tokens = live::tokens(driver, &production, &mut self.produced)?;
                return Some((tokens, None));
            }
            Subject::Log => return self.log(),
            Subject::Chats => return self.chats().map(|chats| (chats, None)),
        };
        self.feeds[feed].news(value).map(|value| (value, None))
    }

    fn vitals(&mut self, now: Instant) -> Value {
        let traffic = LinkBytes::from(self.backend.traffic());
        let before = self.traffic.as_ref().map(|(at, before)| (before, now.duration_since(*at)));
        let vitals = live::vitals(&self.backend.nodes(), &traffic, before);
        self.traffic = Some((now, traffic));
        vitals
    }

    fn log(&mut self) -> Option<(Value, Option<String>)> {
        let is_first = self.log.is_none();
        let (began, seq) = self.log.unzip();
        let mut page = self.backend.log(seq.unwrap_or_default(), usize::MAX);
        let of = live::at_ms(page.began);
        if began != Some(of) {
            // The client has the log of an earlier life of the node, or none.
            page = self.backend.log(0, LOG_FIRST);
        }
        self.log = Some((of, page.newest));
        let is_news = !page.entries.is_empty() || is_first;
        is_news.then(|| (live::log(&page), Some(format!("{of}-{}", page.newest))))
    }

    /// The chats that have changed since the client was told last, if any have.
    fn chats(&mut self) -> Option<Value> {
        let told = self.chats;
        let (now, changed) = self.backend.chats().changed_since(told.unwrap_or_default());
        if told == Some(now) {
            return None;
        }
        self.chats = Some(now);
        let changed = changed.filter(|_| told.is_some()).map(|changed| {
            let view = |chat: ChangedChat| {
                json!({
                    "id": chat.id.to_string(),
                    "title": chat.title,
                    "changed_ms": chat.changed_ms,
                    "is_deleted": chat.is_deleted,
                })
            };
            changed.into_iter().map(view).collect::<Vec<Value>>()
        });
        Some(json!({"version": now, "changed": changed}))
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
