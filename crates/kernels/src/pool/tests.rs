//! Every item once, whatever the threads do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::Pool;

#[track_caller]
fn check(pool: &Pool, n_items: usize, chunk: usize) {
    let seen: Vec<AtomicUsize> = (0..n_items).map(|_| AtomicUsize::new(0)).collect();
    pool.run(n_items, chunk, |range| {
        assert!(range.len() <= chunk.max(1) && !range.is_empty());
        for i in range {
            seen[i].fetch_add(1, Relaxed);
        }
    });
    assert!(seen.iter().all(|seen| seen.load(Relaxed) == 1), "{pool:?} {n_items} {chunk}");
}

#[test]
fn hands_out_every_item_once() {
    for n_threads in [0, 1, 2, 5, 32] {
        let pool = Pool::new(n_threads);
        assert_eq!(pool.n_threads(), n_threads.max(1));
        for n_items in [0, 1, 2, 7, 1000] {
            for chunk in [0, 1, 3, 2000] {
                check(&pool, n_items, chunk);
            }
        }
    }
}

#[test]
fn many_short_dispatches_lose_nothing() {
    for n_threads in [2, 16] {
        let pool = Pool::new(n_threads);
        // Plain memory, written by workers and read by the caller: what the orderings are for.
        let mut values = vec![0u64; 64];
        for round in 1..3000 {
            let shares = crate::compute::Shares::new(&mut values);
            pool.run(64, 1, |range| {
                // SAFETY: ranges of a dispatch are disjoint, and `values` is not used before it is over.
                let part = unsafe { shares.part(range) };
                part[0] += 1;
            });
            assert!(values.iter().all(|value| *value == round));
        }
    }
}

#[test]
fn sleeping_workers_wake_up() {
    let pool = Pool::new(3);
    for _ in 0..20 {
        // Longer than a worker spins.
        let start = std::time::Instant::now();
        while start.elapsed() < super::SPIN * 3 {
            std::thread::yield_now();
        }
        check(&pool, 50, 1);
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    for n_threads in [1, 2, 5] {
        let pool = Pool::new(n_threads);
        for at in [0, 50, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, 1, |range| assert!(range.start != at, "item {at}"));
            }));
            let message = result.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*message, format!("item {at}"));
            check(&pool, 100, 1);
        }
    }
}

#[test]
fn nested_dispatches_run_inline() {
    let pool = Pool::new(3);
    let count = AtomicUsize::new(0);
    pool.run(10, 1, |_| {
        pool.run(10, 1, |range| {
            count.fetch_add(range.len(), Relaxed);
        });
    });
    assert_eq!(count.load(Relaxed), 100);
}

#[test]
fn two_threads_may_dispatch_at_once() {
    let pool = Pool::new(3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    check(&pool, 40, 1);
                }
            });
        }
    });
}

#[test]
fn progress_is_seen_from_another_thread() {
    let pool = Pool::new(2);
    let progress = pool.progress();
    assert_eq!(progress.n_dispatches(), 0);
    pool.run(10, 1, |_| ());
    pool.run(1, 1, |_| ());
    pool.run(0, 1, |_| ());
    assert_eq!(std::thread::spawn(move || progress.n_dispatches()).join().expect("it counts"), 2);
}
