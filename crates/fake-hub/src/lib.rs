//! A stand-in for the model hub, for tests.
