//! The protocols that nodes speak, each on its own connection.

/// What a connection carries. The planes are apart so that neither a long prefill nor a
/// megabyte of weights delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plane {
    /// Requests and responses about nodes and instances.
    Control,
    /// Frames between the stages of a pipeline.
    Data,
    /// Bytes of model files.
    Transfer,
    /// A ticket, from a device that is no member yet. No [`Connection`](crate::Connection) is of this plane.
    Join,
}

impl Plane {
    pub(crate) const ALL: [Self; 4] = [Self::Control, Self::Data, Self::Transfer, Self::Join];
    /// The planes on which members speak.
    #[cfg(test)]
    pub(crate) const OF_MEMBERS: [Self; 3] = [Self::Control, Self::Data, Self::Transfer];

    /// The protocol's name and version in the TLS handshake: peers of different versions part before they misread each
    /// other.
    pub(crate) fn alpn(self) -> &'static str {
        match self {
            Self::Control => "shoal/control/2",
            Self::Data => "shoal/activation/2",
            Self::Transfer => "shoal/transfer/2",
            Self::Join => "shoal/join/1",
        }
    }

    pub(crate) fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|plane| plane.alpn().as_bytes() == alpn)
    }
}
