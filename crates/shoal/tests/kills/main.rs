//! The answer goes on: real processes of the program, of which some are lost while an answer is under way, at any position of it.
//!
//! Every test has a short form, which runs by itself, and a long one; variables choose ([`form`]). A failure names what
//! repeats it.
//!
//! ```sh
//! cargo test -p shoal --test kills                                    # the short forms
//! KILL_SEED=7 KILL_CASE=1234 cargo test -p shoal --test kills loses   # one case again
//! KILL_CASES=all KILL_REPORT=kills.json cargo test --release -p shoal --test kills loses -- --nocapture
//! cargo test -p shoal --test kills moves                              # what moves although nothing is lost
//! KILL_STALLS=20 cargo test --release -p shoal --test kills stall -- --nocapture
//! KILL_CHATS=100 KILL_REPORT=weather.json cargo test --release -p shoal --test kills weather -- --nocapture
//! KILL_MINUTES=60 KILL_REPORT=soak.json cargo test --release -p shoal --test kills soak -- --nocapture
//! ```
#![cfg(target_os = "linux")]

mod ask;
mod cases;
mod chance;
mod fleet;
mod form;
mod losses;
mod moves;
mod node;
mod report;
mod soak;
mod stalls;
#[path = "../program/start.rs"]
mod start;
mod trial;
mod weather;
