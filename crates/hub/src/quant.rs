//! Quantisations by their labels.
