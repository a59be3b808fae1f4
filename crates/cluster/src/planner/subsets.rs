//! The exhaustive search: the best placement over every subset of the nodes, in every order, with every cut.
//!
//! Dynamic programming from the last layer to the first (after Held and Karp, "A dynamic programming approach to sequencing
//! problems", 1962, with the layers as a second dimension):
//!
//! ```text
//! best[set, first, start] = the cheapest way to run the layers start.. on all nodes of `set`, `first` running the first of them
//! best[{v}, v, s]         = cost(v, s..L) + hop(v, driver)
//! best[set ∪ u, u, s]     = min over first, e:  cost(u, s..e) + hop(u, first) ⊕ best[set, first, e]
//! ```
//!
//! where ⊕ adds or takes the greater. It goes backwards because a stage's hop depends on the stage after it. That is 2^n · n ·
//! L states and n · L/2 steps from each, less what bounds cut off.

use super::{
    problem::{Cut, NEVER, Problem},
    refine::{Goal, Pass},
};

/// What a search found.
#[derive(Debug, Clone)]
pub(super) struct Subsets {
    /// For `k + 1` nodes: the cheapest placement.
    pub(super) of_each: Vec<Option<(u64, Vec<Cut>)>>,
    /// `[n, n_most]`: the least cost with a node among `k + 1`, [`NEVER`] if there is none.
    pub(super) with_node: Vec<Vec<u64>>,
}

/// The table of a search.
struct Table<'a> {
    problem: &'a Problem,
    pass: &'a Pass,
    /// The nodes looked at, as indices into the problem.
    nodes: &'a [usize],
    /// `[set, first, start]`
    best: Vec<u64>,
    /// Where each state came from: the first node before (as an index into `nodes`) and the end of the new stage.
    from: Vec<(u8, u16)>,
    /// `[m, end]`: the least that the layers before `end` cost on `m` nodes, were each node free to be used again.
    rest: Vec<Vec<u64>>,
}

/// Searches all placements over at most `n_most` of `nodes`, which are at most eight, ascending.
pub(super) fn search(problem: &Problem, pass: &Pass, nodes: &[usize], n_most: usize) -> Subsets {
    let mut table = Table::new(problem, pass, nodes, vec![vec![0; problem.n_layer + 1]]);
    table.run(n_most);
    table.collect(n_most)
}

/// Searches all placements over exactly `n_wanted` of `nodes`; faster, since bounds of the pass cut off much more.
pub(super) fn search_exactly(
    problem: &Problem,
    pass: &Pass,
    nodes: &[usize],
    n_wanted: usize,
) -> Option<Vec<Cut>> {
    let rest = least_before(problem, pass, nodes, n_wanted);
    let mut table = Table::new(problem, pass, nodes, rest);
    table.run(n_wanted);
    let found = table.collect(n_wanted);
    found.of_each.into_iter().nth(n_wanted - 1).flatten().map(|found| found.1)
}

/// `[m, end]` for `m < n_wanted`: a bound from below of what the layers before `end` add, on `m` nodes.
fn least_before(problem: &Problem, pass: &Pass, nodes: &[usize], n_wanted: usize) -> Vec<Vec<u64>> {
    let row = || vec![NEVER; problem.n_layer + 1];
    let mut rest = vec![row()];
    rest[0][0] = 0;
    for m in 1..n_wanted {
        let mut least = row();
        for &v in nodes {
            let others = nodes.iter().filter(|&&to| to != v);
            let hop = others.map(|&to| problem.hop(v, Some(to))).min().unwrap_or(0);
            let entry = if m == 1 { problem.entry[v] } else { 0 };
            for (end, least) in least.iter_mut().enumerate().skip(1) {
                let (lo, hi) = problem.reach(v, end);
                let costs = &problem.costs_to(v, end)[lo..hi];
                let shares = &problem.shares_to(v, end)[lo..hi];
                let both = costs.iter().zip(shares);
                for (&before, (cost, share)) in rest[m - 1][lo..hi].iter().zip(both) {
                    let turn = cost + hop;
                    if before != NEVER && share + hop <= pass.stage_most {
                        *least = (*least).min(match pass.goal {
                            Goal::Slowest => before.max(turn),
                            Goal::Time | Goal::Priced => before + turn + entry,
                        });
                    }
                }
            }
        }
        rest.push(least);
    }
    rest
}

impl<'a> Table<'a> {
    fn new(problem: &'a Problem, pass: &'a Pass, nodes: &'a [usize], rest: Vec<Vec<u64>>) -> Self {
        let n_states = (1usize << nodes.len()) * nodes.len() * (problem.n_layer + 1);
        let (best, from) = (vec![NEVER; n_states], vec![(0, 0); n_states]);
        Self { problem, pass, nodes, best, from, rest }
    }

    /// Fills the table for sets of at most `n_most` nodes.
    fn run(&mut self, n_most: usize) {
        self.begin();
        for set in 1..1usize << self.nodes.len() {
            let n_set = set.count_ones() as usize;
            if n_set < n_most {
                // Without a bound for this number of missing nodes there is one row that bounds nothing.
                let n_missing = (n_most - n_set).min(self.rest.len() - 1);
                (0..self.nodes.len())
                    .filter(|i| set >> i & 1 == 1)
                    .for_each(|first| self.grow(set, first, n_missing));
            }
        }
    }

