//! Which layers of which models this device holds on its disk, for planners: who has the bytes need not fetch them.

use std::time::Duration;

use shoal_engine::Model;
use shoal_hub::{Library, ModelState, StoredModel};
use shoal_proto::{ChunkSet, LayerRange, control::HeldModel, model::CHUNK_BYTES};
use tracing::debug;

use crate::node::Inner;

/// Between two looks at the disk while downloads change.
const INTERVAL: Duration = Duration::from_secs(2);
/// Most models that a node publishes; more would swell its record.
const MODELS_MAX: usize = 64;

/// Publishes what the disk holds, at the beginning and after downloads.
pub(crate) async fn publish(inner: std::sync::Arc<Inner>) {
    let Some(library) = inner.library().cloned() else { return };
    let mut changes = library.changes();
    loop {
        changes.mark_unchanged();
        let stored = library.list().await;
        let library_of_task = library.clone();
        let held = tokio::task::spawn_blocking(move || held(&library_of_task, &stored)).await;
        if let Ok(held) = held {
            inner.peers().set_models(held);
        }
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn held(library: &Library, stored: &[StoredModel]) -> Vec<HeldModel> {
    let held = stored.iter().filter_map(|stored| {
        let layers = layers_held(library, stored);
        let is_whole = stored.state == ModelState::Whole;
        (!layers.is_empty()).then(|| HeldModel { name: stored.name.clone(), is_whole, layers })
    });
    held.take(MODELS_MAX).collect()
}

/// The layers of which every byte is there.
fn layers_held(library: &Library, stored: &StoredModel) -> Vec<LayerRange> {
    let model = match library.open_model(stored).map(|gguf| Model::new(gguf.into())) {
        Ok(Ok(model)) => model,
        // What cannot be run is of no use to a planner.
        Ok(Err(error)) => return none(&stored.name, &error),
        Err(error) => return none(&stored.name, &error),
    };
    let n_layer = model.n_layer();
    if stored.state == ModelState::Whole {
        return LayerRange::new(0, n_layer).into_iter().collect();
    }
    let chunks = library.chunks_of(stored);
    let has = |file_idx: usize, start: u64, end: u64| {
        chunks.get(file_idx).is_some_and(|chunks| covers(chunks, start, end))
    };
    let has_layer = |layer: u32| {
        let one = LayerRange::new(layer, layer + 1).expect("one layer");
        let mut tensors = model.tensors_of(one);
        tensors.all(|it| has(it.file_idx, it.offset, it.offset + it.n_bytes))
    };
    ranges((0..n_layer).filter(|&layer| has_layer(layer)))
}

fn none(model: &str, error: &dyn std::error::Error) -> Vec<LayerRange> {
    debug!(model, error = crate::error::chain(error), "not counted as held");
    Vec::new()
}

/// Whether the bytes `[start, end)` of a file lie in chunks that are there.
fn covers(chunks: &ChunkSet, start: u64, end: u64) -> bool {
    let index = |chunk: u64| u32::try_from(chunk).unwrap_or(u32::MAX);
    chunks.contains_range(index(start / CHUNK_BYTES)..index(end.div_ceil(CHUNK_BYTES)))
}

/// Joins consecutive layers to ranges.
fn ranges(layers: impl Iterator<Item = u32>) -> Vec<LayerRange> {
    let mut ranges: Vec<LayerRange> = Vec::new();
    for layer in layers {
        match ranges.last_mut() {
            Some(last) if last.end() == layer => {
                *last = LayerRange::new(last.start(), layer + 1).expect("longer by one");
            }
            _ => ranges.push(LayerRange::new(layer, layer + 1).expect("one layer")),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_layers_are_one_range() {
        let range = |start, end| LayerRange::new(start, end).expect("not empty");
        assert_eq!(ranges([0, 1, 2, 5, 7, 8].into_iter()), [range(0, 3), range(5, 6), range(7, 9)]);
        assert_eq!(ranges(std::iter::empty()), []);
    }

    #[test]
    fn a_missing_chunk_is_a_missing_layer() {
        let mut chunks = ChunkSet::all(4);
        chunks.remove(2);
        assert!(covers(&chunks, 0, 2 * CHUNK_BYTES));
        assert!(!covers(&chunks, 0, 2 * CHUNK_BYTES + 1));
        assert!(covers(&chunks, 3 * CHUNK_BYTES, 4 * CHUNK_BYTES));
    }
}
