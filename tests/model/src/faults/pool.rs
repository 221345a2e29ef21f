//! Faults of `pool`.
use super::Fault;

pub(super) const FAULTS: &[Fault] = &[];
