//! The program as its users meet it: real processes, real sockets on loopback, the demonstration model.

mod answers;
mod cluster;
mod failures;
mod membership;
mod models;
mod process;
