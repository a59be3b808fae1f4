//! From "the least" to "the best": what counts among placements that are as good as the least by the first measure.

use super::{
    EXACT_NODES, Objective, TIE,
    problem::{Cut, NEVER, Problem},
    subsets,
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
    /// The slowest stage may take so long.
    pub(super) stage_most: u64,
    /// The goal may cost so much.
    pub(super) total_most: u64,
    /// With [`Goal::Priced`]: the price of fetching the whole model.
    model_price: u64,
}

impl Pass {
    /// A search without bounds.
    fn free(goal: Goal) -> Self {
        Self { goal, stage_most: NEVER - 1, total_most: NEVER - 1, model_price: 0 }
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
        _problem: &Problem,
        request: &super::PlanRequest,
        v: usize,
        _used: &[Cut],
        n_max: usize,
    ) -> u64 {
        let of_each = &self.with_node[v];
        of_each[request.min_nodes - 1..n_max].iter().copied().min().unwrap_or(NEVER)
    }
}

/// Finds the best placement over each number of nodes.
pub(super) fn best_of_each_number(problem: &Problem, objective: Objective) -> Found {
    let n_most = problem.n.min(problem.n_layer);
    let nodes: Vec<usize> = (0..problem.n.min(EXACT_NODES)).collect();
    let goal = first_goal(objective);
    let all = subsets::search(problem, &Pass::free(goal), &nodes, n_most);
    let best = |(k, least): (usize, Option<(u64, Vec<Cut>)>)| {
        let search = |pass: &Pass| {
            let found = subsets::search(problem, pass, &nodes, k + 1);
            found.of_each.into_iter().nth(k).flatten().map(|found| found.1)
        };
        Some(refine(problem, objective, least?.1, search))
    };
    Found {
        of_each: all.of_each.into_iter().enumerate().map(best).collect(),
        with_node: all.with_node,
    }
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

/// Turns the least placement by the objective alone into the best, searching again with `search` under bounds.
pub(super) fn refine(
    problem: &Problem,
    objective: Objective,
    least: Vec<Cut>,
    search: impl Fn(&Pass) -> Option<Vec<Cut>>,
) -> Vec<Cut> {
    let mut pass = Pass::free(Goal::Time);
    let mut best = least;
    let time = problem.time(&best);
    if objective == Objective::Latency {
        pass.total_most = tie(time);
        // The stages share the time: the slowest takes at least its part. Halving stops where the rest is a tie.
        let entry = problem.entry.iter().max().copied().unwrap_or(0);
        let mut low = time.saturating_sub(entry) / best.len() as u64;
        let mut high = problem.slowest(&best);
        while low + low / TIE < high {
            pass.stage_most = low + (high - low) / 2;
            match search(&pass) {
                Some(cuts) => {
                    high = problem.slowest(&cuts);
                    best = cuts;
                }
                None => low = pass.stage_most + 1,
            }
        }
    }
    pass.stage_most = tie(problem.slowest(&best));
    pass.goal = Goal::Priced;
    pass.model_price = time / TIE;
    if objective == Objective::Latency {
        // Room for the price of a model that is fetched as a whole, and of a tied head on a second node.
        pass.total_most = tie(time) + 3 * pass.model_price;
    }
    search(&pass).unwrap_or(best)
}
