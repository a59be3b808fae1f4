//! Sequences between requests: a chat's next turn begins with the text of the last, so the stages keep the KV caches of
//! sequences that have just ended, and a request takes over the one whose tokens it shares most of.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use shoal_proto::{InstanceId, SequenceId, TokenId};

/// Ended sequences that are kept for each instance. Each holds KV cache at every stage: a phone can afford few.
const IDLE_MAX: usize = 4;

#[derive(Debug)]
struct Idle {
    sequence: SequenceId,
    tokens: Vec<TokenId>,
}

/// The sequences that this node drives.
#[derive(Debug)]
pub(crate) struct Sequences {
    next: Mutex<u64>,
    /// Ended sequences, the oldest first.
    idle: Mutex<HashMap<InstanceId, Vec<Idle>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sequences {
    /// Returns an empty set whose numbers begin at `first`: a node that restarts must not meet the ids of its former life.
    pub(crate) fn new(first: u64) -> Self {
        Self { next: Mutex::new(first), idle: Mutex::default() }
    }

    /// Returns a sequence for `prompt`, and how many of the prompt's tokens its KV caches are believed to hold: a stage that was
    /// placed anew since holds none, and says so.
    pub(crate) fn take(&self, instance: InstanceId, prompt: &[TokenId]) -> (SequenceId, usize) {
        let mut idle = lock(&self.idle);
        let kept = idle.entry(instance).or_default();
        let shared = |idle: &Idle| {
            idle.tokens.iter().zip(prompt).take_while(|(held, wanted)| held == wanted).count()
        };
        let best = (0..kept.len()).max_by_key(|&i| shared(&kept[i]));
        match best.map(|i| (i, shared(&kept[i]))) {
            // A new sequence costs nothing while there is room; an old one is overwritten once there is none.
            Some((i, n_shared)) if n_shared > 0 || kept.len() >= IDLE_MAX => {
                (kept.remove(i).sequence.next_use(), n_shared)
            }
            _ => {
                let mut next = lock(&self.next);
                *next += 1;
                (SequenceId::first(*next), 0)
            }
        }
    }

    /// Keeps an ended sequence of which the stages hold `tokens`. Returns a sequence to be closed, if there are too many.
    pub(crate) fn keep(
        &self,
        instance: InstanceId,
        sequence: SequenceId,
        tokens: Vec<TokenId>,
    ) -> Option<SequenceId> {
        let mut idle = lock(&self.idle);
        let kept = idle.entry(instance).or_default();
        kept.push(Idle { sequence, tokens });
        (kept.len() > IDLE_MAX).then(|| kept.remove(0).sequence)
    }

    /// The ended sequences that are kept.
    pub(crate) fn kept(&self) -> Vec<(InstanceId, SequenceId)> {
        let idle = lock(&self.idle);
        let of = |(&id, kept): (&InstanceId, &Vec<Idle>)| {
            kept.iter().map(move |idle| (id, idle.sequence)).collect::<Vec<_>>()
        };
        idle.iter().flat_map(of).collect()
    }

    /// Forgets the sequences of an instance that is gone.
    pub(crate) fn forget(&self, instance: InstanceId) {
        lock(&self.idle).remove(&instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: InstanceId = InstanceId(1);

    #[test]
    fn the_next_turn_takes_over_the_last_ones_cache() {
        let sequences = Sequences::new(0);
        let (first, n_cached) = sequences.take(INSTANCE, &[1, 2, 3]);
        assert_eq!(n_cached, 0);
        assert_eq!(sequences.keep(INSTANCE, first, vec![1, 2, 3, 4]), None);
        assert_eq!(sequences.take(INSTANCE, &[1, 2, 3, 9, 9]), (first.next_use(), 3));
        let (other, n_cached) = sequences.take(INSTANCE, &[1, 2, 3]);
        assert_ne!(other, first, "it is in use");
        assert_eq!(n_cached, 0);
    }

    #[test]
    fn keeps_no_more_than_a_few() {
        let sequences = Sequences::new(0);
        let all: Vec<SequenceId> = (0..8).map(|i| sequences.take(INSTANCE, &[i]).0).collect();
        let closed: Vec<SequenceId> = all
            .iter()
            .filter_map(|&sequence| sequences.keep(INSTANCE, sequence, vec![7]))
            .collect();
        assert_eq!(closed, all[..4]);
    }
}
