//! Overlap trials.
