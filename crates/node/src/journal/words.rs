//! The sentences of the event log. Names and reasons are data; what shows them makes them inert.

use std::time::Duration;

use shoal_proto::{InstanceId, NodeId, control::DrainCause};

use super::{LogLevel, Note};
use crate::{Error, Setting, SettingValue};

/// An event about a device.
fn of_node(level: LogLevel, kind: &'static str, node: NodeId, text: String) -> Note {
    Note { level, kind, text, node: Some(node), instance: None, model: None }
}

/// An event about an instance.
fn of_instance(
    level: LogLevel,
    kind: &'static str,
    (instance, model): (InstanceId, &str),
    text: String,
) -> Note {
    let (instance, model) = (Some(instance), Some(model.to_owned()));
    Note { level, kind, text, node: None, instance, model }
}

/// An event about a model.
fn of_model(level: LogLevel, kind: &'static str, model: &str, text: String) -> Note {
    let model = Some(model.to_owned());
    Note { level, kind, text, node: None, instance: None, model }
}

/// A duration as people say it: `1.8 s`, `14 s`, `3 min`, `2 h`.
pub(super) fn lasting(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_secs() {
        0..=9 => format!("{seconds:.1} s"),
        10..=119 => format!("{seconds:.0} s"),
        120..=7199 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3600.0),
    }
}

