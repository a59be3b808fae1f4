//! From "the least" to "the best": what counts among placements that are as good as the least by the first measure.

use super::{
    BALANCE, EXACT_NODES, Objective, TIE, chain,
    problem::{Cut, NEVER, Problem},
    search, subsets,
};

/// What a search makes least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// Time per token.
    Time,
    /// Time per token and the price of what must be fetched.
    Priced,
    /// The slowest stage.
    Slowest,
}

/// One search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) goal: Goal,
    /// The share of a stage, with its hop, may be so great.
    pub(super) stage_most: u64,
    /// The goal may cost so much.
    pub(super) total_most: u64,
    /// With [`Goal::Priced`]: the price of fetching the whole model.
    pub(super) model_price: u64,
    /// The node that must have the first or the last stage: the driver, where that saves a hop.
    pub(super) outer: Option<usize>,
}

impl Pass {
    /// A search without bounds.
    pub(super) fn free(goal: Goal) -> Self {
        let (stage_most, total_most) = (NEVER - 1, NEVER - 1);
        Self { goal, stage_most, total_most, model_price: 0, outer: None }
    }

    /// What a stage costs besides its time.
    pub(super) fn price(&self, problem: &Problem, cut: Cut) -> u64 {
        let lacking = problem.fetch(cut);
        if self.goal != Goal::Priced || lacking == 0 {
            return 0;
        }
        let model = u128::from(problem.weights(0, problem.n_layer).max(1));
        let price = u128::from(self.model_price) * u128::from(lacking) / model;
        // A tied head and embedding on two nodes is fetched twice: the sum may pass the model's price, not 64 bits.
        u64::try_from(price).unwrap_or(self.model_price)
    }
}

/// The best placements.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// For `k + 1` nodes: the best placement, if the model fits.
    pub(super) of_each: Vec<Option<Vec<Cut>>>,
    /// `[n, k]`: the least cost with a node among `k + 1`; empty where nobody looked at all placements.
    with_node: Vec<Vec<u64>>,
}

impl Found {
    /// The least cost of a placement with node `v` over an allowed number of nodes, [`NEVER`] if there is none.
    pub(super) fn with_node(
        &self,
        problem: &Problem,
        objective: Objective,
        used: &[Cut],
        v: usize,
        [n_min, n_max]: [usize; 2],
    ) -> u64 {
        let Some(of_each) = self.with_node.get(v) else {
            return search::with_node(problem, objective, used, v, [n_min, n_max]);
        };
        of_each[n_min - 1..n_max].iter().copied().min().unwrap_or(NEVER)
    }
}

/// Finds the best placement over each number of nodes.
pub(super) fn best_of_each_number(problem: &Problem, objective: Objective) -> Found {
    if problem.n > EXACT_NODES {
        let best = |least: Vec<Cut>| refine(problem, objective, least, |_| None);
        let least = search::of_each_number(problem, objective).into_iter();
        return Found { of_each: least.map(|least| least.map(best)).collect(), with_node: vec![] };
    }
    let n_most = problem.n.min(problem.n_layer);
    let nodes: Vec<usize> = (0..problem.n).collect();
    let all = subsets::search(problem, &Pass::free(first_goal(objective)), &nodes, n_most);
    let best = |(k, least): (usize, Option<(u64, Vec<Cut>)>)| {
        let search = |pass: &Pass| subsets::search_exactly(problem, pass, &nodes, k + 1);
        Some(refine(problem, objective, least?.1, search))
    };
    let of_each = all.of_each.into_iter().enumerate().map(best).collect();
    Found { of_each, with_node: all.with_node }
}

/// What a search for an objective makes least first.
pub(super) fn first_goal(objective: Objective) -> Goal {
    match objective {
        Objective::Latency => Goal::Time,
        Objective::Throughput => Goal::Slowest,
    }
}

/// A bit more: as good as `least`.
fn tie(least: u64) -> u64 {
    least + least / TIE
}

/// The best cut over the nodes of `cuts` in their order, under the bounds of a pass.
fn recut(problem: &Problem, pass: &Pass, cuts: &[Cut]) -> Option<Vec<Cut>> {
    let order: Vec<usize> = cuts.iter().map(|cut| cut.node).collect();
    chain::cut(problem, pass, &order).map(|found| found.1)
}

/// Turns the least placement by the objective alone into the best, searching again with `search` under bounds.
///
/// Each bound is first tried with the nodes as they are, which costs little; `search` then shows whether others do better.
fn refine(
    problem: &Problem,
    objective: Objective,
    least: Vec<Cut>,
    search: impl Fn(&Pass) -> Option<Vec<Cut>>,
) -> Vec<Cut> {
    let mut best = least;
    let time = problem.time(&best);
    if objective == Objective::Latency {
        let total_most = time + time / BALANCE;
        let pass =
            Pass { total_most, outer: outer_driver(problem, &best), ..Pass::free(Goal::Time) };
        best = balance(problem, &pass, best);
        while best.len() > 1 {
            let widest = problem.widest(&best);
            let Some(better) = search(&Pass { stage_most: widest - widest / TIE - 1, ..pass })
            else {
                break;
            };
            best = balance(problem, &pass, better);
        }
    }
    let outer = if objective == Objective::Latency { outer_driver(problem, &best) } else { None };
    let mut pass = Pass {
        outer,
        stage_most: tie(problem.widest(&best)),
        model_price: time / TIE,
        ..Pass::free(Goal::Priced)
    };
    best = recut(problem, &pass, &best).unwrap_or(best);
    // What is searched for must be at least as good as what there is.
    let prices = best.iter().map(|&cut| pass.price(problem, cut)).sum::<u64>();
    pass.total_most = problem.time(&best).saturating_add(prices);
    search(&pass).unwrap_or(best)
}

/// The driver, if it has the first or the last of several stages.
fn outer_driver(problem: &Problem, cuts: &[Cut]) -> Option<usize> {
    let ends = [cuts.first()?.node, cuts.last()?.node];
    problem.driver.filter(|driver| cuts.len() > 1 && ends.contains(driver))
}

/// Lowers the greatest share as far as the cut alone can, within the pass's bound on the time.
fn balance(problem: &Problem, pass: &Pass, mut best: Vec<Cut>) -> Vec<Cut> {
    // Halving stops where the rest is a tie.
    let (mut low, mut high) = (0, problem.widest(&best));
    while low + low / TIE < high {
        let stage_most = low + (high - low) / 2;
        match recut(problem, &Pass { stage_most, ..*pass }, &best) {
            Some(cuts) => {
                high = problem.widest(&cuts);
                best = cuts;
            }
            None => low = stage_most + 1,
        }
    }
    best
}
