//! The executor: run queue, live tasks, `block_on`, the drop of a context.

crate::models![];
