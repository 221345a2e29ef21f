//! The completion slot: one value from any thread to the future that waits for it.

crate::models![];
