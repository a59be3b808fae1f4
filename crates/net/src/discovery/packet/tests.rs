//! The packet against damage, strangers and time.
