//! Named trials.
