//! AioTaskPool under completions from other threads.

crate::models![];
