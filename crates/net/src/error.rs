//! What can go wrong between nodes.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use shoal_proto::{NodeId, control::ControlError, frame::FrameError, roll::RollError};

use crate::{Plane, TicketError, connection::code};

/// An error of the QUIC library, kept for the chain of causes only.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key file cannot be read or written.
    #[error("{}: cannot be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `written` or `protected`.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A key file holds something else. It is never overwritten: it may be another program's.
    #[error("{}: expected a key of 64 hexadecimal digits, got {bytes} other bytes", path.display())]
    MalformedFile {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        bytes: u64,
    },
    /// A key file was copied from another device or directory.
    #[error(
        "{}: this data directory is a copy: two devices with one key would be taken for one; \
         remove this file to make this a device of its own, or run once with --adopt-identity if \
         the original is gone",
        path.display()
    )]
    CopiedIdentity {
        /// The file.
        path: PathBuf,
    },
    /// The operating system has no randomness to give.
    #[error("the system's random number generator failed")]
    Random {
        /// Why.
        source: Source,
    },
    /// The network interfaces cannot be listed.
    #[error("network interfaces cannot be listed")]
    ListInterfaces {
        /// Why.
        source: io::Error,
    },
    /// No interface has this name.
    #[error("interface {name:?}: expected one of {}", existing.join(", "))]
    UnknownInterface {
        /// The name as it was given.
        name: String,
        /// The names that exist.
        existing: Vec<String>,
    },
    /// The chosen interfaces have no address yet.
    #[error("interfaces {}: expected at least one address, got none", names.join(", "))]
    NoAddress {
        /// The chosen interfaces.
        names: Vec<String>,
    },
    /// The sockets cannot be bound.
    #[error("cannot listen on {addrs:?}")]
    Bind {
        /// The addresses.
        addrs: Vec<SocketAddr>,
        /// Why.
        source: Source,
    },
    /// The endpoint was closed.
    #[error("the endpoint is closed")]
    EndpointClosed,
    /// The id is no Ed25519 public key.
    #[error("node {node}: its id is no public key")]
    InvalidNodeId {
        /// The id.
        node: NodeId,
    },
    /// A node dialled itself.
    #[error("node {node} is this node: it does not connect to itself")]
    OwnId {
        /// The id.
        node: NodeId,
    },
    /// Nothing is known of where the peer is.
    #[error("peer {}: expected at least one address, got none", peer.short())]
    NoPeerAddress {
        /// The peer.
        peer: NodeId,
    },
    /// No address of the peer answered with its key.
    #[error("peer {} cannot be reached at {addrs:?}", peer.short())]
    Unreachable {
        /// The peer.
        peer: NodeId,
        /// Where it was tried.
        addrs: Vec<SocketAddr>,
        /// Why.
        source: Source,
    },
    /// The peer refused the protocol's version.
    #[error(
        "peer {}: expected protocol {}, which it does not speak: update the older of the two nodes",
        peer.short(), plane.alpn()
    )]
    OtherProtocol {
        /// The peer.
        peer: NodeId,
        /// What it was asked to speak.
        plane: Plane,
    },
    /// The peer proved its key but not its membership, or refused this node's proof.
    #[error(
        "peer {} does not hold this cluster's secret: join with a fresh ticket from `shoal invite`",
        peer.short()
    )]
    WrongSecret {
        /// The peer.
        peer: NodeId,
    },
    /// The peer was removed from this cluster.
    #[error("peer {} was removed from this cluster", peer.short())]
    Revoked {
        /// The peer.
        peer: NodeId,
    },
    /// The peer says that this node was removed from the cluster.
    #[error(
        "this device was removed from the cluster, says peer {}: join again with a fresh ticket \
         from `shoal invite`",
        peer.short()
    )]
    Removed {
        /// The peer.
        peer: NodeId,
    },
    /// The ticket is of no use.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The node that made the ticket does not take it.
    #[error("peer {} refused the ticket: {refusal}", peer.short())]
    TicketRefused {
        /// The peer.
        peer: NodeId,
        /// Why.
        refusal: TicketRefusal,
    },
    /// The file that a membership is kept in is damaged. It is never overwritten.
    #[error(
        "{}: expected a membership, but {reason}: restore it, or remove it and join again with a \
         ticket from `shoal invite`",
        path.display()
    )]
    DamagedMembership {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The task that should have written a membership ended early.
    #[error("the membership was not written")]
    Save {
        /// Why.
        source: Source,
    },
    /// A cluster whose roll does not name this node cannot be entered.
    #[error("node {} is not on the roll of the cluster that it should enter", node.short())]
    NotOnRoll {
        /// This node.
        node: NodeId,
    },
    /// A node that is to forget itself.
    #[error("node {} is this node: it leaves a cluster, and is not removed from it", node.short())]
    ForgetsItself {
        /// This node.
        node: NodeId,
    },
    /// The roll does not allow a change.
    #[error("the cluster's roll cannot be changed")]
    Roll {
        /// Why.
        source: RollError,
    },
    /// The peer broke the membership handshake.
    #[error("peer {} handshake: expected {expected}, got {got}", peer.short())]
    Handshake {
        /// The peer.
        peer: NodeId,
        /// What should have come.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// The peer did not do something in time.
    #[error("peer {}: no {awaited} within {after:?}", peer.short())]
    TimedOut {
        /// The peer.
        peer: NodeId,
        /// What was waited for.
        awaited: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The connection ended.
    #[error("peer {}: connection ended: {reason}", peer.short())]
    Closed {
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: CloseReason,
    },
    /// The call belongs to another plane.
    #[error("peer {}: expected a connection of the {expected:?} plane", peer.short())]
    OtherPlane {
        /// The peer.
        peer: NodeId,
        /// The plane that the call needs.
        expected: Plane,
    },
    /// A control message is longer than the bound.
    #[error("peer {}: expected a control message of at most {max} bytes, got more", peer.short())]
    TooLong {
        /// The peer.
        peer: NodeId,
        /// The bound.
        max: usize,
    },
    /// A control message does not decode.
    #[error("peer {}: unreadable control message", peer.short())]
    Control {
        /// The peer.
        peer: NodeId,
        /// Why.
        source: ControlError,
    },
    /// The peer took a request and dropped it without a response, or a frame stream and refused the rest.
    #[error("peer {} gave up on {what}", peer.short())]
    GaveUp {
        /// The peer.
        peer: NodeId,
        /// On what.
        what: &'static str,
    },
    /// The peer refused a transfer.
    #[error("peer {} refused a transfer: {message}", peer.short())]
    Refused {
        /// The peer.
        peer: NodeId,
        /// Its reason.
        message: String,
    },
    /// The answer to a request for a transfer is neither bytes nor a refusal.
    #[error("peer {}: expected a transfer or a refusal, got an answer of kind {got}", peer.short())]
    TransferAnswer {
        /// The peer.
        peer: NodeId,
        /// The first byte of the answer.
        got: u8,
    },
    /// A frame breaks the protocol; its connection is closed.
    #[error("peer {}: unreadable frame", peer.short())]
    Frame {
        /// The peer.
        peer: NodeId,
        /// Why.
        source: FrameError,
    },
    /// The stream of frames ended inside a frame.
    #[error("peer {}: frame stream ended {missing} bytes before the frame's end", peer.short())]
    CutFrame {
        /// The peer.
        peer: NodeId,
        /// Bytes of the header or of the payload that never came.
        missing: usize,
    },
}

/// Why the node that made a ticket does not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TicketRefusal {
    /// It does not know the ticket, or the proof was wrong.
    #[error("there is no such invitation: ask for a new one with `shoal invite`")]
    Unknown,
    /// Its time is over, by that node's clock.
    #[error("it has expired: ask for a new one with `shoal invite`")]
    Expired,
    /// It was for one device, and another one has used it.
    #[error("another device has used it: ask for a new one with `shoal invite`")]
    Used,
    /// It was withdrawn, or somebody was removed from the cluster since.
    #[error(
        "it was withdrawn, or a device was removed from the cluster since it was made: ask for a \
         new one with `shoal invite`"
    )]
    Void,
    /// The cluster has no room for another member.
    #[error("the cluster is full: forget a device first")]
    Full,
    /// Too many wrong tickets came from this device's address.
    #[error("too many wrong tickets came from the same address: wait a minute")]
    TooMany,
    /// The other node cannot write down who its members are.
    #[error("the node that invites cannot write down its members: see its log")]
    NotKept,
}

