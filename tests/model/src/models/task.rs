//! A task's state: async-task's word, made visible, with memory of ours around it.

crate::models![];
