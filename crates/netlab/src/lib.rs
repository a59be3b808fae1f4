//! Whole small networks on one machine, without privileges, for tests.
//!
//! ```text
//! host "a" ── eth0 ─┐                        ┌─ eth0 ── host "c"
//!                   ├─ segment ─ router ─ segment
//! host "b" ── eth0 ─┘   (WiFi)      (LAN)    └─ eth0 ── host "d"
//! ```
//!
//! A [`Host`] is a network namespace with addresses, neighbours and routes of its own; closures and processes run inside it.
//! A [`Segment`] is an Ethernet switch in user space, a thread that carries frames between the hosts' TAP devices and may
//! delay, lose and filter them: the kernel's own emulator needs a module that many machines lack.
//!
//! A [`Throttle`] gives processes a share of a core, so that hosts differ in speed.
//!
//! None of it touches the machine's real interfaces: a test runs itself again inside namespaces of its own, see [`isolated`].
//!
//! Invariants: a frame waits for its delay and no lock or sleep besides; what a segment holds is bounded; everything ends with
//! the test's process.
#![cfg(target_os = "linux")]

mod error;
mod frame;
mod host;
mod http;
mod sandbox;
mod segment;
mod switch;
mod throttle;

pub use self::{
    error::{Error, Result},
    host::{Host, Process},
    sandbox::{isolated, isolated_program},
    segment::Segment,
    switch::Counters,
    throttle::Throttle,
};
