//! Against a hub that listens on loopback.
