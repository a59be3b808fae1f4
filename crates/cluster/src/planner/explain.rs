//! Plans in words.

use std::fmt::Write;

use shoal_proto::NodeId;

use super::{Candidate, Plan};

/// Seconds as milliseconds, for people.
fn ms(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1000.0)
}

impl Plan {
    /// Says in a sentence why the best candidate is the best; `name` names a node.
    pub fn sentence(&self, name: impl Fn(NodeId) -> String) -> String {
        let best = self.best();
        let names: Vec<String> = best.stages.iter().map(|stage| name(stage.node)).collect();
        let [one, two] = [self.few[0].as_ref(), self.few[1].as_ref()];
        let network = |more: &Candidate, less: &Candidate| more.network_s() - less.network_s();
        let saved = |more: &Candidate, less: &Candidate| less.compute_s() - more.compute_s();
        let mut text = String::new();
        let written = match (names.as_slice(), one, two) {
            ([only], _, Some(two)) => {
                let (network, saved) = (network(two, best), saved(two, best));
                let computing = computing(saved, ["saves", "adds"]);
                let fastest = if two.tokens_per_s < best.tokens_per_s {
                    "and is fastest there: each further device adds"
                } else {
                    "and no more are needed: each further device adds"
                };
                write!(
                    text,
                    "fits on one device ({only}) {fastest} {} of network per token and {computing}",
                    ms(network)
                )
            }
            ([only], _, None) => write!(
                text,
                "fits on one device ({only}), and there is no other that could take a part of it"
            ),
            (many, Some(one), _) => {
                let how = if best.tokens_per_s > one.tokens_per_s {
                    "is faster on"
                } else {
                    "fits on one device, and runs as asked on"
                };
                let (network, saved) = (network(best, one), saved(best, one));
                write!(
                    text,
                    "{how} {} devices ({}), {:.1} instead of {:.1} tokens per second: they add {} of network per token and {}",
                    many.len(),
                    many.join(", "),
                    best.tokens_per_s,
                    one.tokens_per_s,
                    ms(network),
                    computing(saved, ["save", "add"]),
                )
            }
            (many, None, _) => {
                let first = self.each_further.iter().find(|help| help.tokens_per_s.is_some());
                let fewest = first.map_or(many.len(), |help| help.n_nodes);
                let needs = if fewest == many.len() {
                    format!("needs the memory of {} devices", many.len())
                } else {
                    format!("needs the memory of {fewest} devices and runs on {}", many.len())
                };
                write!(
                    text,
                    "{needs} ({}): {} of computing and {} of network per token",
                    many.join(", "),
                    ms(best.compute_s()),
                    ms(best.network_s()),
                )
            }
        };
        written.expect("writing to a string does not fail");
        text
    }
}

/// Says what devices that do so (`save`) or one that does (`saves`) save in computing, or add to it.
fn computing(seconds: f64, [saves, adds]: [&str; 2]) -> String {
    if seconds.abs() < 5e-5 {
        format!("{saves} no computing")
    } else if seconds < 0.0 {
        format!("{adds} {} of computing", ms(-seconds))
    } else {
        format!("{saves} {} of computing", ms(seconds))
    }
}
