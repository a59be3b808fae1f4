//! Requests wait for their turn: an instance answers a few at once, and those that come later stand in line, first come,
//! first served.
//!
//! [`Line`] decides, and knows neither clock nor tasks; [`Queues`] is the shell around it. A [`Turn`] is a request's place,
//! waiting or running; dropping it gives the place up, wherever the request stood. Whoever waits looks anew at every change
//! of any line, so that no call can be missed.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use shoal_proto::InstanceId;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{Error, generate::Event};

/// Answers of an instance at once, unless the user asks for another number. Each holds KV caches at every stage.
pub(crate) const PARALLEL_DEFAULT: usize = 8;
/// Requests that may wait for an instance: beyond that, whoever comes would wait for many minutes.
pub(crate) const WAITING_MAX: usize = 32;
/// Weight of the latest answer's length beside all before it.
const NEW_SHARE: f64 = 0.3;
/// Seconds until a refused client may ask again where no answer has told yet how long one takes.
const RETRY_DEFAULT_S: f64 = 5.0;
/// Bounds of what a refused client is told.
const RETRY_S: (f64, f64) = (1.0, 600.0);

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is its turn.
    Running,
    /// So many wait before it.
    Waiting(usize),
}

/// The line of one instance.
#[derive(Debug)]
pub(crate) struct Line {
    n_parallel: usize,
    /// Answers whose KV caches the stages have memory for.
    n_fitting: usize,
    n_waiting_max: usize,
    running: HashSet<u64>,
    waiting: VecDeque<u64>,
    /// How long answers have had their turn, in seconds; the latest count more.
    turn_s: Option<f64>,
}

impl Line {
    /// An empty line of `n_parallel >= 1` answers at once and `n_waiting_max` that may wait.
    pub(crate) fn new(n_parallel: usize, n_waiting_max: usize) -> Self {
        assert!(n_parallel >= 1, "an instance that answers nobody");
        let (running, waiting) = (HashSet::new(), VecDeque::new());
        let n_fitting = usize::MAX;
        Self { n_parallel, n_fitting, n_waiting_max, running, waiting, turn_s: None }
    }

    /// Answers that run at once.
    fn n_places(&self) -> usize {
        self.n_parallel.min(self.n_fitting)
    }

    /// Takes a request in, unless the line is full. `id` must be new.
    pub(crate) fn enter(&mut self, id: u64) -> Option<Place> {
        if self.running.len() < self.n_places() {
            self.running.insert(id);
            return Some(Place::Running);
        }
        if self.waiting.len() >= self.n_waiting_max {
            return None;
        }
        self.waiting.push_back(id);
        Some(Place::Waiting(self.waiting.len() - 1))
    }

    /// A request leaves, after it had its turn for `turn`, or while it waited. Its place goes to the first who waits.
    pub(crate) fn leave(&mut self, id: u64, turn: Option<Duration>) {
        if !self.running.remove(&id) {
            self.waiting.retain(|&waiting| waiting != id);
            return;
        }
        if let Some(turn_s) = turn.map(|turn| turn.as_secs_f64()) {
            let before = self.turn_s.unwrap_or(turn_s);
            self.turn_s = Some(before + NEW_SHARE * (turn_s - before));
        }
        self.call();
    }

    /// Calls those who wait first, as long as there is room.
    fn call(&mut self) {
        while self.running.len() < self.n_places()
            && let Some(next) = self.waiting.pop_front()
        {
            self.running.insert(next);
        }
    }

    /// Lets another number of answers run at once; those that run go on.
    fn set_parallel(&mut self, n_parallel: usize) {
        self.n_parallel = n_parallel.max(1);
        self.call();
    }

    /// Takes in how many answers the stages have memory for; those that run go on, and one always may.
    fn set_fitting(&mut self, n_fitting: usize) {
        self.n_fitting = n_fitting.max(1);
        self.call();
    }

    /// Where a request stands; `None` if it is not here.
    pub(crate) fn place(&self, id: u64) -> Option<Place> {
        if self.running.contains(&id) {
            return Some(Place::Running);
        }
        self.waiting.iter().position(|&waiting| waiting == id).map(Place::Waiting)
    }

