//! What a node measures of itself while it works.

use std::{sync::Arc, time::Duration};

use shoal_proto::control::Vitals;

use crate::{
    history::History, journal::Journal, node::Inner, profile::Profiler, rtts::Rtts, stats::Stats,
    trace::Traces, vitals::Sampler,
};

/// How often vital signs are taken.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// What a node measures of itself while it works. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Instruments {
    /// How fast it computes.
    pub(crate) profiler: Arc<Profiler>,
    /// How far its peers are.
    pub(crate) rtts: Arc<Rtts>,
    /// How fast instances answer.
    pub(crate) stats: Arc<Stats>,
    /// Where the time of requests went.
    pub(crate) traces: Arc<Traces>,
    /// What happened, in words.
    pub(crate) journal: Arc<Journal>,
    /// The last hour in numbers.
    pub(crate) history: Arc<History>,
}

/// Keeps this node's vital signs fresh, until the node ends.
pub(crate) async fn watch(inner: Arc<Inner>) {
    let mut sampler = Sampler::new();
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let runners: Vec<u32> =
            inner.router().runners().into_iter().filter_map(|runner| runner.pid).collect();
        let sampled = tokio::task::spawn_blocking(move || {
            let vitals = sampler.sample(&runners);
            (sampler, vitals)
        });
        let Ok((back, vitals)) = sampled.await else { return };
        sampler = back;
        let n_running = inner.instruments.stats.n_running();
        let n_requests = u16::try_from(n_running).unwrap_or(u16::MAX);
        inner.peers().set_vitals(Vitals { n_requests, ..vitals });
    }
}

/// Finds out in the background how fast this node computes, and publishes it.
pub(crate) fn calibrate(inner: &Arc<Inner>) {
    let (n_threads, isa) = (inner.config().n_threads, inner.config().isa.clone());
    let profiler = Arc::clone(&inner.instruments.profiler);
    // The node may end before its trial does.
    let node = Arc::downgrade(inner);
    inner.instruments.profiler.start(n_threads, isa, move || {
        if let (Some(node), Some(profile)) = (node.upgrade(), profiler.profile()) {
            node.peers().set_profile(profile);
        }
    });
}
