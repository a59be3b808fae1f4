//! The models on this device's disk.
