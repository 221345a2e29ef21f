//! The inbox: what other threads have sent and the owner has not taken.

crate::models![];
