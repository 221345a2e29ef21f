//! A repair that a crash cuts at any write: what is on disk then is not worse than before, and the next repair goes on to the same end.

use aio_task::AioContext;
use block_core::test_disk::{Keep, TestDisk, TestDiskControl, TestDiskOptions};
use block_core::{BlockChild, Errno, NodeBuilder, Op, Permissions};
use block_drivers::qcow2::{self, CheckReport, Finding, MAX_FINDINGS, Qcow2Error, RepairLevel};

/// What a crash leaves of the writes that were not flushed.
const KEEPS: [fn(u64, u64) -> Keep; 4] = [
    |_, _| Keep::Nothing,
    |_, _| Keep::All,
    |id, _| Keep::from(id % 2 == 0),
    // Sectors are written whole or not at all.
    |id, len| Keep::Part(0..(len / 2 + id * 512 % len).next_multiple_of(512).min(len)),
];

/// An image in memory.
struct Disk {
    context: AioContext,
    control: TestDiskControl,
    disk: Option<TestDisk>,
}

impl Disk {
    fn new(bytes: &[u8]) -> Self {
        let (disk, control) = TestDisk::new(TestDiskOptions {
            len: bytes.len() as u64,
            grows: true,
            ..TestDiskOptions::default()
        });
        control.set_contents(bytes);
        control.track_crashes();
        Self {
            context: AioContext::new().expect("a context"),
            control,
            disk: Some(disk),
        }
    }

    fn with<T>(&mut self, job: impl AsyncFnOnce(&BlockChild) -> T) -> T {
        let disk = self.disk.take().expect("used once");
        self.context.block_on(async {
            let handle = self.context.handle();
            let node = NodeBuilder::new("file").open(&handle, disk);
            let node = node.await.expect("a node");
            let child = node.attach("qcow2", Permissions::writer()).expect("attach");
            job(&child).await
        })
    }
}

fn check(bytes: &[u8]) -> Result<CheckReport, Qcow2Error> {
    Disk::new(bytes).with(async |child| qcow2::check(child).await)
}

fn repair(disk: &mut Disk, level: RepairLevel) -> Result<CheckReport, Qcow2Error> {
    disk.with(async |child| qcow2::repair(child, level).await)
}

/// What is wrong apart from leaks and COPIED flags, which a crash may always leave. `None`: too much to tell.
fn harm(bytes: &[u8]) -> Option<usize> {
    let report = check(bytes).ok()?;
    let harmless = |f: &&Finding| !matches!(f, Finding::Leaked { .. } | Finding::Copied { .. });
    let told = report.findings.len() < MAX_FINDINGS;
    told.then(|| report.findings.iter().filter(harmless).count())
}

/// Cuts a repair of the image `bytes` at every write and flush. How many crashes were tried; else, in words, what is wrong.
pub(super) fn cut_everywhere(bytes: &[u8], level: RepairLevel) -> Result<u32, String> {
    let Some(before) = harm(bytes) else {
        return Ok(0);
    };
    let mut whole = Disk::new(bytes);
    let Ok(expected) = repair(&mut whole, level) else {
        return Ok(0);
    };
    let mut crashes = 0;
    for op in [Op::Write, Op::Flush] {
        for nth in 0.. {
            let mut disk = Disk::new(bytes);
            disk.control.fail_nth(op, nth, Errno::IO);
            let cut = repair(&mut disk, level);
            if disk.control.faults_fired() == 0 {
                break; // there are no more
            }
            if cut.is_ok() {
                return Err(format!("{op:?} {nth} failed, and the repair did not"));
            }
            for (which, keep) in KEEPS.iter().enumerate() {
                let after = |id: u64, len: u64| keep(id, len.max(1));
                let left = disk.control.contents_after_crash(|r| after(r.id, r.len));
                let what = format!("cut at {op:?} {nth}, keeping {which}");
                crashes += 1;
                match harm(&left) {
                    Some(harm) if harm <= before => {}
                    harm => return Err(format!("{what}: {before} before, {harm:?} after it")),
                }
                let mut next = Disk::new(&left);
                let again = repair(&mut next, level).map_err(|e| format!("{what}: {e}"))?;
                let worse = again.corruptions > expected.corruptions
                    || again.leaks > expected.leaks
                    || again.check_errors > expected.check_errors;
                if worse {
                    return Err(format!("{what}: {again:?}, not {expected:?}"));
                }
            }
        }
    }
    Ok(crashes)
}
