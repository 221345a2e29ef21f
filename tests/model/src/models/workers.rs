//! The worker threads.

crate::models![];
