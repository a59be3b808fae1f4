//! The network between nodes: identities, tickets, an endpoint that dials by key, the handshake that proves membership,
//! framed streams, the search for peers ([`Discovery`]) and what is wrong with a network ([`diagnose`]). This is the only
//! crate that knows the QUIC library (iroh); nothing of it leaks through this API.
//!
//! ```text
//! Identity ───┐
//! Membership ─┼─► Endpoint ──connect/accept──► Connection ──► request / next_request    control plane
//! Interfaces ─┘      (TLS by key, then membership)    └───► FrameSender / FrameReceiver  data plane
//!     ▲                  │                                └► transfer / next_transfer   transfer plane
//!     └────── Roll ◄──join(Ticket)
//! ```
//!
//! Invariants:
//! - **Nobody gets in.** TLS proves both keys and the handshake ([`Endpoint::connect`]) proves that both sides hold a
//!   secret of the cluster, before a byte of Shoal's protocols is parsed. Until then a stranger may open one stream and
//!   fill 64 KiB. A device gets the secret by a [`Ticket`], and a device that was removed has no use for its own.
//! - **Everything is bounded**: messages, frames, streams, handshakes in progress, queues; every wait has a time-out that
//!   says what it waited for, and every future can be dropped without harm unless its documentation says otherwise.
//! - **No public service is spoken to**: no DNS, no address lookup, no port mapping, and no relay but the user's own. Only
//!   sockets of the chosen interfaces are bound.

mod accept;
mod connection;
mod device_mark;
mod discovery;
mod doctor;
mod endpoint;
mod error;
mod frames;
mod handshake;
mod identity;
mod interfaces;
mod join;
mod key_file;
mod knock;
mod membership;
mod plane;
mod proof;
mod reader;
mod relay;
mod stranger;
mod ticket;
mod transfers;

#[cfg(test)]
mod tests;

pub use connection::{Connection, Responder};
pub use discovery::{
    Discovery, DiscoveryConfig, Found, InterfaceObservations, Looking, MemberSeen, Method,
    Observations, PORT as DISCOVERY_PORT,
};
pub use doctor::{
    Check, CheckState, Facts, Finding, RememberedMember, Severity, diagnose, examine,
};
pub use endpoint::{Endpoint, EndpointConfig, Timing};
pub use error::{CloseReason, Error, TicketRefusal};
pub use frames::{FrameReceiver, FrameSender};
pub use identity::Identity;
pub use interfaces::{InterfaceKind, Interfaces};
pub use knock::is_port_closed;
pub use membership::{Invitation, InvitationId, InvitationState, Invite, Membership, Traffic};
pub use plane::Plane;
pub use relay::{Relay, RelayError};
pub use ticket::{Ticket, TicketError};
pub use transfers::{TransferReader, TransferWriter};
