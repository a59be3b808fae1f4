//! The best cut of the layers over nodes in a given order, by dynamic programming over the layers.

use super::{
    problem::{Cut, NEVER, Problem},
    refine::{Goal, Pass},
};

/// Finds the cheapest cut over `order`; none if the bounds or the nodes' memory allow none.
///
/// Goes backwards like the exhaustive search, of which this is one row: `n · L² / 2` steps.
pub(super) fn cut(problem: &Problem, pass: &Pass, order: &[usize]) -> Option<(u64, Vec<Cut>)> {
    let n_layer = problem.n_layer;
    // rows[i][start]: the nodes order[i..] run the layers from `start`; the cost and the end of the first of these stages.
    let mut rows = vec![vec![(NEVER, 0usize); n_layer + 1]; order.len() + 1];
    rows[order.len()][n_layer] = (0, 0);
    for (i, &node) in order.iter().enumerate().rev() {
        let hop = problem.hop(node, order.get(i + 1).copied());
        let (before, after) = rows.split_at_mut(i + 1);
        for end in (1..=n_layer).filter(|&end| after[0][end].0 <= pass.total_most) {
            let (lo, hi) = problem.reach(node, end);
            for (start, slot) in (lo..hi).zip(&mut before[i][lo..hi]) {
                let cut = Cut { node, start, end };
                if problem.share(cut) + hop > pass.stage_most {
                    continue;
                }
                let turn = problem.cost(cut) + hop;
                let total = match pass.goal {
                    Goal::Slowest => turn.max(after[0][end].0),
                    Goal::Time | Goal::Priced => turn + after[0][end].0 + pass.price(problem, cut),
                };
                if total < slot.0 {
                    *slot = (total, end);
                }
            }
        }
    }
    let entry = if pass.goal == Goal::Slowest { 0 } else { problem.entry[*order.first()?] };
    let total = rows[0][0].0.saturating_add(entry);
    if total > pass.total_most {
        return None;
    }
    let mut start = 0;
    let cuts = order.iter().zip(&rows).map(|(&node, row)| {
        let cut = Cut { node, start, end: row[start].1 };
        start = cut.end;
        cut
    });
    Some((total, cuts.collect()))
}

/// Above every cost, and so far below [`NEVER`] that sums of some do not overflow.
const FAR: u64 = NEVER / 8;

/// What the beginnings and the ends of an order cost, so that a change in the middle is judged in `L² / 2` steps.
///
/// Exact for the time; for the slowest stage the hop into the change is not added to the stage before it.
pub(super) struct Parts<'a> {
    problem: &'a Problem,
    goal: Goal,
    order: &'a [usize],
    /// `[i, end]`: the first `i` nodes run the layers before `end`, without the last hop.
    heads: Vec<Vec<u64>>,
    /// `[i, start]`: the nodes from the `i`-th on run the layers from `start`.
    tails: Vec<Vec<u64>>,
}

impl<'a> Parts<'a> {
    /// Tabulates the parts of `order`.
    pub(super) fn new(problem: &'a Problem, goal: Goal, order: &'a [usize]) -> Self {
        let row = || vec![FAR; problem.n_layer + 1];
        let mut parts = Self { problem, goal, order, heads: vec![row()], tails: vec![row()] };
        parts.heads[0][0] = 0;
        parts.tails[0][problem.n_layer] = 0;
        for (i, &node) in order.iter().enumerate() {
            let entry = parts.hop_in(i, node);
            let mut head = row();
            for (end, head) in head.iter_mut().enumerate().skip(1) {
                let (lo, hi) = problem.reach(node, end);
                let costs = problem.costs_to(node, end);
                let before = &parts.heads[i];
                for (&before, &cost) in before[lo..hi].iter().zip(&costs[lo..hi]) {
                    *head = (*head).min(parts.join([before, entry, cost]));
                }
            }
            parts.heads.push(head);
        }
        for (i, &node) in order.iter().enumerate().rev() {
            let hop = problem.hop(node, order.get(i + 1).copied());
            let mut tail = row();
            let after = parts.tails.last().expect("begun above");
            for end in (1..=problem.n_layer).filter(|&end| after[end] < FAR) {
                let (lo, hi) = problem.reach(node, end);
                let costs = problem.costs_to(node, end);
                for (slot, cost) in tail[lo..hi].iter_mut().zip(&costs[lo..hi]) {
                    *slot = (*slot).min(parts.join([0, cost + hop, after[end]]));
                }
            }
            parts.tails.push(tail);
        }
        parts.tails.reverse();
        parts
    }

    fn join(&self, parts: [u64; 3]) -> u64 {
        match self.goal {
            Goal::Slowest => parts.into_iter().max().unwrap_or(0),
            Goal::Time | Goal::Priced => parts.into_iter().sum::<u64>().min(FAR),
        }
    }

    /// The hop into `node` at place `i`, from the driver at the first.
    fn hop_in(&self, i: usize, node: usize) -> u64 {
        match (i, self.goal) {
            (0, Goal::Slowest) => 0,
            (0, _) => self.problem.entry[node],
            _ => self.problem.hop(self.order[i - 1], Some(node)),
        }
    }

    /// The least cost with `node` at place `i`, instead of `n_removed` (0 or 1) nodes of the order, if it is below `most`.
    pub(super) fn with(&self, i: usize, n_removed: usize, node: usize, most: u64) -> u64 {
        let (heads, tails) = (&self.heads[i], &self.tails[i + n_removed]);
        let hop_in = self.hop_in(i, node);
        let hop_out = self.problem.hop(node, self.order.get(i + n_removed).copied());
        let mut least = most.min(FAR);
        for end in (1..=self.problem.n_layer).filter(|&end| tails[end] < most.min(FAR)) {
            let (lo, hi) = self.problem.reach(node, end);
            let costs = &self.problem.costs_to(node, end)[lo..hi];
            let pairs = heads[lo..hi].iter().zip(costs);
            let best = match self.goal {
                Goal::Slowest => pairs
                    .map(|(&head, cost)| head.max(cost + hop_out))
                    .min()
                    .map(|best| best.max(hop_in).max(tails[end])),
                Goal::Time | Goal::Priced => pairs
                    .map(|(head, cost)| head + cost)
                    .min()
                    .map(|best| best + hop_in + hop_out + tails[end]),
            };
            least = least.min(best.unwrap_or(FAR));
        }
        if least < most.min(FAR) { least } else { NEVER }
    }
}
