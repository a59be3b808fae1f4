//! The program as its users meet it: real processes, real sockets on loopback, the demonstration model.

mod answers;
#[path = "../program/chat.rs"]
mod chat;
mod cluster;
mod failures;
mod membership;
mod models;
mod process;
mod runners;
#[path = "../program/start.rs"]
mod start;