    fn at(&self, set: usize, first: usize) -> usize {
        (set * self.nodes.len() + first) * (self.problem.n_layer + 1)
    }

    /// Placements of one stage, the last.
    fn begin(&mut self) {
        let n_layer = self.problem.n_layer;
        for i in 0..self.nodes.len() {
            let v = self.nodes[i];
            let (lo, hi) = self.problem.reach(v, n_layer);
            let row = self.at(1 << i, i);
            for start in lo..hi {
                let cut = Cut { node: v, start, end: n_layer };
                let tail = self.problem.tail[v];
                let turn = self.problem.cost(cut).saturating_add(tail);
                if self.problem.share(cut).saturating_add(tail) <= self.pass.stage_most {
                    self.best[row + start] =
                        turn.saturating_add(self.pass.price(self.problem, cut));
                }
            }
        }
    }

    /// Puts every further node before the placements of `set` that begin at `first`.
    fn grow(&mut self, set: usize, first: usize, n_missing: usize) {
        if self.pass.outer == Some(self.nodes[first]) && set.count_ones() > 1 {
            // Another stage before it would put it between two.
            return;
        }
        let from = self.at(set, first);
        let ends: Vec<(usize, u64)> = (1..self.problem.n_layer)
            .map(|end| (end, self.best[from + end]))
            .filter(|&(end, after)| {
                after != NEVER
                    && after.saturating_add(self.rest[n_missing][end]) <= self.pass.total_most
            })
            .collect();
        for u in (0..self.nodes.len()).filter(|u| set >> u & 1 == 0) {
            let v = self.nodes[u];
            let hop = self.problem.hop(v, Some(self.nodes[first]));
            let to = self.at(set | 1 << u, u);
            for &(end, after) in &ends {
                self.grow_to(v, hop, after, end, to, u8::try_from(first).expect("at most eight"));
            }
        }
    }

    /// Puts each allowed stage of `v` that ends at `end` before a placement that costs `after`.
    fn grow_to(&mut self, v: usize, hop: u64, after: u64, end: usize, to: usize, first: u8) {
        let (mut lo, hi) = self.problem.reach(v, end);
        let shares = &self.problem.shares_to(v, end)[lo..hi];
        // Stages that begin earlier compute longer.
        lo += shares.partition_point(|share| share + hop > self.pass.stage_most);
        let costs = &self.problem.costs_to(v, end)[lo..hi];
        let best = &mut self.best[to + lo..to + hi];
        let from = &mut self.from[to + lo..to + hi];
        let origin = (first, u16::try_from(end).expect("at most MAX_LAYERS"));
        for (i, &cost) in costs.iter().enumerate() {
            let turn = cost + hop;
            let total = match self.pass.goal {
                Goal::Slowest => turn.max(after),
                Goal::Time => turn + after,
                Goal::Priced => {
                    let cut = Cut { node: v, start: lo + i, end };
                    turn + after + self.pass.price(self.problem, cut)
                }
            };
            if total < best[i] {
                best[i] = total;
                from[i] = origin;
            }
        }
    }

    /// Reads off the best of each number of nodes.
    fn collect(&self, n_most: usize) -> Subsets {
        let mut ends: Vec<Option<(u64, usize, usize)>> = vec![None; n_most];
        let mut with_node = vec![vec![NEVER; n_most]; self.problem.n];
        let outer = self.pass.outer.and_then(|v| self.nodes.iter().position(|&node| node == v));
        for set in 1..1usize << self.nodes.len() {
            if outer.is_some_and(|outer| set >> outer & 1 == 0) {
                continue;
            }
            let k = set.count_ones() as usize - 1;
            for first in (0..self.nodes.len()).filter(|i| k < n_most && set >> i & 1 == 1) {
                let whole = self.best[self.at(set, first)];
                if whole == NEVER {
                    continue;
                }
                let total = match self.pass.goal {
                    Goal::Slowest => whole,
                    Goal::Time | Goal::Priced => whole + self.problem.entry[self.nodes[first]],
                };
                if ends[k].is_none_or(|end| total < end.0) {
                    ends[k] = Some((total, set, first));
                }
                for (_, &v) in self.nodes.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1) {
                    with_node[v][k] = with_node[v][k].min(total);
                }
            }
        }
        let found = |end: Option<(u64, usize, usize)>| {
            let (total, set, first) = end?;
            (total <= self.pass.total_most).then(|| (total, self.walk(set, first)))
        };
        Subsets { of_each: ends.into_iter().map(found).collect(), with_node }
    }

    /// The stages of a whole placement.
    fn walk(&self, mut set: usize, mut first: usize) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut start = 0;
        while set.count_ones() > 1 {
            let (next, end) = self.from[self.at(set, first) + start];
            cuts.push(Cut { node: self.nodes[first], start, end: usize::from(end) });
            set &= !(1 << first);
            (first, start) = (usize::from(next), usize::from(end));
        }
        cuts.push(Cut { node: self.nodes[first], start, end: self.problem.n_layer });
        cuts
    }
}
