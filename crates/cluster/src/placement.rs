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
        n_layer: u32,
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

/// Cuts a model's `n_layer` layers over the first `n_nodes` of `nodes`, in their order.
///
/// `stage_bytes` weighs a stage: its layers' weights and KV cache, with the embedding if it is the first and the head if it is
/// the last.
///
/// # Errors
/// If there are too few nodes or layers, or no cut fits the nodes' memory.
pub fn place(
    n_layer: u32,
    stage_bytes: impl Fn(LayerRange) -> u64,
    nodes: &[Candidate],
    n_nodes: usize,
) -> Result<Placement, PlaceError> {
    if n_nodes == 0 || n_nodes > nodes.len() {
        return Err(PlaceError::NotEnoughNodes { wanted: n_nodes, got: nodes.len() });
    }
    let as_layer = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    if as_layer(n_nodes) > n_layer {
        return Err(PlaceError::TooFewLayers { wanted: n_nodes, n_layer });
    }
    let nodes = &nodes[..n_nodes];
    // cuts[k][end]: the lightest possible heaviest stage when the first k + 1 nodes take the layers 0..end, and the last of
    // these stages. Exact by dynamic programming: O(n_nodes · n_layer²) on at most some hundred layers.
    let mut cuts: Vec<Vec<Option<(u64, LayerRange)>>> = Vec::with_capacity(n_nodes);
    for (k, node) in nodes.iter().enumerate() {
        let cut = |start: u32, end: u32| {
            let before = match k {
                0 => (start == 0).then_some(0)?,
                _ => cuts[k - 1][start as usize]?.0,
            };
            let layers = LayerRange::new(start, end).ok()?;
            let bytes = stage_bytes(layers);
            (bytes <= node.memory_bytes).then_some((before.max(bytes), layers))
        };
        let best = |end| (0..end).rev().filter_map(|start| cut(start, end)).min_by_key(|cut| cut.0);
        let row = (0..=n_layer).map(best).collect();
        cuts.push(row);
    }
    let mut stages = Vec::with_capacity(n_nodes);
    let mut end = n_layer;
    for (row, node) in cuts.iter().zip(nodes).rev() {
        let Some((_, layers)) = row[end as usize] else {
            let whole = LayerRange::new(0, n_layer).expect("at least as many layers as nodes");
            return Err(PlaceError::DoesNotFit {
                needed_bytes: stage_bytes(whole),
                given_bytes: nodes.iter().map(|node| node.memory_bytes).sum(),
            });
        };
        stages.push(Stage { node: node.node, layers });
        end = layers.start();
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

    /// Six layers of 10 bytes, an embedding of 5 and a head of 20.
    fn six_layers(layers: LayerRange) -> u64 {
        let embedding = if layers.has_embedding() { 5 } else { 0 };
        let head = if layers.has_head(6) { 20 } else { 0 };
        u64::from(layers.n_layer()) * 10 + embedding + head
    }

    #[track_caller]
    fn check(memory: &[u64], expected: &[(u32, u32)]) {
        let placement = place(6, six_layers, &nodes(memory), memory.len()).expect("fits");
        let got: Vec<(u32, u32)> =
            placement.stages.iter().map(|stage| stage.layers.into()).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn balances_bytes_with_the_head_counted() {
        check(&[1000], &[(0, 6)]);
        check(&[1000, 1000], &[(0, 4), (4, 6)]);
        check(&[1000, 1000, 1000], &[(0, 2), (2, 5), (5, 6)]);
    }

    #[test]
    fn respects_each_nodes_memory() {
        check(&[16, 1000], &[(0, 1), (1, 6)]);
        let error = place(6, six_layers, &nodes(&[16, 40]), 2).expect_err("too big");
        assert_eq!(error, PlaceError::DoesNotFit { needed_bytes: 85, given_bytes: 56 });
    }

    #[test]
    fn refuses_more_nodes_than_there_are_or_than_layers() {
        assert_eq!(
            place(6, six_layers, &nodes(&[9]), 2),
            Err(PlaceError::NotEnoughNodes { wanted: 2, got: 1 })
        );
        assert_eq!(
            place(2, six_layers, &nodes(&[99, 99, 99]), 3),
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
            let n_layer = u32::try_from(next(7) + 1).expect("small");
            let layer_bytes: Vec<u64> = (0..n_layer).map(|_| next(20) + 1).collect();
            let ends = [next(20), next(20)];
            let weigh = |layers: LayerRange| {
                let embedding = if layers.has_embedding() { ends[0] } else { 0 };
                let head = if layers.has_head(n_layer) { ends[1] } else { 0 };
                layers.iter().map(|i| layer_bytes[i as usize]).sum::<u64>() + embedding + head
            };
            let nodes = nodes(&(0..next(3) + 1).map(|_| next(80) + 10).collect::<Vec<_>>());
            let heaviest = |cuts: &[u32]| {
                cuts.windows(2).zip(&nodes).try_fold(0, |heaviest, (cut, node)| {
                    let bytes = weigh(LayerRange::new(cut[0], cut[1]).ok()?);
                    (bytes <= node.memory_bytes).then_some(heaviest.max(bytes))
                })
            };
            let brute = (0..=n_layer)
                .flat_map(|a| (0..=n_layer).map(move |b| [a, b]))
                .filter_map(|[a, b]| match nodes.len() {
                    1 => heaviest(&[0, n_layer]),
                    2 => heaviest(&[0, a, n_layer]),
                    _ => heaviest(&[0, a, b, n_layer]),
                })
                .min();
            let placed = place(n_layer, weigh, &nodes, nodes.len()).ok().map(|placement| {
                let ends = placement.stages.iter().map(|stage| stage.layers.end());
                let cuts: Vec<u32> = std::iter::once(0).chain(ends).collect();
                heaviest(&cuts).expect("a placement fits its nodes")
            });
            assert_eq!(placed, brute);
        }
    }
}
