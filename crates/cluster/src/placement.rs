//! Which node runs which layers.
//!
//! A placement is a cut of the layers into consecutive ranges, one for each node in a given order. Among the cuts that fit
//! each node's memory it takes the one whose heaviest stage is lightest: with nodes of one speed that is the cut with the
//! shortest time per token of a filled pipeline, and the one that leaves the most memory free. (Measured speeds and links
//! come with the planner.)

use shoal_proto::{
    LayerRange, NodeId,
    control::{Placement, Stage},
};

/// A node that can take layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Memory that it gives to this model, in bytes.
    pub memory_bytes: u64,
}

/// What the layers of a model weigh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Bytes of each layer: weights and KV cache for the context, `[n_layer]`.
    pub layer_bytes: Vec<u64>,
    /// Bytes of the token embedding, at the first stage.
    pub embedding_bytes: u64,
    /// Bytes of the head, at the last stage.
    pub head_bytes: u64,
}

/// Why a model cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Fewer nodes than asked for.
    #[error("placement over {wanted} nodes: only {got} available")]
    NotEnoughNodes {
        /// Nodes asked for.
        wanted: usize,
        /// Nodes that could take part.
        got: usize,
    },
    /// Every stage needs a layer.
    #[error("placement over {wanted} nodes: the model has only {n_layer} layers")]
    TooFewLayers {
        /// Nodes asked for.
        wanted: usize,
        /// Layers of the model.
        n_layer: usize,
    },
    /// No cut fits.
    #[error(
        "placement: the model needs {needed_bytes} bytes, the nodes give {given_bytes} and no cut of its layers fits each of them"
    )]
    DoesNotFit {
        /// Bytes of the whole model.
        needed_bytes: u64,
        /// Bytes of all nodes.
        given_bytes: u64,
    },
}

impl ModelShape {
    fn stage_bytes(&self, start: usize, end: usize) -> u64 {
        let layers: u64 = self.layer_bytes[start..end].iter().sum();
        let embedding = if start == 0 { self.embedding_bytes } else { 0 };
        let head = if end == self.layer_bytes.len() { self.head_bytes } else { 0 };
        layers + embedding + head
    }
}

