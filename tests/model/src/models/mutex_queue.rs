//! CoMutex and CoQueue under remote wakes.

crate::models![];
