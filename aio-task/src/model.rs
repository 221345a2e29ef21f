//! What the models of `tests/model` reach besides the public API. There under `--cfg loom` only; nothing else may use it.
#![allow(missing_docs)]
use std::collections::VecDeque;
use std::task::Waker;

use crate::edge::{inbox, notifier, watcher};
use crate::reactor::{Unpark, Watch};
use crate::sync::model_time;

/// That this crate runs over loom's primitives. A model asserts it before anything else.
pub const OVER_LOOM: bool = cfg!(loom);

/// Runs `body` where the time limit of a wait may pass or not, as explored choices. Costs one of loom's five threads.
pub fn while_time_passes(body: impl FnOnce() + Send + 'static) {
    model_time::passing(body);
}

/// Moves the clock on to `at`, where a model's own [`Watch`] decides that a time limit has passed.
pub fn time_passes_until(at: std::time::Instant) {
    model_time::advance_to(at);
}

/// Moves the clock on by `limit`, where a model's own reactor decides that a sleep's time limit has passed.
pub fn time_passes(limit: std::time::Duration) {
    model_time::advance_to(model_time::now() + limit);
}

/// The production notifier.
pub struct Notifier(notifier::Notifier);

impl Notifier {
    pub fn new(unpark: impl Unpark + 'static) -> Self {
        Self(notifier::Notifier::new(Box::new(unpark)))
    }

    pub fn notify(&self) {
        self.0.notify();
    }

    pub fn take(&self) -> bool {
        self.0.take()
    }

    pub fn prepare_sleep(&self) -> bool {
        self.0.prepare_sleep()
    }

    pub fn set_host(&self, key: u64, waker: Waker) {
        self.0.set_host(key, waker);
    }

    pub fn remove_host(&self, key: u64) {
        self.0.remove_host(key);
    }
}

/// The production inbox.
pub struct Inbox<T>(inbox::Inbox<T>);

impl<T> Inbox<T> {
    #[allow(clippy::new_without_default)] // as the original
    pub fn new() -> Self {
        Self(inbox::Inbox::new())
    }

    pub fn push(&self, item: T) -> Result<(), T> {
        self.0.push(item)
    }

    pub fn take(&self) -> VecDeque<T> {
        self.0.take()
    }

    pub fn close(&self) -> VecDeque<T> {
        self.0.close()
    }
}

/// The production watcher of a hosted context.
pub struct Watcher(watcher::Watcher);

impl Watcher {
    pub fn start(
        watch: impl Watch + 'static,
        bell: impl Unpark + 'static,
        report: impl Fn() + Send + 'static,
    ) -> Self {
        let started = watcher::Watcher::start(Box::new(watch), Box::new(bell), report);
        Self(started.expect("a model has room for the thread"))
    }

    pub fn order(&self, until: Option<std::time::Instant>) {
        self.0.order(until);
    }
}
