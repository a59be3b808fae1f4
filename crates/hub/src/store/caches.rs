//! Models that other programs keep on this device. They are used where they lie, and nothing is ever written there.

mod hf_cache;
mod ollama;

use super::{StoreConfig, StoredModel, hashes::Index};

/// The models of all caches.
pub(super) fn list(config: &StoreConfig, index: &Index) -> Vec<StoredModel> {
    let hf_cache = config.hf_cache.iter().flat_map(|root| hf_cache::list(root, index));
    hf_cache.chain(config.ollama.iter().flat_map(|root| ollama::list(root))).collect()
}
