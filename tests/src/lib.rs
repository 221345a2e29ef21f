//! Helpers shared by this crate's test programs.
