//! Nodes that form clusters on loopback: who belongs, and what becomes of instances.

mod admission;
mod board;
mod chats;
mod instances;
mod setup;
