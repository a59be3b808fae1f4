//! Other lives of this very node: earlier ones, which it has to outrank, and one at the same time, which is a mistake.

/// How often one other life has to outrank this one before it is believed to go on. An earlier life is told of in few versions:
/// those that peers remember who slept through the later ones.
const OUTRANKED_MIN: u32 = 4;

/// What is known of another life of this node.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OtherLife {
    /// Version that outranks all that were seen.
    floor: u64,
    run: Option<u64>,
    n_outranked: u32,
}

impl OtherLife {
    /// A record of this node that this life did not write.
    pub(super) fn seen(&mut self, run: u64, version: u64) {
        if version < self.floor {
            return;
        }
        self.n_outranked =
            if self.run == Some(run) { self.n_outranked.saturating_add(1) } else { 1 };
        self.run = Some(run);
        self.floor = version.saturating_add(1);
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn duplicate(&self) -> Option<u64> {
        self.run.filter(|_| self.n_outranked >= OUTRANKED_MIN)
    }
}
