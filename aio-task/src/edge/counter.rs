//! A number that grows on one thread and is read on others.
use crate::sync::{Arc, AtomicU64, Ordering};

/// A progress counter: it only grows, any thread may read it.
///
/// Clones share the number. A read sees some recent value and never one that is smaller than an earlier read of the same thread; it
/// orders nothing else. It wraps at 2^64.
#[derive(Clone, Debug)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// A counter at zero.
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}
