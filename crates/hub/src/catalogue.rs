//! The models that are known without asking anybody.
