//! Bugs that other projects published, as models over a small trait.

crate::models![];
