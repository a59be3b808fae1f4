//! Nodes that get a model from the hub and from each other, over real connections on loopback.

mod setup;
mod shares;
