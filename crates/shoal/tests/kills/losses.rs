//! What befalls stages, and how it is done to processes and links.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    chance::Chance,
    fleet::Fleet,
    node::{is_running, pause, signal, wait},
};

/// No wait for a recovery to begin is longer.
const RECOVERY_STARTS: Duration = Duration::from_secs(30);
/// What is to be over soon after the answers has so long: a runner is taken for frozen after three seconds.
const PATIENCE_AFTER: Duration = Duration::from_secs(15);
/// What a stage may be away for and come back: less than any threshold of the cluster, and more than all.
const AWAY_MS: [u64; 8] = [200, 800, 1_600, 3_000, 4_500, 5_500, 6_500, 9_000];

/// A way to lose a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loss {
    /// The runner process is killed; its node lives.
    Runner,
    /// The node is killed.
    Node,
    /// The node is killed and started again at once.
    Restart,
    /// The node is frozen until the answer is complete.
    Freeze,
    /// The node is frozen for some time.
    Stall,
    /// Two stages are lost at once, each in one of the ways above.
    Pair,
    /// A node is killed, and whoever takes its layers as soon as he is known.
    Replacement,
    /// The runner process alone is stopped: it hangs until its node ends it.
    Hang,
    /// The node is asked to give its layers away.
    Drain,
    /// The node is asked to end.
    End,
    /// The node is out of reach until the answer is complete.
    Silence,
    /// The node is out of reach for some time.
    Outage,
    /// The node's interface goes down and comes back with another address.
    Reset,
}

impl Loss {
    /// Those that need processes alone.
    pub(crate) const OF_PROCESSES: [Self; 10] = [
        Self::Runner,
        Self::Node,
        Self::Restart,
        Self::Freeze,
        Self::Stall,
        Self::Pair,
        Self::Replacement,
        Self::Hang,
        Self::Drain,
        Self::End,
    ];
    /// Those that need links of their own.
    pub(crate) const OF_LINKS: [Self; 3] = [Self::Silence, Self::Outage, Self::Reset];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Runner => "runner killed",
            Self::Node => "node killed",
            Self::Restart => "node restarted",
            Self::Freeze => "node frozen",
            Self::Stall => "node stalled",
            Self::Pair => "two at once",
            Self::Replacement => "replacement too",
            Self::Hang => "runner hangs",
            Self::Drain => "node drained",
            Self::End => "node ends",
            Self::Silence => "link silent",
            Self::Outage => "link back",
            Self::Reset => "link reset",
        }
    }

    /// How many of `n` nodes the model is spread over: where a replacement is to die, or layers are to move first, one is spare.
    pub(crate) fn n_stages(self, n: usize) -> usize {
        if matches!(self, Self::Replacement | Self::Drain | Self::End) { n - 1 } else { n }
    }

    /// Longest pause that is promised, without the time for the prompt; `None` where a loss has several parts.
    pub(crate) fn promised(self) -> Option<Duration> {
        match self {
            Self::Runner | Self::Node | Self::Restart | Self::Drain | Self::End => {
                Some(Duration::from_secs(1))
            }
            Self::Freeze | Self::Stall | Self::Silence | Self::Outage | Self::Hang => {
                Some(Duration::from_millis(6_500))
            }
            Self::Pair | Self::Replacement | Self::Reset => None,
        }
    }
}

/// What was done, and what is still to be done.
#[derive(Debug)]
pub(crate) struct Struck {
    /// When the stage was well for the last time.
    pub(crate) at: Instant,
    /// In words.
    pub(crate) what: String,
    then: Then,
    /// Runners of nodes that were killed, or that hang: they must not live on.
    orphans: Vec<u32>,
    /// Who must not hold layers in the end.
    drained: Option<usize>,
}

#[derive(Debug)]
enum Then {
    Nothing,
    /// It comes back after this.
    Back(usize, Duration),
    /// It ends by itself.
    Ends(usize),
    /// Whoever takes over from the epoch on is killed too.
    KillReplacement {
        epoch: u64,
        dead: usize,
    },
}

