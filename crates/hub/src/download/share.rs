//! Who fetches what: the choice of the next chunks, from what this node misses and what its peers hold, want and are
//! fetching.
//!
//! What a peer holds is taken from it. What nobody holds is shared out: the file is cut into pieces, and each piece belongs to
//! the participant with the highest hash of (node, piece). Every node computes the same owners from the same participants
//! without a word being said, and a node that comes or goes moves only the pieces that become or were its own. A node that
//! has fetched its share helps from the end of the others'. A peer that gets nothing from outside owns nothing.

use std::{collections::HashMap, ops::Range};

use shoal_proto::{ChunkSet, NodeId, control::Holding};

/// Chunks of a piece, the unit that is shared out and the most that one request to a server asks for: 8 MiB, so that a round
/// trip and a redirect between requests weigh little.
pub(super) const PIECE_CHUNKS: u32 = 32;
/// Most chunks of one transfer from a peer: 4 MiB, so that several peers share even a small rest.
const TRANSFER_CHUNKS: u32 = 16;
/// Transfers from one peer at once: one that arrives and one that is being asked for.
const TRANSFERS_PER_PEER: usize = 2;
/// Pieces that a peer must have before it, for another node to help from its end: more than it begins at once, so that both do
/// not take the same one before they hear of each other.
const HELP_FROM: usize = 6;

/// What is known of a peer.
#[derive(Debug, Clone, Default)]
pub(super) struct PeerView {
    /// What it said last.
    pub(super) holding: Holding,
    /// Whether it still wants chunks and has got none from outside for a while.
    pub(super) is_stalled: bool,
    /// Transfers from it that are under way.
    pub(super) n_transfers: usize,
}

/// What the choice depends on.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// This node.
    pub(super) me: NodeId,
    /// What is wanted, not held and not on its way.
    pub(super) missing: &'a ChunkSet,
    /// The peers that may be used.
    pub(super) peers: &'a HashMap<NodeId, PeerView>,
}

