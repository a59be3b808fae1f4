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
    let mut seen = Seen::default();
    loop {
        changes.mark_unchanged();
        let stored = library.list().await;
        let library_of_task = library.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let held = seen.look(stored, |stored| layers_held(&library_of_task, stored));
            (seen, held)
        });
        seen = match looked.await {
            Ok((seen, held)) => {
                inner.peers().set_models(held);
                seen
            }
            Err(_) => Seen::default(),
        };
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What the last look found. While one model is downloaded the others stay as they are, and to read their headers again every
/// time, with vocabularies of megabytes, would keep a phone busy.
#[derive(Debug, Default)]
struct Seen(Vec<(StoredModel, Vec<LayerRange>)>);

impl Seen {
    /// Returns what is held of the models that are stored now; asks `layers_of` about those that have changed.
    fn look(
        &mut self,
        stored: Vec<StoredModel>,
        layers_of: impl Fn(&StoredModel) -> Vec<LayerRange>,
    ) -> Vec<HeldModel> {
        let looked = stored.into_iter().map(|stored| {
            let known = self.0.iter().find(|(known, _)| *known == stored);
            let layers = known.map_or_else(|| layers_of(&stored), |(_, layers)| layers.clone());
            (stored, layers)
        });
        self.0 = looked.collect();
        let held = self.0.iter().filter(|(_, layers)| !layers.is_empty());
        let model = |(stored, layers): &(StoredModel, Vec<LayerRange>)| HeldModel {
            name: stored.name.clone(),
            is_whole: stored.state == ModelState::Whole,
            layers: layers.clone(),
        };
        held.take(MODELS_MAX).map(model).collect()
    }
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
    fn only_what_has_changed_is_looked_into() {
        let stored = |name: &str, n_bytes_on_disk| StoredModel {
            name: name.to_owned(),
            dir: "/models".into(),
            files: Vec::new(),
            place: shoal_hub::Place::Own,
            state: ModelState::Partial { n_bytes: n_bytes_on_disk, n_total: 9 },
            manifest: None,
            n_bytes_on_disk,
            modified: std::time::UNIX_EPOCH,
        };
        let one = LayerRange::new(0, 1).expect("one layer");
        let looked_into = std::cell::RefCell::new(Vec::new());
        let layers_of = |stored: &StoredModel| {
            looked_into.borrow_mut().push(stored.name.clone());
            if stored.name == "broken" { Vec::new() } else { vec![one] }
        };
        let mut seen = Seen::default();
        let mut look = |models: &[(&str, u64)]| {
            let models = models.iter().map(|(name, n_bytes)| stored(name, *n_bytes)).collect();
            let held = seen.look(models, layers_of);
            let held: Vec<String> = held.into_iter().map(|held| held.name).collect();
            (held.join(" "), looked_into.take().join(" "))
        };
        let is = |held: &str, looked_into: &str| (held.to_owned(), looked_into.to_owned());
        assert_eq!(look(&[("a", 1), ("broken", 1), ("b", 1)]), is("a b", "a broken b"));
        assert_eq!(look(&[("a", 1), ("broken", 1), ("b", 2)]), is("a b", "b"));
        assert_eq!(look(&[("b", 2)]), is("b", ""));
        assert_eq!(look(&[("a", 1), ("b", 2)]), is("a b", "a"), "what was gone is forgotten");
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
