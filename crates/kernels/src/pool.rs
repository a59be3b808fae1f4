//! The thread pool: a shared cursor, a bounded spin, then sleep.
//!
//! A forward pass is hundreds of short dispatches, a few microseconds apart. So the workers persist and spin for a moment
//! between dispatches, and the items of a dispatch are handed out in chunks from one atomic cursor, so that a slow
//! core takes fewer of them.
//!
//! The caller is worker 0. A dispatch ends when all items are done and every worker that *entered* it has left; a worker that
//! the operating system has not scheduled in time never enters and is not waited for. All of that is one word, `state`:
//!
//! ```text
//! epoch (48 bits) | open (1 bit) | workers inside (15 bits)
//! caller: job = f; state = (epoch + 1, open, 0)            wake sleepers
//! worker: (e, open, n) -> (e, open, n + 1); work; leave: n - 1
//! caller: work; clear open; wait until n = 0
//! ```
//!
//! # Memory ordering
//! - The job is written before the store that opens the epoch, and read after the compare-exchange that enters it. That
//!   store releases, that exchange acquires; exchanges by other workers in between are part of the release sequence.
//! - The job is written only while the epoch is closed and nobody is inside; nobody can enter a closed epoch, so no read
//!   races with the write.
//! - What a worker wrote becomes visible to the caller by the release in its leaving `fetch_sub` and the acquire in the caller's
//!   load that sees zero inside (all the leaving operations are in one release sequence).
//! - The cursor needs no order of its own: `fetch_add` gives each chunk to one thread whatever the order, and its reset
//!   happens before the epoch opens.
//! - Sleeping is the store-then-load pattern on two variables (sleepers and state), which needs `SeqCst` on both sides: either the
//!   caller sees the sleeper and notifies it under the lock, or the sleeper sees the open epoch and does not sleep.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread spins before it sleeps. The single-threaded work between dispatches of one forward pass takes a few
/// microseconds and waking a sleeper some ten to fifty, so this bridges a pass, and between requests costs nothing.
const SPIN: Duration = Duration::from_micros(80);
/// Spins between two looks at the clock, which takes about as long as twenty of them.
const SPINS_PER_LOOK: u32 = 64;

const INSIDE: u64 = (1 << 15) - 1;
const OPEN: u64 = 1 << 15;
const EPOCH: u64 = 1 << 16;
/// As many workers as `INSIDE` can count.
const MAX_THREADS: usize = 1 << 14;

/// A closure of some dispatch, whose borrow has been forgotten.
#[derive(Clone, Copy)]
struct Job {
    run: *const (dyn Fn(Range<usize>) + Sync),
    n_items: usize,
    chunk: usize,
}

/// Keeps two hot words out of one cache line (128: pairs of lines are fetched together on x86).
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    state: Padded<AtomicU64>,
    cursor: Padded<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    sleepers: AtomicUsize,
    caller_sleeps: AtomicBool,
    stop: AtomicBool,
    /// Guards nothing but the moment between deciding to sleep and sleeping.
    sleep: Mutex<()>,
    opened: Condvar,
    left: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    spin: Duration,
}

// SAFETY: `job` is the only part that is not `Sync` by itself. It is written only by the caller that holds the dispatch lock, while
// the epoch is closed and nobody is inside, and read only by workers inside (see the module's text). The closure it
// points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used only inside a dispatch, during which the closure is borrowed by the caller.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread is inside a dispatch; then another one runs inline.
    static INSIDE_DISPATCH: Cell<bool> = const { Cell::new(false) };
}

/// A thread pool whose calling thread is one of its workers.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    dispatch: Mutex<()>,
    n_dispatches: Arc<AtomicU64>,
}

/// How far a [`Pool`] has come, for who watches over it from another thread.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Dispatches that were begun since the pool exists. As long as this grows, something is computed.
    pub fn n_dispatches(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("n_threads", &self.n_threads()).finish()
    }
}

impl Pool {
    /// Starts `n_threads - 1` workers, at least none; the caller of [`run`](Self::run) is the other one.
    ///
    /// Workers that the operating system refuses to start are left out.
    pub fn new(n_threads: usize) -> Pool {
        // With more threads than cores a spinning one keeps a working one from its core.
        let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = if n_threads <= n_cores { SPIN } else { Duration::ZERO };
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
            cursor: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleep: Mutex::new(()),
            opened: Condvar::new(),
            left: Condvar::new(),
            panic: Mutex::new(None),
            spin,
        });
        let workers = (1..n_threads.min(MAX_THREADS))
            .filter_map(|i| {
                let shared = Arc::clone(&shared);
                let builder = std::thread::Builder::new().name(format!("shoal-compute-{i}"));
                builder.spawn(move || shared.work()).ok()
            })
            .collect();
        Pool { shared, workers, dispatch: Mutex::new(()), n_dispatches: Arc::default() }
    }

    /// Threads that work on a dispatch, the caller included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Tells how far the pool has come, for as long as it exists.
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.n_dispatches))
    }

    /// Calls `f` with ranges of at most `chunk` items that together are `0..n_items`, on all threads, and returns
    /// when all calls have returned.
    ///
    /// A dispatch inside a dispatch runs on its own thread alone; a second thread's dispatch waits for the first.
    ///
    /// # Panics
    /// If `f` panics on any thread, after all threads have left; items may have been left out then.
    pub fn run(&self, n_items: usize, chunk: usize, f: impl Fn(Range<usize>) + Sync) {
        let chunk = chunk.max(1);
        if n_items == 0 {
            return;
        }
        self.n_dispatches.fetch_add(1, Relaxed);
        if self.workers.is_empty() || n_items <= chunk || INSIDE_DISPATCH.get() {
            let mut start = 0;
            while start < n_items {
                let end = start.saturating_add(chunk).min(n_items);
                f(start..end);
                start = end;
            }
            return;
        }
        let _dispatch = lock(&self.dispatch);
        INSIDE_DISPATCH.set(true);
        let panic = self.shared.dispatch(n_items, chunk, &f);
        INSIDE_DISPATCH.set(false);
        drop(_dispatch);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.opened.notify_all();
        for worker in self.workers.drain(..) {
            // Workers catch panics, so there is nothing to pass on.
            let _ = worker.join();
        }
    }
}

