//! The one edge between a context's thread and all others.
//!
//! Everything that belongs to a context lives on its thread. What must cross does so through the types of this module: a
//! [`slot()`] carries one result, a [`Counter`] shows progress, a [`CancelFlag`] stops work. They are built on `sync` alone, so
//! that the model checker sees each of their operations.
mod cancel;
mod counter;
pub(crate) mod inbox;
pub(crate) mod notifier;
mod slot;
pub(crate) mod watcher;

pub use crate::sync::Arc;
pub use cancel::{CancelFlag, Cancelled};
pub use counter::Counter;
pub use slot::{Abandoned, Completer, Completion, slot};
