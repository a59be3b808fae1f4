//! Getting ready for layers that a node may have to run soon: their bytes are obtained and read into memory, and nothing else
//! happens. Who is ready loads a stage within the time that its tables take.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use shoal_proto::{
    InstanceId, LayerRange, NodeId,
    control::{InstanceRecord, ModelRef, Request, Response, Stage},
};
use tracing::{debug, info};

use crate::{Error, Node, models, models::Opened, node::Inner};

/// Longest wait for a peer's word that it gets ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of memory that one page has at least: touching one byte of each brings all of it in.
const PAGE_BYTES: usize = 4096;
/// Pages that are touched before others get their turn: reading ahead is not worth a stall of what runs.
const PAGES_AT_ONCE: usize = 4096;

impl Node {
    /// Has the nodes that would run an instance without some of its own get ready for it.
    pub(crate) async fn prepare(&self, instance: InstanceId, without: Vec<NodeId>) {
        let Some(record) = self.inner().ready(instance) else { return };
        let placement = match self.plan_again(&record, &without).await {
            Ok(placement) => placement,
            Err(error) => {
                debug!(%instance, %error, "nobody could take over");
                return;
            }
        };
        let names: Vec<String> = without.iter().map(NodeId::short).collect();
        info!(model = %record.model.name, %instance, suspects = ?names, "others get ready");
        let spare = InstanceRecord { placement, ..record.clone() };
        self.warm_everywhere(&record, &spare).await;
    }

    /// Sees that the nodes of a placement have what they need on disk, and asks them to read it.
    pub(crate) async fn make_ready(&self, record: &InstanceRecord) -> Result<(), Error> {
        self.obtain_everywhere(record).await?;
        if let Some(old) = self.inner().ready(record.id) {
            self.warm_everywhere(&old, record).await;
        }
        Ok(())
    }

    /// Asks the nodes whose layers a placement changes to get ready. Who does not answer will have to read later.
    async fn warm_everywhere(&self, old: &InstanceRecord, new: &InstanceRecord) {
        let is_new = |stage: &&Stage| !old.placement.stages.contains(stage);
        let asks = new.placement.stages.iter().filter(is_new).map(|stage| async {
            if stage.node == self.id() {
                self.share().start_warming(&new.model, stage.layers);
                return;
            }
            let request = Request::Warm { model: new.model.clone(), layers: stage.layers };
            let answer = self.inner().peers().ask(stage.node, &request, ANSWER_TIMEOUT).await;
            if !matches!(answer, Ok(Response::Ok)) {
                debug!(node = %stage.node.short(), ?answer, "node does not get ready");
            }
        });
        join_all(asks).await;
    }
}

impl Inner {
    /// Begins to get ready for a stage, in the background.
    pub(crate) fn start_warming(self: &Arc<Self>, model: &ModelRef, layers: LayerRange) {
        let (inner, model) = (Arc::clone(self), model.clone());
        self.spawn(async move {
            let name = model.name.clone();
            match inner.warm(&model, layers).await {
                Ok(n_bytes) => info!(model = name, %layers, n_bytes, "ready for layers"),
                Err(error) => {
                    let error = crate::error::chain(&error);
                    debug!(model = name, %layers, error, "not ready for layers");
                }
            }
        });
    }

    async fn warm(&self, model: &ModelRef, layers: LayerRange) -> Result<usize, Error> {
        let opened = self.open(model).await?;
        if opened.source.fingerprint != model.fingerprint {
            return Err(Error::DifferentModel { name: model.name.clone() });
        }
        if layers.end() > opened.model.n_layer() {
            let message = format!("layers {layers} are beyond the model");
            return Err(Error::StageFailed { message });
        }
        if let (Some(library), Some(files)) = (self.library(), &opened.files) {
            library.obtain(files, models::stage(layers)).await?;
        }
        let cancel = self.cancel().clone();
        let touched =
            tokio::task::spawn_blocking(move || touch(&opened, layers, || cancel.is_cancelled()));
        touched.await.map_err(|error| Error::StageFailed { message: error.to_string() })
    }
}

/// Reads a byte of every page of some layers. Returns how many bytes these have.
fn touch(opened: &Opened, layers: LayerRange, is_over: impl Fn() -> bool) -> usize {
    let gguf = opened.model.gguf();
    let mut n_bytes = 0;
    for tensor in opened.model.tensors_of(layers) {
        let Some(tensor) = gguf.tensor(&tensor.name) else { continue };
        let mut sum = 0u8;
        for pages in tensor.bytes.chunks(PAGES_AT_ONCE * PAGE_BYTES) {
            if is_over() {
                return n_bytes;
            }
            sum = pages.iter().step_by(PAGE_BYTES).fold(sum, |sum, byte| sum.wrapping_add(*byte));
            std::thread::yield_now();
            n_bytes += pages.len();
        }
        // Nothing is done with the sum, but the compiler must not know.
        std::hint::black_box(sum);
    }
    n_bytes
}