/// Names in a row: `a`, `a and b`, `a, b and c`.
pub(super) fn in_a_row(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

pub(crate) fn started(node: NodeId, name: &str) -> Note {
    let version = env!("CARGO_PKG_VERSION");
    of_node(LogLevel::Info, "node_started", node, format!("{name} has started, Shoal {version}."))
}

pub(super) fn joined(node: NodeId, name: &str) -> Note {
    of_node(LogLevel::Notice, "node_joined", node, format!("{name} has joined."))
}

pub(super) fn left(node: NodeId, name: &str) -> Note {
    let text = format!("{name} belongs to the cluster no longer.");
    of_node(LogLevel::Notice, "node_left", node, text)
}

pub(super) fn suspect(node: NodeId, name: &str) -> Note {
    of_node(LogLevel::Notice, "node_suspect", node, format!("{name} is silent."))
}

pub(super) fn dead(node: NodeId, name: &str, silent: Option<Duration>) -> Note {
    let text = match silent {
        Some(silent) => format!("{name} is gone, after {} of silence.", lasting(silent)),
        None => format!("{name} is gone."),
    };
    of_node(LogLevel::Warning, "node_dead", node, text)
}

pub(super) fn back(node: NodeId, name: &str, away: Option<Duration>) -> Note {
    let text = match away {
        Some(away) => format!("{name} is back after {}.", lasting(away)),
        None => format!("{name} is back."),
    };
    of_node(LogLevel::Notice, "node_back", node, text)
}

pub(super) fn restarted(node: NodeId, name: &str) -> Note {
    of_node(LogLevel::Notice, "node_restarted", node, format!("{name} was started again."))
}

pub(super) fn renamed(node: NodeId, before: &str, name: &str) -> Note {
    of_node(LogLevel::Info, "node_renamed", node, format!("{before} is called {name} now."))
}

pub(super) fn drain_began(node: NodeId, name: &str, cause: DrainCause) -> Note {
    let level = match cause {
        DrainCause::Asked | DrainCause::Ending => LogLevel::Notice,
        DrainCause::Hot | DrainCause::LowBattery | DrainCause::LowMemory => LogLevel::Warning,
    };
    let text = format!("{name} {}: it gives its layers to the others.", cause.sentence());
    of_node(level, "drain_began", node, text)
}

pub(super) fn drain_ended(node: NodeId, name: &str) -> Note {
    of_node(LogLevel::Info, "drain_ended", node, format!("{name} takes layers again."))
}

pub(super) fn placed(of: (InstanceId, &str), names: &[String]) -> Note {
    let text = format!("{} is placed on {}.", of.1, in_a_row(names));
    of_instance(LogLevel::Info, "instance_placed", of, text)
}

pub(super) fn ready(of: (InstanceId, &str), names: &[String], after: Option<Duration>) -> Note {
    let on = in_a_row(names);
    let text = match after {
        Some(after) => format!("{} is ready on {on}, after {}.", of.1, lasting(after)),
        None => format!("{} is ready on {on}.", of.1),
    };
    of_instance(LogLevel::Info, "instance_ready", of, text)
}

pub(super) fn healing(of: (InstanceId, &str), why: Option<&str>) -> Note {
    let text = match why {
        Some(why) => format!("{} heals: {why}.", of.1),
        None => format!("{} heals.", of.1),
    };
    of_instance(LogLevel::Warning, "instance_healing", of, text)
}

pub(super) fn healed(of: (InstanceId, &str), names: &[String], pause: Duration) -> Note {
    let text = format!("{} goes on after {}, on {}.", of.1, lasting(pause), in_a_row(names));
    of_instance(LogLevel::Notice, "instance_healed", of, text)
}

pub(super) fn moved(of: (InstanceId, &str), names: &[String], why: Option<&str>) -> Note {
    let on = in_a_row(names);
    let text = match why {
        Some(why) => format!("{} is on {on} now: {why}.", of.1),
        None => format!("{} is on {on} now.", of.1),
    };
    of_instance(LogLevel::Notice, "instance_moved", of, text)
}

pub(super) fn failed(of: (InstanceId, &str), why: Option<&str>) -> Note {
    let text = format!("{} cannot run: {}.", of.1, why.unwrap_or("nobody says why"));
    of_instance(LogLevel::Error, "instance_failed", of, text)
}

pub(super) fn dropped(of: (InstanceId, &str)) -> Note {
    of_instance(LogLevel::Info, "instance_dropped", of, format!("{} was unloaded.", of.1))
}

pub(super) fn suggestion(of: (InstanceId, &str), what: &str) -> Note {
    let text = format!("{} could be faster: {what}.", of.1);
    of_instance(LogLevel::Notice, "suggestion", of, text)
}

pub(super) fn runner_restarted(of: (InstanceId, &str), node: NodeId, why: Option<&str>) -> Note {
    let why = why.unwrap_or("it ended");
    let text = format!("The process that computes layers of {} was started again: {why}.", of.1);
    let note = of_instance(LogLevel::Warning, "runner_restarted", of, text);
    Note { node: Some(node), ..note }
}

pub(super) fn runner_given_up(of: (InstanceId, &str), node: NodeId, why: Option<&str>) -> Note {
    let why = why.unwrap_or("it ended too often");
    let text = format!("The process that computes layers of {} is given up: {why}.", of.1);
    let note = of_instance(LogLevel::Error, "runner_given_up", of, text);
    Note { node: Some(node), ..note }
}

pub(super) fn download_began(model: &str) -> Note {
    let text = format!("The download of {model} has begun.");
    of_model(LogLevel::Info, "download_began", model, text)
}

pub(super) fn download_paused(model: &str) -> Note {
    let text = format!("The download of {model} is paused.");
    of_model(LogLevel::Info, "download_paused", model, text)
}

pub(super) fn download_done(model: &str) -> Note {
    of_model(LogLevel::Info, "download_done", model, format!("{model} is on this device."))
}

pub(super) fn download_failed(model: &str, why: &str) -> Note {
    let text = format!("The download of {model} failed: {why}.");
    of_model(LogLevel::Error, "download_failed", model, text)
}

pub(super) fn download_cancelled(model: &str) -> Note {
    let text = format!("The download of {model} was cancelled.");
    of_model(LogLevel::Info, "download_cancelled", model, text)
}

pub(crate) fn answer_failed(of: (InstanceId, &str), error: &Error) -> Note {
    let text = format!("An answer of {} failed: {}.", of.1, crate::error::chain(error));
    of_instance(LogLevel::Error, "answer_failed", of, text)
}

pub(crate) fn answer_healed(of: (InstanceId, &str), pause: Duration, n_recomputed: u32) -> Note {
    let tokens = if n_recomputed == 1 { "token was" } else { "tokens were" };
    let text = format!(
        "An answer of {} went on after {}; {n_recomputed} {tokens} computed again.",
        of.1,
        lasting(pause)
    );
    of_instance(LogLevel::Notice, "answer_healed", of, text)
}

pub(crate) fn set(node: NodeId, name: &str, setting: Setting, value: &SettingValue) -> Note {
    let text = match (setting, value) {
        (Setting::Name, value) => format!("This device is called {value} now."),
        (Setting::BatteryFloor, value) => {
            format!("{name} gives its layers away below {value} % of its battery.")
        }
        (Setting::TemperatureCeiling, value) => {
            format!("{name} gives its layers away from {value} °C on.")
        }
        (Setting::MemoryShare, value) => {
            format!("{name} gives {value} % of its free memory to models.")
        }
        (Setting::DownloadRate, SettingValue::Number(rate)) => {
            format!("{name} downloads at {rate} bytes per second at most.")
        }
        (Setting::DownloadRate, _) => format!("{name} downloads as fast as it can."),
        (Setting::Auto, SettingValue::Switch(true)) => {
            format!("{name} lets models move by themselves.")
        }
        (Setting::Auto, _) => format!("{name} does not let models move by themselves."),
        (Setting::Parallel, value) => {
            format!("{name} lets {value} answers of a model run at once.")
        }
    };
    of_node(LogLevel::Info, "settings_changed", node, text)
}

pub(crate) fn invited(node: NodeId, valid_for: Option<Duration>) -> Note {
    let text = match valid_for {
        Some(valid_for) => format!("An invitation was made, good for {}.", lasting(valid_for)),
        None => "An invitation was made, good for ever.".to_owned(),
    };
    of_node(LogLevel::Info, "invited", node, text)
}

pub(crate) fn invite_revoked(node: NodeId) -> Note {
    of_node(LogLevel::Info, "invite_revoked", node, "An invitation was revoked.".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: (InstanceId, &str) = (InstanceId(7), "demo");

    #[test]
    fn durations_are_said_as_people_do() {
        for (ms, text) in [
            (0, "0.0 s"),
            (1_830, "1.8 s"),
            (14_400, "14 s"),
            (119_000, "119 s"),
            (150_000, "2 min"),
            (86_400_000, "24 h"),
        ] {
            assert_eq!(lasting(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn sentences_say_who_what_and_why() {
        let node = NodeId([1; 32]);
        let names = ["a".to_owned(), "b".to_owned(), "<i>c".to_owned()];
        let pause = Duration::from_millis(1800);
        for (note, text) in [
            (joined(node, "<b>x"), "<b>x has joined."),
            (dead(node, "x", Some(Duration::from_secs(5))), "x is gone, after 5.0 s of silence."),
            (back(node, "x", Some(Duration::from_secs(14))), "x is back after 14 s."),
            (
                drain_began(node, "x", DrainCause::Hot),
                "x is too hot: it gives its layers to the others.",
            ),
            (placed(OF, &names), "demo is placed on a, b and <i>c."),
            (ready(OF, &names[..2], None), "demo is ready on a and b."),
            (healed(OF, &names[..1], pause), "demo goes on after 1.8 s, on a."),
            (failed(OF, Some("no memory")), "demo cannot run: no memory."),
            (
                answer_healed(OF, pause, 57),
                "An answer of demo went on after 1.8 s; 57 tokens were computed again.",
            ),
            (
                answer_failed(OF, &Error::StageFailed { message: "it broke".into() }),
                "An answer of demo failed: a stage failed: it broke.",
            ),
            (invited(node, None), "An invitation was made, good for ever."),
        ] {
            assert_eq!(note.text, text);
        }
        assert_eq!(drain_began(node, "x", DrainCause::Hot).level, LogLevel::Warning);
        assert_eq!(drain_began(node, "x", DrainCause::Asked).level, LogLevel::Notice);
    }

    #[test]
    fn every_setting_has_its_sentence() {
        let node = NodeId([1; 32]);
        let mut seen = std::collections::BTreeSet::new();
        for setting in Setting::ALL {
            let note = set(node, "x", setting, &SettingValue::Number(20));
            assert!(seen.insert(note.text.clone()), "{}", note.text);
        }
    }
}