/// Locks; a mutex here guards nothing that a panic could leave half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins until `done` or until `limit` has passed; says whether it is done.
fn spin_until(limit: Duration, done: impl Fn() -> bool) -> bool {
    if done() {
        return true;
    }
    if limit.is_zero() {
        return false;
    }
    let start = Instant::now();
    loop {
        for _ in 0..SPINS_PER_LOOK {
            std::hint::spin_loop();
            if done() {
                return true;
            }
        }
        if start.elapsed() > limit {
            return false;
        }
    }
}

impl Shared {
    /// Opens an epoch, works, closes it and waits until the workers have left. Only under the dispatch lock.
    fn dispatch<'a>(
        &self,
        n_items: usize,
        chunk: usize,
        f: &'a (dyn Fn(Range<usize>) + Sync + 'a),
    ) -> Option<Box<dyn Any + Send>> {
        // SAFETY: only the lifetime changes. The pointer is used by threads inside this epoch alone, and this function
        // returns (it cannot unwind: `take_chunks` catches) only after it has closed the epoch and seen nobody inside.
        let run: *const (dyn Fn(Range<usize>) + Sync + 'static) =
            unsafe { std::mem::transmute(std::ptr::from_ref(f)) };
        let job = Job { run, n_items, chunk };
        let epoch = (self.state.0.load(Relaxed) & !(OPEN | INSIDE)).wrapping_add(EPOCH);
        // SAFETY: the epoch is closed and nobody is inside, and the dispatch lock keeps other callers out.
        unsafe { *self.job.get() = Some(job) };
        self.cursor.0.store(0, Relaxed);
        self.state.0.store(epoch | OPEN, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.opened.notify_all();
        }
        self.take_chunks(job);
        self.state.0.fetch_and(!OPEN, SeqCst);
        let empty = || self.state.0.load(Acquire) & INSIDE == 0;
        if !spin_until(self.spin, empty) {
            let mut guard = lock(&self.sleep);
            // A swap, for emulators that let a plain store pass the load behind it, as no CPU does with these orderings.
            self.caller_sleeps.swap(true, SeqCst);
            while self.state.0.load(SeqCst) & INSIDE != 0 {
                guard = self.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.caller_sleeps.store(false, Relaxed);
        }
        lock(&self.panic).take()
    }

    /// Calls the job with chunks until none is left, or until a call has panicked.
    fn take_chunks(&self, job: Job) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let start = self.cursor.0.fetch_add(job.chunk, Relaxed);
                if start >= job.n_items {
                    return;
                }
                let end = start.saturating_add(job.chunk).min(job.n_items);
                // SAFETY: this thread is inside the epoch (or is its caller), so the closure is still borrowed.
                unsafe { (*job.run)(start..end) };
            }
        }));
        if let Err(panic) = result {
            self.cursor.0.store(job.n_items, Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// The life of a worker.
    fn work(&self) {
        INSIDE_DISPATCH.set(true);
        let mut last = 0;
        let is_new = |state: u64, last: u64| state & OPEN != 0 && state & !(OPEN | INSIDE) != last;
        loop {
            let ready = || is_new(self.state.0.load(Relaxed), last) || self.stop.load(Relaxed);
            if !spin_until(self.spin, ready) {
                self.sleep_until_opened(|state| is_new(state, last));
            }
            if self.stop.load(SeqCst) {
                return;
            }
            let state = self.state.0.load(Relaxed);
            if !is_new(state, last) {
                continue;
            }
            // On failure another worker entered or the epoch closed: look again.
            if self.state.0.compare_exchange_weak(state, state + 1, SeqCst, Relaxed).is_err() {
                continue;
            }
            last = state & !(OPEN | INSIDE);
            // SAFETY: inside the epoch nobody writes the job; the exchange acquired the store that opened it.
            if let Some(job) = unsafe { *self.job.get() } {
                self.take_chunks(job);
            }
            let before = self.state.0.fetch_sub(1, SeqCst);
            if before & (OPEN | INSIDE) == 1 && self.caller_sleeps.load(SeqCst) {
                drop(lock(&self.sleep));
                self.left.notify_all();
            }
        }
    }

    fn sleep_until_opened(&self, is_new: impl Fn(u64) -> bool) {
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, SeqCst);
        while !is_new(self.state.0.load(SeqCst)) && !self.stop.load(SeqCst) {
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}
