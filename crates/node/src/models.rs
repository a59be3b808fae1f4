//! Models that this node has opened: header checked, tokenizer and template built, no weight touched.

use std::{collections::HashMap, sync::Arc};

use shoal_engine::Model;
use shoal_hub::Source;
use shoal_proto::{LayerRange, control::ModelRef};
use shoal_tokenizer::{ChatTemplate, Tokenizer};
use tokio::sync::Mutex;

use crate::Error;

/// A model, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where it comes from.
    pub(crate) source: Source,
    /// Its checked header.
    pub(crate) model: Arc<Model>,
    /// Its tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// Its chat template, or why it has none that works.
    pub(crate) template: Result<ChatTemplate, shoal_tokenizer::Error>,
}

impl Opened {
    fn open(name: &str) -> Result<Self, Error> {
        let unusable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Model {
            name: name.to_owned(),
            source: Arc::from(source),
        };
        let source = shoal_hub::open(name).map_err(|error| unusable(error.into()))?;
        let model = Model::new(Arc::clone(&source.gguf)).map_err(|error| unusable(error.into()))?;
        let metadata = source.gguf.metadata();
        let tokenizer =
            Tokenizer::from_metadata(metadata).map_err(|error| unusable(error.into()))?;
        let template = ChatTemplate::from_metadata(metadata, &tokenizer);
        Ok(Self { source, model, tokenizer, template })
    }

    /// How other nodes find the same model.
    pub(crate) fn reference(&self) -> ModelRef {
        ModelRef {
            name: self.source.name.clone(),
            files: None,
            fingerprint: self.source.fingerprint,
            n_layer: self.model.n_layer(),
        }
    }

    /// Bytes of a stage of it: weights, and KV cache for `n_ctx` positions.
    pub(crate) fn stage_bytes(&self, layers: LayerRange, n_ctx: u32) -> u64 {
        self.model.weight_bytes(layers) + self.model.kv_bytes(layers, n_ctx as usize)
    }
}

/// The models that are open, by name.
#[derive(Debug, Default)]
pub(crate) struct Models {
    opened: Mutex<HashMap<String, Arc<Opened>>>,
}

impl Models {
    /// Opens a model, or returns it if it is open.
    pub(crate) async fn open(&self, name: &str) -> Result<Arc<Opened>, Error> {
        // The lock is held while a model opens, so that two requests do not open it twice.
        let mut opened = self.opened.lock().await;
        if let Some(model) = opened.get(name) {
            return Ok(Arc::clone(model));
        }
        let wanted = name.to_owned();
        let model = tokio::task::spawn_blocking(move || Opened::open(&wanted)).await.map_err(
            |error| Error::StageFailed { message: format!("opening {name}: {error}") },
        )??;
        let model = Arc::new(model);
        opened.insert(model.source.name.clone(), Arc::clone(&model));
        if model.source.name != name {
            opened.insert(name.to_owned(), Arc::clone(&model));
        }
        Ok(model)
    }
}