/// Cuts a model's layers over the first `n_nodes` of `nodes`, in their order.
///
/// # Errors
/// If there are too few nodes or layers, or no cut fits the nodes' memory.
pub fn place(
    shape: &ModelShape,
    nodes: &[Candidate],
    n_nodes: usize,
) -> Result<Placement, PlaceError> {
    let n_layer = shape.layer_bytes.len();
    if n_nodes == 0 || n_nodes > nodes.len() {
        return Err(PlaceError::NotEnoughNodes { wanted: n_nodes, got: nodes.len() });
    }
    if n_nodes > n_layer {
        return Err(PlaceError::TooFewLayers { wanted: n_nodes, n_layer });
    }
    let nodes = &nodes[..n_nodes];
    // best[k][end]: the lightest possible heaviest stage when the first k + 1 nodes take the layers 0..end, and where the
    // last of these stages starts. Exact by dynamic programming: O(n_nodes · n_layer²) on at most some hundred layers.
    let mut best: Vec<Vec<Option<(u64, usize)>>> = Vec::with_capacity(n_nodes);
    for (k, node) in nodes.iter().enumerate() {
        let row = (0..=n_layer)
            .map(|end| {
                let starts = if k == 0 { 0..=0 } else { k..=end.saturating_sub(1) };
                starts
                    .filter(|&start| start < end)
                    .filter_map(|start| {
                        let before = if k == 0 { 0 } else { best[k - 1][start]?.0 };
                        let bytes = shape.stage_bytes(start, end);
                        (bytes <= node.memory_bytes).then_some((before.max(bytes), start))
                    })
                    .min_by_key(|&(heaviest, start)| (heaviest, std::cmp::Reverse(start)))
            })
            .collect();
        best.push(row);
    }
    let mut stages = Vec::with_capacity(n_nodes);
    let mut end = n_layer;
    for (k, node) in nodes.iter().enumerate().rev() {
        let Some((_, start)) = best[k][end] else {
            return Err(PlaceError::DoesNotFit {
                needed_bytes: shape.stage_bytes(0, n_layer),
                given_bytes: nodes.iter().map(|node| node.memory_bytes).sum(),
            });
        };
        let [from, to] = [start, end].map(|at| u32::try_from(at).expect("layers are few"));
        let layers = LayerRange::new(from, to).expect("every stage has a layer");
        stages.push(Stage { node: node.node, layers });
        end = start;
    }
    stages.reverse();
    Ok(Placement { stages })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(memory: &[u64]) -> Vec<Candidate> {
        let node = |(i, &memory_bytes): (usize, &u64)| Candidate {
            node: NodeId([u8::try_from(i).expect("few"); 32]),
            memory_bytes,
        };
        memory.iter().enumerate().map(node).collect()
    }

    fn shape(n_layer: usize) -> ModelShape {
        ModelShape { layer_bytes: vec![10; n_layer], embedding_bytes: 5, head_bytes: 20 }
    }

    #[track_caller]
    fn check(shape: &ModelShape, memory: &[u64], expected: &[(u32, u32)]) {
        let placement = place(shape, &nodes(memory), memory.len()).expect("fits");
        let got: Vec<(u32, u32)> =
            placement.stages.iter().map(|stage| stage.layers.into()).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn balances_bytes_with_the_head_counted() {
        check(&shape(6), &[1000], &[(0, 6)]);
        check(&shape(6), &[1000, 1000], &[(0, 4), (4, 6)]);
        check(&shape(6), &[1000, 1000, 1000], &[(0, 2), (2, 5), (5, 6)]);
    }

    #[test]
    fn respects_each_nodes_memory() {
        check(&shape(6), &[16, 1000], &[(0, 1), (1, 6)]);
        let error = place(&shape(6), &nodes(&[16, 40]), 2).expect_err("too big");
        assert_eq!(error, PlaceError::DoesNotFit { needed_bytes: 85, given_bytes: 56 });
    }

    #[test]
    fn refuses_more_nodes_than_there_are_or_than_layers() {
        assert_eq!(
            place(&shape(6), &nodes(&[9]), 2),
            Err(PlaceError::NotEnoughNodes { wanted: 2, got: 1 })
        );
        assert_eq!(
            place(&shape(2), &nodes(&[99, 99, 99]), 3),
            Err(PlaceError::TooFewLayers { wanted: 3, n_layer: 2 })
        );
    }

    #[test]
    fn is_optimal_against_brute_force() {
        let mut random = 1u64;
        let mut next = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        for _ in 0..300 {
            let n_layer = next(7) as usize + 1;
            let shape = ModelShape {
                layer_bytes: (0..n_layer).map(|_| next(20) + 1).collect(),
                embedding_bytes: next(20),
                head_bytes: next(20),
            };
            let nodes = nodes(&(0..next(3) + 1).map(|_| next(80) + 10).collect::<Vec<_>>());
            let heaviest = |cuts: &[usize]| {
                cuts.windows(2).zip(&nodes).try_fold(0, |heaviest, (cut, node)| {
                    let bytes = (cut[0] < cut[1]).then(|| shape.stage_bytes(cut[0], cut[1]))?;
                    (bytes <= node.memory_bytes).then_some(heaviest.max(bytes))
                })
            };
            let inner = (0..=n_layer).flat_map(|a| (0..=n_layer).map(move |b| [a, b]));
            let brute = inner
                .filter_map(|[a, b]| match nodes.len() {
                    1 => heaviest(&[0, n_layer]),
                    2 => heaviest(&[0, a, n_layer]),
                    _ => heaviest(&[0, a, b, n_layer]),
                })
                .min();
            let placed = place(&shape, &nodes, nodes.len()).ok().map(|placement| {
                let mut cuts = vec![0];
                cuts.extend(placement.stages.iter().map(|stage| stage.layers.end() as usize));
                heaviest(&cuts).expect("a placement fits its nodes")
            });
            assert_eq!(placed, brute);
        }
    }
}
