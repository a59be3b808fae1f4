//! One node of Shoal: it drives the requests that reach it, runs the stages that are placed on it, and keeps in touch with
//! its peers.
//!
//! [`Node`] is a clonable handle; the work is done by actors behind it. [`Node::generate`] is the one way to an answer: a
//! model that lives on this node alone is a pipeline of one stage, and takes the same path as one that is spread over many.
//!
//! ```text
//! Node ── driver (one per request) ──┐
//!      ── runner (one per stage) ────┼── router ── links (one per peer)      data plane
//!      ── peers ── connections ──────┘                                      control plane
//! ```

mod admission;
pub mod bench;
mod breakers;
pub mod chats;
mod clock;
mod data_dir;
mod drain;
mod driver;
mod durable;
mod error;
mod files;
mod generate;
mod history;
mod instances;
mod instruments;
mod inventory;
mod journal;
mod kept;
mod memory;
mod models;
mod network;
mod node;
mod obtain;
mod outlook;
mod peers;
mod plan;
mod planning;
mod profile;
mod queue;
mod remembered;
mod requests;
mod resume;
mod router;
mod rtts;
mod runner;
mod sequences;
mod settings;
mod shelf;
mod stats;
mod stop;
mod totals;
mod trace;
mod vitals;
mod vouch;
mod warm;

use shoal_engine::{Compute, Isa};

pub use breakers::BREAKERS;
pub use error::{Error, chain};
pub use generate::{
    ChatMessage, Event, FinishReason, GenerateRequest, Generation, Prompt, Timings, Usage,
};
pub use history::{HistoryPage, NodeHistory, VitalsSample, WorkSample};
pub use instances::InstanceStatus;
pub use journal::{LogEntry, LogLevel, LogPage};
pub use node::{Config, ModelEntry, NetworkConfig, Node, NodeStatus};
pub use plan::{
    Check, Finding, Help, InviteOptions, Invited, LeftOut, PlaceRequest, PlanCandidate, PlanReport,
    PlanStage,
};
pub use requests::{Caller, Production, RequestState, RequestStatus};
#[cfg(unix)]
pub use runner::child::run_stage;
pub use runner::{RunnerCommand, RunnerStatus};
pub use settings::{Setting, SettingStatus, SettingValue};
pub use shelf::{Fit, Offer};
pub use shoal_cluster::timeline::Patience;
pub use shoal_hub as hub;
pub use shoal_net::{Invitation, InvitationId, InvitationState, Traffic};
pub use shoal_proto as proto;
pub use totals::{Histogram, Totals};
pub use trace::{StepTrace, Trace};

/// Returns what computes: threads, and an instruction set by name or the best.
fn compute(n_threads: Option<usize>, isa: Option<&str>) -> Result<Compute, Error> {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let n_threads = n_threads.unwrap_or(n_cores).max(1);
    let Some(name) = isa else { return Ok(Compute::new(n_threads)) };
    let available = Isa::all_available();
    match available.iter().find(|isa| isa.to_string() == name) {
        Some(&isa) => Ok(Compute::with_isa(isa, n_threads)),
        None => Err(Error::UnknownIsa {
            name: name.to_owned(),
            available: available.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// Returns 64 random bits from the system.
///
/// # Errors
/// If the system gives none.
pub fn random_u64() -> Result<u64, Error> {
    getrandom::u64().map_err(|error| Error::Random { message: error.to_string() })
}
