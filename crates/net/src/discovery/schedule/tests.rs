//! The schedule over virtual hours.
