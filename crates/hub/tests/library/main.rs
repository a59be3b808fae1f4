//! The library as a whole: against a hub that behaves like the real one, alone and with other libraries as its peers.

mod cluster;
mod faults;
mod names;
mod setup;
mod shares;
mod together;
