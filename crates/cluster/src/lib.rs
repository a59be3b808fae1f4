//! What a node knows of its cluster, and what follows from it, as a pure state machine: no sockets, no clock, no tasks.
//!
//! [`State::apply`] takes in what happened, [`State::plan`] says what to do now; time is an argument, measured from any fixed
//! start. Three things that other systems mix are kept apart: *membership* is a fact about a node (alive, suspect or dead, by
//! what was heard of it and when); *instances* are small records with an epoch, of which the highest wins; the *health of a
//! stage* is a fact about the instance that it belongs to. None of them triggers another: no election, no campaign, and a
//! crashed stage never makes its node look dead.
//!
//! [`planner`] decides where a model should run, and says why. [`timeline`] is one request: what its driver sends, and how it
//! goes on after a loss.
//! [`planner`] decides where a model should run, and says why. [`Betterment`], [`Straggler`] and [`Strain`] decide when a change
//! is worth its trouble: that a better placement has lasted, that a stage is slow, that a device suffers.

mod betterment;
mod membership;
pub mod planner;
mod state;
mod straggler;
mod strain;
pub mod timeline;

pub use betterment::{Advice, Betterment};
pub use membership::{Liveness, Member, Timing};
pub use state::{Action, Event, State};
pub use straggler::Straggler;
pub use strain::{Limits, Strain};

/// A moment, as the time since any fixed start.
pub type Time = std::time::Duration;
