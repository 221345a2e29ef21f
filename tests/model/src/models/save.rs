//! Saves and nodes whose I/O completes elsewhere.

crate::models![];
