//! The helper thread that sleeps in a hosted context's stead.
use std::io;
use std::time::Instant;

use crate::reactor::{Unpark, Watch};
use crate::sync::{Arc, Condvar, Mutex, spawn};

/// A thread that waits for a deadline or a descriptor and reports it once per order. Dropping it lets the thread go; it is not
/// waited for, since the report in its hands may be about to enter the very host that drops us.
pub(crate) struct Watcher {
    desk: Arc<Desk>,
    bell: Box<dyn Unpark>,
}

impl Watcher {
    /// Starts the thread, without an order.
    pub(crate) fn start(
        mut watch: Box<dyn Watch>,
        bell: Box<dyn Unpark>,
        report: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let desk = Arc::new(Desk {
            order: Mutex::new(Order::Rest),
            changed: Condvar::new(),
        });
        let theirs = desk.clone();
        let thread = spawn("aio-watch", move || theirs.work(&mut *watch, report))?;
        drop(thread);
        Ok(Self { desk, bell })
    }

    /// Orders one report: when a descriptor is ready, or `until` has come if that is earlier. An order that would be met later than
    /// one that stands changes nothing; then the standing one reports too early, once.
    pub(crate) fn order(&self, until: Option<Instant>) {
        let mut order = self.desk.order.lock();
        match *order {
            Order::Watch(standing) if comes_first(standing, until) => {}
            Order::Watch(_) => {
                *order = Order::Watch(until);
                drop(order);
                self.bell.unpark();
            }
            Order::Rest | Order::Quit => {
                *order = Order::Watch(until);
                self.desk.changed.notify_one();
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        *self.desk.order.lock() = Order::Quit;
        self.desk.changed.notify_one();
        self.bell.unpark();
    }
}

struct Desk {
    order: Mutex<Order>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Nothing to watch. Set by the thread when it reports.
    Rest,
    /// Watch until a descriptor is ready or this has passed.
    Watch(Option<Instant>),
    /// Leave. Final.
    Quit,
}

impl Desk {
    fn work(&self, watch: &mut dyn Watch, report: impl Fn()) {
        let mut order = self.order.lock();
        loop {
            match *order {
                Order::Rest => order = self.changed.wait(order),
                Order::Quit => return,
                Order::Watch(until) => {
                    drop(order);
                    watch.watch(until);
                    order = self.order.lock();
                    // A changed order ended the watch; it is looked at afresh.
                    if *order == Order::Watch(until) {
                        *order = Order::Rest;
                        drop(order);
                        report();
                        order = self.order.lock();
                    }
                }
            }
        }
    }
}

/// Whether a watch until `a` ends no later than one until `b`. `None` is the end of time.
fn comes_first(a: Option<Instant>, b: Option<Instant>) -> bool {
    match (a, b) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(a), Some(b)) => a <= b,
    }
}
