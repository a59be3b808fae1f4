//! No stage holds for ever what nobody will use: drivers ask now and then after the sequences that they keep for a chat's next
//! turn, and a stage forgets those that nobody has used or asked after for long. That frees what a lost goodbye leaves behind,
//! and what a step begins that arrives after its driver has gone.
//!
//! A sequence that is forgotten too early, since its driver slept, costs time and no token: the stage says that it holds
//! nothing, and the driver sends the log again.

use std::{sync::Arc, time::Duration};

use shoal_proto::{
    InstanceId, SequenceId,
    control::Phase,
    frame::{Body, Frame, FrameKey},
};

use crate::node::Inner;

/// How often a driver asks: one short frame for each kept sequence and stage.
const VOUCH_EVERY: Duration = Duration::from_secs(120);
/// How long a stage keeps what nobody asks after: five lost rounds.
const EXPIRE_AFTER: Duration = Duration::from_secs(600);

/// Asks after what this node's drivers keep, and ends what nobody asks after at its stages, as long as the node lives.
pub(crate) async fn keep(node: Arc<Inner>) {
    let mut ticks = tokio::time::interval(VOUCH_EVERY);
    loop {
        ticks.tick().await;
        node.vouch().await;
        node.router().expire(EXPIRE_AFTER).await;
    }
}

impl Inner {
    /// Asks each stage after the ended sequences that it is to keep, and forgets those of instances that are no more.
    pub(crate) async fn vouch(&self) {
        for (id, sequence) in self.sequences().kept() {
            self.vouch_for(id, sequence).await;
        }
    }

    async fn vouch_for(&self, id: InstanceId, sequence: SequenceId) {
        let record = self.peers().read(|state, _| state.instance(id).cloned());
        let record = match record {
            Some(record) if record.phase != Phase::Dropped => record,
            _ => return self.sequences().forget(id),
        };
        if record.phase != Phase::Ready {
            return;
        }
        let driver = self.peers().id();
        let key = FrameKey { instance: id, epoch: record.epoch, sequence, driver };
        for (stage, at) in (0..).zip(&record.placement.stages) {
            // Nobody waits for the answer: whoever uses the sequence next gives it another number.
            let body = Body::Probe { stage, n_tokens: 0 };
            self.router().send(at.node, Frame { key, body }).await;
        }
    }
}
