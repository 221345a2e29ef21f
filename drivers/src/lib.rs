//! Placeholder until the crate's shape lands.
