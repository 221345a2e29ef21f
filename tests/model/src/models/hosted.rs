//! A context inside another executor, and two contexts that exchange work.

crate::models![];
