//! The two protocols that nodes speak, each on its own connection.

/// What a connection carries. The planes are apart so that a long prefill never delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plane {
    /// Requests and responses about nodes and instances.
    Control,
    /// Frames between the stages of a pipeline.
    Data,
}

impl Plane {
    pub(crate) const ALL: [Self; 2] = [Self::Control, Self::Data];

    /// The protocol's name and version in the TLS handshake: peers of different versions part before they misread each
    /// other.
    pub(crate) fn alpn(self) -> &'static str {
        match self {
            Self::Control => "shoal/control/1",
            Self::Data => "shoal/activation/1",
        }
    }

    pub(crate) fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|plane| plane.alpn().as_bytes() == alpn)
    }
}
