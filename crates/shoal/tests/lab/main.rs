//! Nodes, each a process on a machine of its own, on networks with walls, delays and changes; skipped, loudly, where the machine
//! lets nobody make networks.
#![cfg(target_os = "linux")]

mod node;
mod roaming;
mod subnets;
