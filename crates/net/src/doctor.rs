//! What is wrong with the network, in words, and what to do about it.
//!
//! A pure function from facts to findings: the caller gathers the facts, so every rule is tested without a network. A rule
//! speaks only when its evidence is there; what is unknown is no evidence.

mod checks;
mod rules;

use std::net::SocketAddr;

use shoal_proto::NodeId;

use crate::Observations;

pub use checks::{Check, CheckState, examine};

/// What is known of this node and its network.
#[derive(Debug, Clone)]
pub struct Facts {
    /// This node.
    pub node: NodeId,
    /// This software's version, as in [`DiscoveryConfig`](crate::DiscoveryConfig).
    pub software: String,
    /// What discovery has seen, after some seconds of looking.
    pub observations: Observations,
    /// The cluster's other members.
    pub members: Vec<RememberedMember>,
    /// `TERMUX_VERSION` of the environment.
    pub termux_version: Option<String>,
    /// The Android version that this process's application was made for (targetSdkVersion), if known.
    pub target_sdk: Option<u32>,
    /// The device's Android API level.
    pub android_api: Option<u32>,
    /// Whether the default gateway answers.
    pub gateway_reachable: Option<bool>,
    /// Why the HTTP server does not listen, if so.
    pub http_error: Option<String>,
}

/// A member that is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedMember {
    /// Its id.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Where it was last.
    pub addrs: Vec<SocketAddr>,
    /// Whether this node is connected to it.
    pub is_connected: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good.
    Ok,
    /// Harmless, but good to know.
    Note,
    /// Something works less well than it could.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that the doctor has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A name for programs, in kebab case; stable.
    pub code: &'static str,
    /// What is so.
    pub sentence: String,
    /// What to do; empty if nothing.
    pub what_to_do: String,
}

/// Judges the facts: the worst finding first, and a good word if there is nothing to worry about. Never empty.
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<_> = rules::ALL.iter().flat_map(|it| (it.rule)(facts)).collect();
    if findings.iter().all(|finding| finding.severity < Severity::Warning) {
        findings.push(rules::all_well(facts));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

#[cfg(test)]
mod tests;
