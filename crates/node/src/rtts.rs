//! What the way to each peer takes at best.
//!
//! The transport's estimate is smoothed, and grows to several times its length while a peer computes and answers late. What has to be
//! predicted is the way to one that waits, so the shortest of the latest looks counts.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_proto::NodeId;

/// Looks that count, one a second: a link that has become slower is known to be so after half a minute.
const LOOKS_MAX: usize = 30;

/// The latest round trips to each peer.
#[derive(Debug, Default)]
pub(crate) struct Rtts {
    looks: Mutex<HashMap<NodeId, VecDeque<Duration>>>,
}

impl Rtts {
    /// Takes in what the round trips to all peers that live take now; others are forgotten.
    pub(crate) fn look(&self, now: &[(NodeId, Duration)]) {
        let mut all = self.lock();
        all.retain(|node, _| now.iter().any(|(alive, _)| alive == node));
        for &(node, rtt) in now {
            let looks = all.entry(node).or_default();
            if looks.len() >= LOOKS_MAX {
                looks.pop_front();
            }
            looks.push_back(rtt);
        }
    }

    /// The shortest of the latest round trips to a peer and of `now`.
    pub(crate) fn best(&self, node: NodeId, now: Duration) -> Duration {
        let all = self.lock();
        let looks = all.get(&node).into_iter().flatten();
        looks.copied().fold(now, Duration::min)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, VecDeque<Duration>>> {
        // Changed by single insertions and removals: whole even after a panic.
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_the_latest_looks_counts() {
        let (rtts, node) = (Rtts::default(), NodeId([1; 32]));
        let ms = Duration::from_millis;
        assert_eq!(rtts.best(node, ms(9)), ms(9), "nothing else is known");
        rtts.look(&[(node, ms(2)), (NodeId([2; 32]), ms(1))]);
        (1..LOOKS_MAX).for_each(|_| rtts.look(&[(node, ms(7))]));
        assert_eq!(rtts.best(node, ms(9)), ms(2));
        assert_eq!(rtts.best(node, ms(1)), ms(1));
        rtts.look(&[(node, ms(7))]);
        assert_eq!(rtts.best(node, ms(9)), ms(7), "too long ago");
        rtts.look(&[]);
        assert_eq!(rtts.best(node, ms(9)), ms(9), "it is gone");
    }
}