    /// Whether nobody is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Requests that wait.
    pub(crate) fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When one more place in a full line is likely to be free: turns end one after the other, `n_parallel` of them in the
    /// time that one takes; fewer where memory allows no more.
    pub(crate) fn retry_after(&self) -> Duration {
        let wait_s = self.turn_s.map_or(RETRY_DEFAULT_S, |turn_s| turn_s / self.n_places() as f64);
        Duration::from_secs_f64(wait_s.clamp(RETRY_S.0, RETRY_S.1).ceil())
    }
}

/// The lines of all instances that this node drives requests of.
#[derive(Debug)]
pub(crate) struct Queues {
    n_parallel: AtomicUsize,
    lines: Mutex<Lines>,
    /// Something moved.
    moved: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    of: HashMap<InstanceId, Line>,
}

/// A request's place in its line; dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Turn {
    queues: Arc<Queues>,
    instance: InstanceId,
    id: u64,
    /// Since when it is its turn.
    since: Option<Instant>,
}

impl Queues {
    /// No lines yet, of `n_parallel` answers at once; 0 counts as 1.
    pub(crate) fn new(n_parallel: usize) -> Arc<Self> {
        let lines = Mutex::default();
        let n_parallel = AtomicUsize::new(n_parallel.max(1));
        Arc::new(Self { n_parallel, lines, moved: watch::Sender::new(()) })
    }

    /// Lets `n_parallel` answers of each instance run at once from now on; 0 counts as 1.
    pub(crate) fn set_parallel(&self, n_parallel: usize) {
        let mut lines = self.lock();
        self.n_parallel.store(n_parallel.max(1), Ordering::Relaxed);
        lines.of.values_mut().for_each(|line| line.set_parallel(n_parallel));
        drop(lines);
        self.moved.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request in, for an instance whose stages have memory for `n_fitting` answers at once.
    ///
    /// # Errors
    /// If too many wait already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        instance: InstanceId,
        n_fitting: usize,
    ) -> Result<Turn, Error> {
        let mut lines = self.lock();
        lines.next += 1;
        let id = lines.next;
        let n_parallel = self.n_parallel.load(Ordering::Relaxed);
        let line = lines.of.entry(instance).or_insert_with(|| Line::new(n_parallel, WAITING_MAX));
        line.set_fitting(n_fitting);
        // Whoever waited may have been called by that.
        self.moved.send_replace(());
        let Some(place) = line.enter(id) else {
            let (n_waiting, retry_after) = (line.n_waiting(), line.retry_after());
            return Err(Error::Overloaded { n_waiting, retry_after });
        };
        let since = (place == Place::Running).then(Instant::now);
        Ok(Turn { queues: Arc::clone(self), instance, id, since })
    }

    /// Forgets the line of an instance that is gone, once nobody stands in it.
    pub(crate) fn forget(&self, instance: InstanceId) {
        self.lock().of.retain(|id, line| *id != instance || !line.is_empty());
    }

    /// Requests that wait for an instance.
    pub(crate) fn n_waiting(&self, instance: InstanceId) -> usize {
        self.lock().of.get(&instance).map_or(0, Line::n_waiting)
    }
}

