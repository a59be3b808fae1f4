//! A file that is not all there.