impl View<'_> {
    /// The next chunks to take from a peer, from the one with the least to do.
    pub(super) fn next_from_peer(&self) -> Option<(NodeId, Range<u32>)> {
        let free = self.peers.iter().filter(|(_, peer)| peer.n_transfers < TRANSFERS_PER_PEER);
        let offers = free.filter_map(|(&id, peer)| {
            let first = self.missing.iter().find(|&chunk| peer.holding.held.contains(chunk))?;
            let is_offered =
                |&chunk: &u32| self.missing.contains(chunk) && peer.holding.held.contains(chunk);
            let end = (first..first + TRANSFER_CHUNKS).take_while(is_offered).last()? + 1;
            Some((peer.n_transfers, id, first..end))
        });
        offers.min_by_key(|(n_transfers, id, _)| (*n_transfers, *id)).map(|(_, id, run)| (id, run))
    }

    /// The next chunks to fetch from outside.
    pub(super) fn next_from_outside(&self) -> Option<Range<u32>> {
        let mut others: HashMap<NodeId, Vec<Range<u32>>> = HashMap::new();
        for run in self.unclaimed() {
            let owner = self.owner(&run);
            if owner == self.me {
                return Some(run);
            }
            others.entry(owner).or_default().push(run);
        }
        let busiest =
            others.into_values().filter(|runs| runs.len() > HELP_FROM).max_by_key(Vec::len);
        busiest.and_then(|runs| runs.last().cloned())
    }

    /// Whether chunks that are missing will come by way of a peer, so that waiting is right.
    pub(super) fn awaits_peers(&self) -> bool {
        let mut peers = self.peers.values().filter(|peer| !peer.is_stalled);
        peers.any(|peer| self.missing.iter().any(|chunk| peer.holding.wanted.contains(chunk)))
    }

    /// Runs of missing chunks, each within a piece, that no peer holds or is fetching, ascending.
    fn unclaimed(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut free = self.missing.clone();
        for peer in self.peers.values() {
            free.subtract(&peer.holding.held);
            if !peer.is_stalled {
                free.subtract(&peer.holding.fetching);
            }
        }
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = (next..free.end()).find(|&chunk| free.contains(chunk))?;
            let piece_end = (start / PIECE_CHUNKS + 1) * PIECE_CHUNKS;
            next = (start..piece_end).find(|&chunk| !free.contains(chunk)).unwrap_or(piece_end);
            Some(start..next)
        })
    }

    fn owner(&self, run: &Range<u32>) -> NodeId {
        let wants = |peer: &PeerView| {
            !peer.is_stalled && run.clone().any(|chunk| peer.holding.wanted.contains(chunk))
        };
        let peers = self.peers.iter().filter(|(_, peer)| wants(peer)).map(|(id, _)| *id);
        let piece = run.start / PIECE_CHUNKS;
        let rank = |id: &NodeId| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&id.0).update(&piece.to_le_bytes());
            *hasher.finalize().as_bytes()
        };
        peers.chain([self.me]).max_by_key(rank).expect("at least this node")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N_CHUNKS: u32 = 40 * PIECE_CHUNKS;

    fn node(byte: u8) -> NodeId {
        NodeId([byte; 32])
    }

    fn wanting(chunks: &ChunkSet) -> PeerView {
        PeerView {
            holding: Holding { wanted: chunks.clone(), ..Holding::default() },
            ..PeerView::default()
        }
    }

    /// What each of `n` nodes that begin together would fetch on its own before helping.
    fn shares(n: u8) -> Vec<Vec<Range<u32>>> {
        let all = ChunkSet::all(N_CHUNKS);
        let share = |me: u8| {
            let peers = (0..n).filter(|&id| id != me).map(|id| (node(id), wanting(&all))).collect();
            let view = View { me: node(me), missing: &all, peers: &peers };
            view.unclaimed().filter(|run| view.owner(run) == node(me)).collect()
        };
        (0..n).map(share).collect()
    }

    #[test]
    fn everything_is_fetched_once() {
        for n in 1..5 {
            let mut runs: Vec<Range<u32>> = shares(n).concat();
            runs.sort_by_key(|run| run.start);
            let pieces = (0..40).map(|piece| piece * PIECE_CHUNKS..(piece + 1) * PIECE_CHUNKS);
            assert!(runs.into_iter().eq(pieces), "{n} nodes");
        }
    }

    #[test]
    fn a_newcomer_moves_only_what_becomes_its_own() {
        let (two, three) = (shares(2), shares(3));
        for (before, after) in two.iter().zip(&three) {
            assert!(after.iter().all(|run| before.contains(run)), "nothing moved between the two");
            assert!(after.len() < before.len());
        }
    }

    #[test]
    fn what_a_peer_holds_is_taken_from_it() {
        let all = ChunkSet::all(N_CHUNKS);
        let mut peer = wanting(&ChunkSet::default());
        peer.holding.held = (10..20).chain(100..120).collect();
        let peers = [(node(2), peer)].into();
        let view = View { me: node(1), missing: &all, peers: &peers };
        assert_eq!(view.next_from_peer(), Some((node(2), 10..20)));
        assert_eq!(view.next_from_outside(), Some(0..10), "and never from outside");
        let runs: Vec<_> = view.unclaimed().collect();
        assert!(runs.contains(&(20..32)) && runs.contains(&(120..128)));
    }

    #[test]
    fn the_peer_with_the_least_to_do_is_asked() {
        let missing = ChunkSet::all(64);
        let mut busy = wanting(&ChunkSet::default());
        busy.holding.held = ChunkSet::all(64);
        busy.n_transfers = 1;
        let mut idle = busy.clone();
        idle.n_transfers = 0;
        let peers = [(node(1), busy.clone()), (node(9), idle)].into();
        let view = View { me: node(5), missing: &missing, peers: &peers };
        assert_eq!(view.next_from_peer(), Some((node(9), 0..16)));
        busy.n_transfers = TRANSFERS_PER_PEER;
        let peers = [(node(1), busy)].into();
        assert_eq!(View { me: node(5), missing: &missing, peers: &peers }.next_from_peer(), None);
    }

    #[test]
    fn what_a_peer_is_fetching_is_left_to_it_unless_it_stalls() {
        let missing = ChunkSet::all(PIECE_CHUNKS);
        let mut peer = wanting(&missing);
        peer.holding.fetching = missing.clone();
        let mut peers: HashMap<_, _> = [(node(2), peer)].into();
        let view = View { me: node(1), missing: &missing, peers: &peers };
        assert!(view.next_from_outside().is_none() && view.awaits_peers());
        peers.get_mut(&node(2)).expect("there").is_stalled = true;
        let view = View { me: node(1), missing: &missing, peers: &peers };
        assert_eq!(view.next_from_outside(), Some(0..PIECE_CHUNKS));
        assert!(!view.awaits_peers());
    }

    #[test]
    fn who_is_done_helps_from_the_end() {
        let all = ChunkSet::all(N_CHUNKS);
        let peers = [(node(2), wanting(&all))].into();
        let own: Vec<Range<u32>> = {
            let view = View { me: node(1), missing: &all, peers: &peers };
            view.unclaimed().filter(|run| view.owner(run) == node(1)).collect()
        };
        let mut missing = all.clone();
        own.iter().flat_map(Clone::clone).for_each(|chunk| missing.remove(chunk));
        let view = View { me: node(1), missing: &missing, peers: &peers };
        let last = view.unclaimed().last();
        assert_eq!(view.next_from_outside(), last);
        let few: ChunkSet = missing.iter().take(PIECE_CHUNKS as usize).collect();
        let view = View { me: node(1), missing: &few, peers: &peers };
        assert_eq!(view.next_from_outside(), None, "the owner is about to take it");
    }
}
