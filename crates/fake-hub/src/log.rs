//! What was asked of the hub, and what it really sent.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::At;

/// Requests that are remembered: far more than a test makes; the oldest are forgotten beyond it.
const N_REQUESTS_MAX: usize = 100_000;

/// One request, as it was received and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`, or whatever was sent.
    pub method: String,
    /// The target as it was sent: path and query.
    pub target: String,
    /// Which part of the hub it was for.
    pub at: At,
    /// The file asked for, as `owner/name/path`, or the path of a plain URL; empty if there is no such file.
    pub file: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Whether it came with an `Authorization` header.
    pub authorized: bool,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// The status of the answer; 0 until there is one.
    pub status: u16,
    /// Bytes of the body that were handed to the socket so far.
    pub sent_bytes: u64,
}

/// A remembered request; what is written while it is answered is shared.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    request: Arc<Request>,
    status: Arc<AtomicU64>,
    sent_bytes: Arc<AtomicU64>,
}

impl Entry {
    pub(crate) fn set_status(&self, status: u16) {
        self.status.store(status.into(), Ordering::Relaxed);
    }

    pub(crate) fn add_sent(&self, n_bytes: u64) {
        self.sent_bytes.fetch_add(n_bytes, Ordering::Relaxed);
    }
}

/// All requests since the start or the last reset.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: VecDeque<Entry>,
}

impl Log {
    pub(crate) fn begin(&mut self, request: Request) -> Entry {
        if self.entries.len() == N_REQUESTS_MAX {
            self.entries.pop_front();
        }
        let entry = Entry {
            request: Arc::new(request),
            status: Arc::default(),
            sent_bytes: Arc::default(),
        };
        self.entries.push_back(entry.clone());
        entry
    }

    pub(crate) fn snapshot(&self) -> Vec<Request> {
        let of = |entry: &Entry| Request {
            status: u16::try_from(entry.status.load(Ordering::Relaxed)).expect("stored from u16"),
            sent_bytes: entry.sent_bytes.load(Ordering::Relaxed),
            ..(*entry.request).clone()
        };
        self.entries.iter().map(of).collect()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}