/// Takes a stage away that is not the first node's, if it is not a runner.
pub(crate) fn strike(fleet: &mut Fleet, loss: Loss, chance: &mut Chance) -> Struck {
    let placed = fleet.placed().expect("the first node is well");
    let mut stages = placed.stages;
    // Not in the order of the layers: that one is another one in each cluster.
    stages.sort_unstable();
    let others: Vec<usize> = stages.iter().copied().filter(|&i| i != 0).collect();
    let victim = chance.pick(&others);
    let away = Duration::from_millis(chance.pick(&AWAY_MS));
    let mut struck = Struck {
        at: Instant::now(),
        what: format!("{} ({})", loss.name(), fleet.nodes[victim].name),
        then: Then::Nothing,
        orphans: Vec::new(),
        drained: None,
    };
    match loss {
        Loss::Hang => {
            let i = chance.pick(&stages);
            struck.what = format!("{} ({})", loss.name(), fleet.nodes[i].name);
            struck.orphans = fleet.nodes[i].runners();
            assert!(!struck.orphans.is_empty(), "{}: no runner process", fleet.nodes[i].name);
            struck.orphans.iter().for_each(|&runner| signal(runner, Signal::STOP));
        }
        Loss::Drain => {
            fleet.nodes[victim].drain(true);
            struck.drained = Some(victim);
        }
        Loss::End => {
            struck.orphans = fleet.nodes[victim].runners();
            signal(fleet.nodes[victim].pid(), Signal::TERM);
            struck.then = Then::Ends(victim);
        }
        Loss::Runner => {
            // The first node's runner may go too: only the node itself must not.
            let i = chance.pick(&stages);
            struck.what = format!("{} ({})", loss.name(), fleet.nodes[i].name);
            assert!(kill_runner(fleet, i) > 0, "{}: no runner process", fleet.nodes[i].name);
        }
        Loss::Node => kill(fleet, victim, &mut struck),
        Loss::Restart => {
            kill(fleet, victim, &mut struck);
            fleet.nodes[victim].restart();
        }
        Loss::Freeze => fleet.nodes[victim].freeze(),
        Loss::Stall => {
            fleet.nodes[victim].freeze();
            struck.then = Then::Back(victim, away);
        }
        Loss::Pair => strike_two(fleet, &others, chance, &mut struck),
        Loss::Replacement => {
            kill(fleet, victim, &mut struck);
            struck.then = Then::KillReplacement { epoch: placed.epoch, dead: victim };
        }
        Loss::Silence => fleet.disconnect(victim),
        Loss::Outage => {
            fleet.disconnect(victim);
            struck.then = Then::Back(victim, away);
        }
        Loss::Reset => fleet.reset(victim),
    }
    if matches!(struck.then, Then::Back(..)) {
        struck.what += &format!(", back after {away:?}");
    }
    struck
}

fn strike_two(fleet: &mut Fleet, others: &[usize], chance: &mut Chance, struck: &mut Struck) {
    let mut two = others.to_vec();
    chance.shuffle(&mut two);
    let mut words = Vec::new();
    for &i in &two[..2] {
        let way = chance.pick(&[Loss::Runner, Loss::Node, Loss::Freeze]);
        words.push(format!("{} {}", fleet.nodes[i].name, way.name()));
        match way {
            Loss::Runner => {
                let _ = kill_runner(fleet, i);
            }
            Loss::Freeze => fleet.nodes[i].freeze(),
            _ => kill(fleet, i, struck),
        }
    }
    struck.what = format!("{}: {}", Loss::Pair.name(), words.join(", "));
}

fn kill(fleet: &mut Fleet, i: usize, struck: &mut Struck) {
    struck.orphans.extend(fleet.nodes[i].runners());
    fleet.nodes[i].kill();
}

/// Returns how many there were: none, while a lost one is started again.
fn kill_runner(fleet: &Fleet, i: usize) -> usize {
    let runners = fleet.nodes[i].runners();
    for &runner in &runners {
        signal(runner, Signal::KILL);
    }
    runners.len()
}

/// Does what is still to be done while the answer goes on, until it is over or nothing is left to do.
pub(crate) fn follow(fleet: &mut Fleet, struck: &mut Struck, is_over: impl Fn() -> bool) {
    match struck.then {
        Then::Nothing => {}
        Then::Back(i, after) => {
            while struck.at.elapsed() < after && !is_over() {
                pause(Duration::from_millis(5));
            }
            fleet.reconnect(i);
            if fleet.nodes[i].is_frozen {
                fleet.nodes[i].thaw();
            }
        }
        Then::Ends(i) => {
            let ended = wait("its end", RECOVERY_STARTS, || Ok(fleet.nodes[i].has_ended()));
            if ended.is_err() {
                struck.what += ", but it does not";
            }
        }
        Then::KillReplacement { epoch, dead } => {
            let mut found = None;
            let _ = wait("a replacement", RECOVERY_STARTS, || {
                let placed = fleet.placed()?;
                let is_new = placed.epoch > epoch;
                // The first node itself must live, but not its runner.
                let mut stages = placed.stages.into_iter().rev().filter(|&i| is_new && i != dead);
                found = stages.next();
                Ok(is_new || is_over())
            });
            match found {
                Some(0) => {
                    struck.what += ", then the runner of node-0";
                    let _ = kill_runner(fleet, 0);
                }
                Some(i) => {
                    struck.what += &format!(", then {}", fleet.nodes[i].name);
                    kill(fleet, i, struck);
                }
                None => struck.what += ", which nobody replaced in time",
            }
        }
    }
}

/// Says what is not as it should be when the answers are complete: runners that outlived their nodes or hang, nodes that did not
/// end, layers that did not move.
pub(crate) fn leftovers(fleet: &mut Fleet, struck: &Struck) -> Vec<String> {
    let mut faults = Vec::new();
    let gone = || Ok(!struck.orphans.iter().any(|&pid| is_running(pid)));
    faults.extend(wait("the end of runners", PATIENCE_AFTER, gone).err());
    if let Then::Ends(i) = struck.then
        && !fleet.nodes[i].has_ended()
    {
        faults.push(format!("{} does not end", fleet.nodes[i].name));
    }
    if let Some(drained) = struck.drained {
        let moved = || Ok(!fleet.placed()?.stages.contains(&drained));
        faults.extend(wait("the move of a drained node's layers", PATIENCE_AFTER, moved).err());
    }
    faults
}