impl Turn {
    /// Waits for the turn, and says at each change how many wait before it. Returns whether it is the request's turn, not the
    /// end of everybody's interest in its answer.
    pub(crate) async fn come(&mut self, events: &mpsc::Sender<Event>) -> bool {
        let mut moved = self.queues.moved.subscribe();
        let mut told = None;
        loop {
            // Before the look, so that what changes after it is noticed.
            moved.mark_unchanged();
            let place = self.queues.lock().of.get(&self.instance).and_then(|it| it.place(self.id));
            let Some(Place::Waiting(position)) = place else {
                self.since.get_or_insert_with(Instant::now);
                return true;
            };
            if told != Some(position) {
                // Who does not read need not know of each step forward, and must not be waited for.
                let _ = events.try_send(Event::Queued { position });
                told = Some(position);
            }
            tokio::select! {
                () = events.closed() => return false,
                // It cannot fail: the sender lives as long as the queues.
                _ = moved.changed() => {}
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let turn = self.since.map(|since| since.elapsed());
        let mut lines = self.queues.lock();
        if let Some(line) = lines.of.get_mut(&self.instance) {
            line.leave(self.id, turn);
        }
        drop(lines);
        self.queues.moved.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn those_who_came_first_get_the_turn_first() {
        let mut line = Line::new(2, 8);
        assert_eq!(line.enter(1), Some(Place::Running));
        assert_eq!(line.enter(2), Some(Place::Running));
        assert_eq!(line.enter(3), Some(Place::Waiting(0)));
        assert_eq!(line.enter(4), Some(Place::Waiting(1)));
        line.leave(2, None);
        assert_eq!((line.place(3), line.place(4)), (Some(Place::Running), Some(Place::Waiting(0))));
        assert_eq!(line.enter(5), Some(Place::Waiting(1)), "nobody overtakes");
        line.leave(1, None);
        assert_eq!((line.place(4), line.place(5)), (Some(Place::Running), Some(Place::Waiting(0))));
    }

    #[test]
    fn who_stops_waiting_leaves_at_once_and_takes_no_turn() {
        let mut line = Line::new(1, 8);
        assert!((1..=4).all(|id| line.enter(id).is_some()));
        line.leave(2, None);
        assert_eq!((line.place(2), line.place(3)), (None, Some(Place::Waiting(0))));
        assert_eq!((line.place(4), line.n_waiting()), (Some(Place::Waiting(1)), 2));
        line.leave(1, None);
        assert_eq!(line.place(3), Some(Place::Running));
        line.leave(1, None);
        assert_eq!(line.place(4), Some(Place::Waiting(0)), "nobody leaves twice");
    }

    #[test]
    fn another_number_holds_for_those_who_wait_and_not_for_those_who_run() {
        let mut line = Line::new(1, 8);
        assert!((1..=6).all(|id| line.enter(id).is_some()));
        line.set_parallel(3);
        assert_eq!((line.place(3), line.place(4)), (Some(Place::Running), Some(Place::Waiting(0))));
        line.set_parallel(1);
        line.leave(1, None);
        line.leave(2, None);
        assert_eq!((line.place(3), line.place(4)), (Some(Place::Running), Some(Place::Waiting(0))));
        line.leave(3, None);
        assert_eq!(line.place(4), Some(Place::Running));
    }

    #[test]
    fn no_more_run_at_once_than_there_is_memory_for() {
        let mut line = Line::new(4, 8);
        line.set_fitting(2);
        assert!((1..=6).all(|id| line.enter(id).is_some()));
        assert_eq!((line.place(2), line.place(3)), (Some(Place::Running), Some(Place::Waiting(0))));
        line.leave(1, None);
        line.set_fitting(0);
        assert_eq!((line.place(3), line.place(4)), (Some(Place::Running), Some(Place::Waiting(0))));
        line.leave(2, None);
        assert_eq!(line.place(4), Some(Place::Waiting(0)), "one, though there is memory for none");
        line.set_fitting(100);
        assert_eq!(line.place(6), Some(Place::Running));
        assert_eq!(
            (line.enter(7), line.place(7)),
            (Some(Place::Waiting(0)), Some(Place::Waiting(0)))
        );
    }

    #[test]
    fn a_full_line_takes_nobody_in() {
        let mut line = Line::new(1, 2);
        assert!((1..=3).all(|id| line.enter(id).is_some()));
        assert_eq!((line.enter(4), line.n_waiting()), (None, 2));
        assert_eq!(line.place(4), None);
        line.leave(3, None);
        assert_eq!(line.enter(5), Some(Place::Waiting(1)));
    }

    #[test]
    fn when_to_ask_again_follows_from_how_long_answers_take() {
        let mut line = Line::new(4, 0);
        assert_eq!(line.retry_after(), Duration::from_secs(5), "nothing is known yet");
        line.enter(1);
        line.leave(1, Some(Duration::from_secs(80)));
        assert_eq!(line.retry_after(), Duration::from_secs(20));
        line.enter(2);
        line.leave(2, Some(Duration::from_secs(40)));
        assert_eq!(line.retry_after(), Duration::from_secs(17), "(80 - 0.3 * 40) / 4");
        for id in 3..40 {
            line.enter(id);
            line.leave(id, Some(Duration::from_micros(1)));
        }
        assert_eq!(line.retry_after(), Duration::from_secs(1));
    }

    /// No order of comings and goings leaves a place free while somebody waits, nor lets one overtake another.
    #[test]
    fn no_place_is_free_while_somebody_waits() {
        let mut dice = 7_u64;
        for n_parallel in 1..4 {
            let mut line = Line::new(n_parallel, 5);
            let mut here: BTreeSet<u64> = BTreeSet::new();
            let mut n_started = 0;
            for id in 0..4000 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let roll = usize::try_from(dice >> 40).expect("24 bits");
                if roll.is_multiple_of(2) {
                    let is_full = here.len() == n_parallel + 5;
                    assert_eq!(line.enter(id).is_none(), is_full);
                    here.extend((!is_full).then_some(id));
                } else if let Some(&gone) = here.iter().nth(roll / 2 % here.len().max(1)) {
                    line.leave(gone, None);
                    here.remove(&gone);
                }
                let is_running = |id: &&u64| line.place(**id) == Some(Place::Running);
                let n_running = here.iter().filter(is_running).count();
                assert_eq!(n_running, here.len().min(n_parallel));
                assert_eq!(line.n_waiting(), here.len() - n_running);
                let newest = here.iter().filter(is_running).max().copied();
                n_started = n_started.max(newest.unwrap_or(0));
                assert!(here.iter().all(|id| is_running(&id) || *id > n_started), "overtaken");
            }
        }
    }

    #[tokio::test]
    async fn waiters_are_told_where_they_stand_and_called_in_turn() {
        let (queues, instance) = (Queues::new(1), InstanceId(1));
        let first = queues.enter(instance, usize::MAX).expect("room");
        let (sender, mut events) = mpsc::channel(8);
        let mut tasks = tokio::task::JoinSet::new();
        let (done, mut order) = mpsc::channel(8);
        for name in ["second", "third"] {
            let mut turn = queues.enter(instance, usize::MAX).expect("room");
            let (sender, done) = (sender.clone(), done.clone());
            tasks.spawn(async move {
                assert!(turn.come(&sender).await);
                done.send(name).await.expect("listened to");
            });
        }
        let mut positions = Vec::new();
        for _ in 0..2 {
            let Some(Event::Queued { position }) = events.recv().await else { panic!("queued") };
            positions.push(position);
        }
        positions.sort_unstable();
        assert_eq!((positions, queues.n_waiting(instance)), (vec![0, 1], 2));
        assert!(
            queues.enter(InstanceId(2), usize::MAX).expect("room").come(&sender).await,
            "its own line"
        );
        drop(first);
        assert_eq!((order.recv().await, order.recv().await), (Some("second"), Some("third")));
        while let Some(task) = tasks.join_next().await {
            task.expect("no panic");
        }
        assert_eq!(queues.n_waiting(instance), 0);
    }

    #[tokio::test]
    async fn a_waiter_whose_client_goes_away_leaves_the_line() {
        let (queues, instance) = (Queues::new(1), InstanceId(1));
        let _first = queues.enter(instance, usize::MAX).expect("room");
        let (sender, events) = mpsc::channel(8);
        let mut turn = queues.enter(instance, usize::MAX).expect("room");
        drop(events);
        assert!(!turn.come(&sender).await);
        drop(turn);
        assert_eq!(queues.n_waiting(instance), 0);
    }

    #[test]
    fn too_many_are_refused_and_told_when_to_come_back() {
        let (queues, instance) = (Queues::new(1), InstanceId(1));
        let turns: Vec<Turn> =
            (0..=WAITING_MAX).map(|_| queues.enter(instance, usize::MAX).expect("room")).collect();
        let refused = queues.enter(instance, usize::MAX).expect_err("full");
        assert!(matches!(refused, Error::Overloaded { n_waiting: WAITING_MAX, .. }), "{refused}");
        drop(turns);
        assert!(queues.enter(instance, usize::MAX).is_ok());
    }
}
