//! A reactor that needs no kernel objects: a flag and a condition variable.
use std::io;
use std::time::{Duration, Instant};

use super::{Reactor, Unpark, Watch};
use crate::sync::{Arc, Condvar, Mutex, now};

/// Sleeps on a condition variable: timers and remote wake-ups work, file descriptors are refused.
///
/// For contexts whose I/O goes to worker threads only, and for the model checker.
#[derive(Debug, Default)]
pub struct CondvarReactor {
    bell: Arc<Bell>,
}

impl CondvarReactor {
    /// A reactor no task sleeps in.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Reactor for CondvarReactor {
    fn unparker(&self) -> Box<dyn Unpark> {
        Box::new(Ringer(self.bell.clone()))
    }

    fn park(&mut self, limit: Option<Duration>, _ready: &mut Vec<u64>) -> io::Result<()> {
        self.bell.wait(limit);
        Ok(())
    }

    fn look(&mut self, _ready: &mut Vec<u64>) -> io::Result<()> {
        Ok(())
    }
}

/// A watch for reactors without descriptors: only the deadline can pass.
pub(super) fn deadline_watch() -> (Box<dyn Watch>, Box<dyn Unpark>) {
    let bell = Arc::new(Bell::default());
    (
        Box::new(DeadlineWatch(bell.clone())),
        Box::new(Ringer(bell)),
    )
}

struct DeadlineWatch(Arc<Bell>);

impl Watch for DeadlineWatch {
    fn watch(&mut self, until: Option<Instant>) {
        self.0
            .wait(until.map(|at| at.saturating_duration_since(now())));
    }
}

struct Ringer(Arc<Bell>);

impl Unpark for Ringer {
    fn unpark(&self) {
        *self.0.rung.lock() = true;
        self.0.heard.notify_one();
    }
}

/// Rung by any thread, heard by one.
#[derive(Debug, Default)]
struct Bell {
    /// Set by a ring, cleared by the wait that it ends.
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn wait(&self, limit: Option<Duration>) {
        let mut rung = self.rung.lock();
        if !*rung {
            rung = match limit {
                None => self.heard.wait(rung),
                Some(limit) => self.heard.wait_for(rung, limit).0,
            };
        }
        *rung = false;
    }
}
