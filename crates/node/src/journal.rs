//! What happened, in plain words: the latest few hundred events of this device and its cluster, as this node saw them, in
//! memory.
//!
//! Most of it is found by comparing how things are with how they were ([`observer`]); what leaves no trace in a state is noted
//! where it happens. [`words`] is the one place with sentences. An event names devices and models; never prompts, text or keys.

mod observer;
pub(crate) mod words;

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use shoal_proto::{InstanceId, NodeId};
use tokio::sync::watch;

use crate::{Node, clock};

use observer::{Observer, Seen};

/// Events that are kept.
pub(crate) const ENTRIES_MAX: usize = 500;
/// Most characters of an event's text: what peers say of themselves may be longer.
const TEXT_CHARS_MAX: usize = 512;
/// How often things are looked at when nothing says that they have changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Shortest time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// As it should be.
    Info,
    /// Good to know.
    Notice,
    /// Something is worse than it was.
    Warning,
    /// Something was lost.
    Error,
}

impl LogLevel {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// An event before it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) level: LogLevel,
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    pub(crate) node: Option<NodeId>,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) model: Option<String>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 1 since the node's start.
    pub seq: u64,
    /// When it was noticed.
    pub at: SystemTime,
    /// How much it matters.
    pub level: LogLevel,
    /// What kind of event it is, for programs; stable.
    pub kind: &'static str,
    /// What happened, in a sentence, with the names of devices and models as they are.
    pub text: String,
    /// The device that it is about.
    pub node: Option<NodeId>,
    /// The instance that it is about.
    pub instance: Option<InstanceId>,
    /// The model that it is about.
    pub model: Option<String>,
}

/// Events, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// When the node began to note: numbers of another beginning mean other events.
    pub began: SystemTime,
    /// The number of the newest event; 0 if there is none.
    pub newest: u64,
    /// The number of the oldest that is kept.
    pub oldest: u64,
    /// Those that were asked for.
    pub entries: Vec<LogEntry>,
}

/// The events of a node.
#[derive(Debug)]
pub(crate) struct Journal {
    began: SystemTime,
    entries: Mutex<VecDeque<LogEntry>>,
    newest: watch::Sender<u64>,
}

impl Default for Journal {
    fn default() -> Self {
        let (began, newest) = (SystemTime::now(), watch::Sender::new(0));
        Self { began, entries: Mutex::default(), newest }
    }
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, VecDeque<LogEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an event; the oldest gives way.
    pub(crate) fn note(&self, note: Note) {
        let Note { level, kind, text, node, instance, model } = note;
        let mut entries = self.lock();
        let seq = *self.newest.borrow() + 1;
        let text = tame(&text);
        let model = model.as_deref().map(tame);
        let at = SystemTime::now();
        if entries.len() >= ENTRIES_MAX {
            entries.pop_front();
        }
        entries.push_back(LogEntry { seq, at, level, kind, text, node, instance, model });
        // While the lock is held, so that numbers follow one another.
        self.newest.send_replace(seq);
    }

    /// The newest `n_max` of the events after number `after`.
    pub(crate) fn after(&self, after: u64, n_max: usize) -> LogPage {
        let entries = self.lock();
        let newest = *self.newest.borrow();
        let oldest = entries.front().map_or(newest, |entry| entry.seq);
        let first = entries.partition_point(|entry| entry.seq <= after);
        let first = first.max(entries.len().saturating_sub(n_max));
        let entries = entries.range(first..).cloned().collect();
        LogPage { began: self.began, newest, oldest, entries }
    }

    /// The number of the newest event, as it grows.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// A text of bounded length on one line.
fn tame(text: &str) -> String {
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut tamed: String = text.take(TEXT_CHARS_MAX + 1).collect();
    if let Some((end, _)) = tamed
        .char_indices()
        .nth(TEXT_CHARS_MAX - 1)
        .filter(|(at, _)| tamed[*at..].chars().count() > 1)
    {
        tamed.truncate(end);
        tamed.push('…');
    }
    tamed
}

/// Notes what happens, until the node ends.
pub(crate) async fn watch(node: Node) {
    let journal = &node.inner().instruments.journal;
    let mut changes = node.inner().peers().changes();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut observer = Observer::default();
    loop {
        let (nodes, instances) = (node.nodes(), node.instances());
        let (runners, downloads) = (node.runners(), node.downloads());
        let seen =
            Seen { nodes: &nodes, instances: &instances, runners: &runners, downloads: &downloads };
        for note in observer.look(&seen, clock::since_start()) {
            journal.note(note);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        tokio::select! {
            _ = ticks.tick() => {}
            // It cannot fail as long as the node lives.
            _ = changes.changed() => {}
        }
    }
}

impl Node {
    /// The newest `n_max` of the events after number `after`, of the few hundred that are kept.
    pub fn log(&self, after: u64, n_max: usize) -> LogPage {
        self.inner().instruments.journal.after(after, n_max)
    }

    /// The number of the newest event, as it grows.
    pub fn log_changes(&self) -> watch::Receiver<u64> {
        self.inner().instruments.journal.changes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Note {
        let (level, kind) = (LogLevel::Info, "test");
        Note { level, kind, text: text.into(), node: None, instance: None, model: None }
    }

    #[test]
    fn the_oldest_events_give_way_and_numbers_go_on() {
        let journal = Journal::default();
        let empty = journal.after(0, 10);
        assert_eq!((empty.newest, empty.oldest, empty.entries.len()), (0, 0, 0));
        for i in 0..ENTRIES_MAX + 7 {
            journal.note(note(&i.to_string()));
        }
        let all = journal.after(0, usize::MAX);
        assert_eq!((all.newest, all.oldest, all.entries.len()), (507, 8, ENTRIES_MAX));
        let seqs = |page: LogPage| page.entries.iter().map(|it| it.seq).collect::<Vec<u64>>();
        assert_eq!(seqs(journal.after(504, 100)), [505, 506, 507]);
        assert_eq!(seqs(journal.after(3, 2)), [506, 507], "the newest of them");
        assert_eq!(seqs(journal.after(507, 100)), [0; 0]);
        assert_eq!(seqs(journal.after(u64::MAX, 100)), [0; 0]);
        assert_eq!(*journal.changes().borrow(), 507);
    }

    #[test]
    fn texts_are_one_line_and_no_longer_than_they_may() {
        assert_eq!(tame("a\nb\u{7}"), "a b ");
        assert_eq!(
            tame("<b>é\u{202e}"),
            "<b>é\u{202e}",
            "what is shown is the page's to make inert"
        );
        let long = "é".repeat(TEXT_CHARS_MAX);
        assert_eq!(tame(&long), long);
        let tamed = tame(&"é".repeat(100_000));
        assert_eq!((tamed.chars().count(), tamed.chars().last()), (TEXT_CHARS_MAX, Some('…')));
    }
}
