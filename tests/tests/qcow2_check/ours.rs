//! Our check and repair on a file.

use aio_task::{AioContext, WorkerPool};
use block_core::{BlockChild, NodeBuilder, Permissions};
use block_drivers::qcow2::{self, CheckReport, Qcow2Error, RepairLevel};
use block_drivers::{FileDriver, FileOptions, Locking};
use std::num::NonZeroUsize;
use std::path::Path;

/// A context and its threads.
pub(super) struct Ours {
    context: AioContext,
    workers: WorkerPool,
}

impl Ours {
    pub(super) fn new() -> Self {
        Self {
            context: AioContext::new().expect("a context"),
            workers: WorkerPool::new(NonZeroUsize::new(1).expect("one")),
        }
    }

    pub(super) fn check(&self, image: &Path) -> Result<CheckReport, Qcow2Error> {
        self.with(image, async |child| qcow2::check(child).await)
    }

    pub(super) fn repair(
        &self,
        image: &Path,
        level: RepairLevel,
    ) -> Result<CheckReport, Qcow2Error> {
        self.with(image, async |child| qcow2::repair(child, level).await)
    }

    fn with<T>(&self, image: &Path, job: impl AsyncFnOnce(&BlockChild) -> T) -> T {
        self.context.block_on(async {
            let options = FileOptions {
                locking: Locking::Off,
                ..FileOptions::writer(self.workers.clone())
            };
            let file = FileDriver::open(image, options).await.expect("open");
            let file = NodeBuilder::new("file")
                .open(&self.context.handle(), file)
                .await
                .expect("a node");
            let child = file.attach("qcow2", Permissions::writer()).expect("attach");
            let result = job(&child).await;
            child.release().await.expect("close");
            result
        })
    }
}
