//! Nodes, each a process on a machine of its own, on networks with walls, delays and changes; skipped, loudly, where the machine
//! lets nobody make networks.
#![cfg(target_os = "linux")]

#[path = "../program/chat.rs"]
mod chat;
mod discovery;
mod node;
mod roaming;
#[path = "../program/start.rs"]
mod start;
mod subnets;
