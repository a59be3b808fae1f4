//! The search over more nodes than can be searched exhaustively: grow an order node by node, and improve it at each size.
//!
//! ```text
//! order = the pinned nodes, and in each gap between them the node that runs it cheapest
//! for each size:
//!     until nothing improves:  replace a node by one that is not used, move a node to another place, or swap two
//!     remember the order;  insert the node, at the place, that costs least
//! ```
//!
//! Memory is a price here, not a wall, so that there is a way from an order that does not fit to one that does. The best
//! orders of up to eight nodes then come from exhaustive searches over the nodes of the order of eight, and over the fastest
//! eight.
//!
//! On random clusters of nine to eleven nodes (tests) a placement was found for each number of nodes for which there is one;
//! the best was always the one of least time, and the slowest stage was within 3 % of the lowest on 19 clusters of 20, at
//! worst 15 % above it.

use super::{
    EXACT_NODES, Objective,
    chain::{self, Parts},
    problem::{Cut, NEVER, Problem},
    refine::{Goal, Pass, first_goal},
    subsets,
};

/// Improvements of one order before it is left as it is; in practice a few suffice.
const IMPROVEMENTS_MAX: usize = 16;
/// Moves of nodes within one long order: looking for one takes as long as everything else.
const LONG_MOVES_MAX: usize = 1;

/// Changes that are tried where what they cost is only estimated.
const ESTIMATES_TRIED: usize = 8;

/// An order and what it costs, or is estimated to cost.
type Order = (u64, Vec<usize>);

/// Finds a good placement over each number of nodes.
pub(super) fn of_each_number(problem: &Problem, objective: Objective) -> Vec<Option<Vec<Cut>>> {
    let pass = Pass::free(first_goal(objective));
    let n_most = problem.n.min(problem.n_layer);
    let mut least: Vec<Option<(u64, Vec<Cut>)>> = vec![None; n_most];
    let mut offer = |found: Option<(u64, Vec<Cut>)>| {
        let Some((cost, cuts)) = found else { return };
        let slot = &mut least[cuts.len() - 1];
        if slot.as_ref().is_none_or(|slot| cost < slot.0) {
            *slot = Some((cost, cuts));
        }
    };
    let orders = grow(&problem.relaxed(), &pass, n_most);
    for order in &orders {
        offer(chain::cut(problem, &pass, order));
    }
    let eight = orders.iter().rev().find(|order| order.len() <= EXACT_NODES);
    for pool in [eight.cloned(), Some(fastest(problem))].into_iter().flatten() {
        let mut pool = pool;
        for v in fastest(problem) {
            if pool.len() < EXACT_NODES && !pool.contains(&v) {
                pool.push(v);
            }
        }
        pool.sort_unstable();
        let found = subsets::search(problem, &pass, &pool, n_most.min(pool.len()));
        found.of_each.into_iter().for_each(&mut offer);
    }
    least.into_iter().map(|found| found.map(|found| found.1)).collect()
}

/// The pinned nodes and the fastest others, as many as can be searched exhaustively.
fn fastest(problem: &Problem) -> Vec<usize> {
    let mut nodes: Vec<usize> = (0..problem.n).collect();
    nodes.sort_by_key(|&v| {
        let whole = problem.plain_cost(v).saturating_add(problem.entry[v] + problem.tail[v]);
        (problem.pins[v].is_none(), whole, v)
    });
    nodes.truncate(EXACT_NODES);
    nodes
}

/// Grows an order to `n_most` nodes; returns the best of each size.
fn grow(relaxed: &Problem, pass: &Pass, n_most: usize) -> Vec<Vec<usize>> {
    let mut orders = Vec::new();
    let Some(mut order) = begin(relaxed) else { return orders };
    while order.len() <= n_most {
        order = improve(relaxed, pass, order);
        orders.push(order.clone());
        match true_best(relaxed, pass, insertions(relaxed, pass, &order), NEVER) {
            Some((_, longer)) => order = longer,
            None => break,
        }
    }
    orders
}

/// The pinned nodes in the order of their layers, with a node in each gap.
fn begin(relaxed: &Problem) -> Option<Vec<usize>> {
    let mut pins: Vec<((usize, usize), usize)> =
        (0..relaxed.n).filter_map(|v| Some((relaxed.pins[v]?, v))).collect();
    pins.sort_unstable();
    let mut order = Vec::new();
    let mut used: Vec<usize> = pins.iter().map(|pin| pin.1).collect();
    let mut start = 0;
    let last = ((relaxed.n_layer, relaxed.n_layer), usize::MAX);
    for (pin, v) in pins.into_iter().chain([last]) {
        if start < pin.0 {
            let cost = |v: &usize| relaxed.cost(Cut { node: *v, start, end: pin.0 });
            let gap = (0..relaxed.n).filter(|v| !used.contains(v)).min_by_key(cost)?;
            used.push(gap);
            order.push(gap);
        }
        if v != usize::MAX {
            order.push(v);
        }
        start = pin.1;
    }
    Some(order)
}