impl TicketRefusal {
    const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Expired,
        Self::Used,
        Self::Void,
        Self::Full,
        Self::TooMany,
        Self::NotKept,
    ];

    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Unknown => code::TICKET_UNKNOWN,
            Self::Expired => code::TICKET_EXPIRED,
            Self::Used => code::TICKET_USED,
            Self::Void => code::TICKET_VOID,
            Self::Full => code::FULL,
            Self::TooMany => code::TOO_MANY,
            Self::NotKept => code::NOT_KEPT,
        }
    }

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| u64::from(refusal.code()) == code)
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// This side closed it.
    Local,
    /// The peer said goodbye, with this reason.
    Goodbye(String),
    /// The peer closed it because this node was removed from the cluster.
    Removed,
    /// The peer closed it because this side broke the protocol.
    Refused(String),
    /// Nothing came for longer than the idle time-out.
    Silence,
    /// The peer no longer knows the connection: it restarted.
    Reset,
    /// The transport failed in another way.
    Transport(String),
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => f.write_str("closed by this node"),
            Self::Goodbye(reason) if reason.is_empty() => f.write_str("closed by the peer"),
            Self::Goodbye(reason) => write!(f, "closed by the peer: {reason}"),
            Self::Removed => f.write_str("this device was removed from the cluster"),
            Self::Refused(reason) => write!(f, "refused by the peer: {reason}"),
            Self::Silence => f.write_str("the peer fell silent"),
            Self::Reset => f.write_str("the peer restarted"),
            Self::Transport(reason) => f.write_str(reason),
        }
    }
}
