//! The engine on small synthetic models: what must not change a bit, what must be refused, and with which words.

mod oracles;
mod refusals;
mod sequences;
mod shares;
mod support;