/// Replaces, moves and swaps nodes until that no longer helps.
fn improve(relaxed: &Problem, pass: &Pass, mut order: Vec<usize>) -> Vec<usize> {
    let Some(mut cost) = chain::cut(relaxed, pass, &order).map(|found| found.0) else {
        return order;
    };
    let mut n_moves = 0;
    for _ in 0..IMPROVEMENTS_MAX {
        let replaced = replacements(relaxed, pass, &order, cost);
        let mut better = true_best(relaxed, pass, replaced, cost);
        if better.is_none() && (order.len() <= EXACT_NODES || n_moves < LONG_MOVES_MAX) {
            n_moves += 1;
            better = true_best(relaxed, pass, moves(relaxed, pass, &order, cost), cost);
            // Without an estimate each swap is a whole search: quick only under the tight bound of a slowest stage.
            if better.is_none() && (order.len() <= EXACT_NODES || pass.goal == Goal::Slowest) {
                better = true_best(relaxed, pass, swaps(relaxed, &order), cost);
            }
        }
        let Some(next) = better else { break };
        (cost, order) = next;
    }
    order
}

/// The cheapest of some orders, of which only estimates are known, if it is below `most`.
fn true_best(
    relaxed: &Problem,
    pass: &Pass,
    orders: impl IntoIterator<Item = Order>,
    most: u64,
) -> Option<Order> {
    let mut best: Option<Order> = None;
    for (_, order) in orders {
        let least = best.as_ref().map_or(most, |best| best.0);
        let bounded = Pass { total_most: least - 1, ..*pass };
        if let Some((cost, _)) = chain::cut(relaxed, &bounded, &order) {
            best = Some((cost, order));
        }
    }
    best
}

/// The most promising changes of an order, by what they are estimated to cost.
struct Shortlist {
    n_most: usize,
    /// Changes must be estimated below this.
    cost: u64,
    orders: Vec<Order>,
}

impl Shortlist {
    fn new(pass: &Pass, cost: u64) -> Self {
        // The estimate of the time is exact, that of the slowest stage is not.
        let n_most = if pass.goal == Goal::Slowest { ESTIMATES_TRIED } else { 1 };
        Self { n_most, cost, orders: Vec::new() }
    }

    /// What another must be estimated below.
    fn most(&self) -> u64 {
        let last = self.orders.last().filter(|_| self.orders.len() == self.n_most);
        last.map_or(self.cost, |last| last.0)
    }

    fn offer(&mut self, cost: u64, order: impl FnOnce() -> Vec<usize>) {
        if cost < self.most() {
            self.orders.truncate(self.n_most - 1);
            let at = self.orders.partition_point(|other| other.0 <= cost);
            self.orders.insert(at, (cost, order()));
        }
    }
}

fn unused(relaxed: &Problem, order: &[usize]) -> Vec<usize> {
    (0..relaxed.n).filter(|v| !order.contains(v)).collect()
}

fn insertions(relaxed: &Problem, pass: &Pass, order: &[usize]) -> Vec<Order> {
    let parts = Parts::new(relaxed, pass.goal, order);
    let mut list = Shortlist::new(pass, NEVER);
    for v in unused(relaxed, order) {
        for i in 0..=order.len() {
            list.offer(parts.with(i, 0, v, list.most()), || {
                let mut longer = order.to_vec();
                longer.insert(i, v);
                longer
            });
        }
    }
    list.orders
}

fn replacements(relaxed: &Problem, pass: &Pass, order: &[usize], cost: u64) -> Vec<Order> {
    let parts = Parts::new(relaxed, pass.goal, order);
    let mut list = Shortlist::new(pass, cost);
    for v in unused(relaxed, order) {
        for i in (0..order.len()).filter(|&i| relaxed.pins[order[i]].is_none()) {
            list.offer(parts.with(i, 1, v, list.most()), || {
                let mut other = order.to_vec();
                other[i] = v;
                other
            });
        }
    }
    list.orders
}

fn moves(relaxed: &Problem, pass: &Pass, order: &[usize], cost: u64) -> Vec<Order> {
    let mut list = Shortlist::new(pass, cost);
    for from in 0..order.len() {
        let mut rest = order.to_vec();
        let v = rest.remove(from);
        let parts = Parts::new(relaxed, pass.goal, &rest);
        for to in (0..=rest.len()).filter(|&to| to != from) {
            list.offer(parts.with(to, 0, v, list.most()), || {
                let mut other = rest.clone();
                other.insert(to, v);
                other
            });
        }
    }
    list.orders
}

/// Every order with two nodes swapped, without an estimate.
fn swaps<'a>(relaxed: &'a Problem, order: &'a [usize]) -> impl Iterator<Item = Order> + 'a {
    let is_free = |&i: &usize| relaxed.pins[order[i]].is_none();
    let pairs = (0..order.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
    pairs.filter(move |(a, b)| is_free(a) && is_free(b)).map(|(a, b)| {
        let mut other = order.to_vec();
        other.swap(a, b);
        (0, other)
    })
}

/// The least cost of `used` with `v` added, or in the place of another; [`NEVER`] if neither is allowed.
pub(super) fn with_node(
    problem: &Problem,
    objective: Objective,
    used: &[Cut],
    v: usize,
    [n_min, n_max]: [usize; 2],
) -> u64 {
    let pass = Pass::free(first_goal(objective));
    let order: Vec<usize> = used.iter().map(|cut| cut.node).collect();
    let added = (0..=order.len()).map(|i| {
        let mut other = order.clone();
        other.insert(i, v);
        other
    });
    let replaced = (0..order.len()).map(|i| {
        let mut other = order.clone();
        other[i] = v;
        other
    });
    added
        .chain(replaced)
        .filter(|order| (n_min..=n_max).contains(&order.len()))
        .filter_map(|order| chain::cut(problem, &pass, &order).map(|found| found.0))
        .min()
        .unwrap_or(NEVER)
}

#[cfg(test)]
mod tests;
