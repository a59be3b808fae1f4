//! After a restart: the stages that this node ran are loaded again, under the epoch that they had.
//!
//! As long as no newer epoch is known, nothing has to be placed: where all nodes of an instance come back, each with its own
//! stage, it answers as before. Where the others went on without this node, they say so as soon as they are met, and what was
//! loaded here ends as every outdated stage does.

use std::time::Duration;

use shoal_proto::control::{InstanceRecord, Phase, StageRecord};
use tracing::{info, warn};

use crate::{Error, Node, node::Inner};

/// Longest time in which a stage has to be loaded again: whoever lacks bytes of it by then is better replaced.
const RESUME_TIMEOUT: Duration = Duration::from_secs(60);

impl Node {
    /// Loads the stages of an earlier life, each as a task of its own.
    pub(crate) fn resume_stages(&self, instances: Vec<InstanceRecord>) {
        let runs_here = |record: &InstanceRecord| {
            record.phase == Phase::Ready
                && record.placement.stages.iter().any(|stage| stage.node == self.id())
        };
        for record in instances.into_iter().filter(runs_here) {
            let inner = self.share();
            inner.instances.set_resuming(record.id, true);
            self.inner().spawn(async move {
                let loaded =
                    tokio::time::timeout(RESUME_TIMEOUT, inner.resume_stage(&record)).await;
                inner.instances.set_resuming(record.id, false);
                let model = &record.model.name;
                let error = match loaded {
                    Ok(Ok(())) => {
                        info!(%model, instance = %record.id, epoch = %record.epoch, "resumed");
                        // Requests that wait for it look again.
                        inner.peers().notify();
                        return;
                    }
                    Ok(Err(error)) => crate::error::chain(&error),
                    Err(_) => format!("not loaded within {} s", RESUME_TIMEOUT.as_secs()),
                };
                warn!(%model, instance = %record.id, error, "not resumed");
                // Its coordinator sees that nobody runs it, and finds somebody.
                if inner.instances.clear_stage(record.id, record.epoch) {
                    inner.publish_stages();
                }
            });
        }
    }
}

impl Inner {
    async fn resume_stage(&self, record: &InstanceRecord) -> Result<(), Error> {
        let opened = self.open(&record.model).await?;
        let stages = &record.placement.stages;
        let stage = stages.iter().find(|stage| stage.node == self.peers().id());
        let Some(stage) = stage else { return Err(Error::UnknownInstance { id: record.id }) };
        // Published before it is there, so that the others do not place it anew while it loads.
        let n_bytes = opened.stage_bytes(stage.layers, record.n_ctx);
        let (instance, epoch, layers) = (record.id, record.epoch, stage.layers);
        self.instances.set_stage(instance, Some(StageRecord { instance, epoch, layers, n_bytes }));
        self.publish_stages();
        self.load(record).await
    }
}
