//! One node of Shoal: it drives the requests that reach it, runs the stages that are placed on it, and keeps in touch with
//! its peers.
//!
//! [`Node`] is a clonable handle; the work is done by actors behind it. [`Node::generate`] is the one way to an answer: a
//! model that lives on this node alone is a pipeline of one stage, and takes the same path as one that is spread over many.

mod generate;
mod node;

pub use generate::{
    ChatMessage, Event, FinishReason, GenerateRequest, Generation, Prompt, Timings, Usage,
};
pub use node::{Config, Error, InstanceStatus, ModelEntry, NetworkConfig, Node, NodeStatus};
