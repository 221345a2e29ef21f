//! Tiny clusters with wide and narrow refcounts, so that refcount blocks and the refcount table itself become more while the guest writes:
//! cut off at every flush, with any part of what was not flushed, nothing is worse than a leak, and what was flushed is there.

use crate::support::*;
use aio_task::AioHandle;
use block_core::test_disk::{Keep, TestDiskControl};
use block_core::{BlockNode, DiskOffset, Errno, Op};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// What a crash may leave of a write, torn between sectors.
fn part(random: &mut Random, at: u64, len: u64) -> Keep {
    match random.below(4) {
        0 => Keep::Nothing,
        1 => Keep::Part(
            0..(random.below(at + len + 1) / 512 * 512)
                .saturating_sub(at)
                .min(len),
        ),
        _ => Keep::All,
    }
}

/// The guest's clusters, each with a number that was flushed last and those that came later.
type Guest = Vec<Vec<u8>>;

struct Trial {
    cluster: usize,
    guest: Guest,
    random: Random,
}

impl Trial {
    /// Some writes, discards and a flush.
    async fn step(&mut self, node: &BlockNode) {
        for _ in 0..6 {
            let count = self.guest.len() as u64;
            let first = self.random.below(count);
            let len = (1 + self.random.below(count / 8)).min(count - first);
            let at = DiskOffset(first * self.cluster as u64);
            let bytes = len as usize * self.cluster;
            let number = 1 + self.random.below(250) as u8;
            let value = match self.random.below(4) {
                0 => {
                    node.pdiscard(at, bytes as u64).await.expect("discarded");
                    0
                }
                _ => {
                    write(node, at.0, &vec![number; bytes])
                        .await
                        .expect("written");
                    number
                }
            };
            for cluster in &mut self.guest[first as usize..][..len as usize] {
                cluster.push(value);
            }
        }
    }
}

/// The image in `bytes` is only leaky, and each cluster has what was flushed last or something later.
async fn judge(context: &AioHandle, bytes: &[u8], cluster: usize, guest: &Guest, what: &str) {
    let report = checked(context, bytes).await;
    assert_eq!(
        (report.corruptions, report.check_errors),
        (0, 0),
        "{what}: {:?}",
        report.findings.first()
    );
    let (node, _) = open(context, bytes).await;
    for (number, values) in guest.iter().enumerate() {
        let got = read(&node, (number * cluster) as u64, cluster).await;
        for sector in got.chunks(512) {
            let value = sector[0];
            assert!(
                values.contains(&value),
                "{what}: cluster {number} is {value}, not of {values:?}"
            );
        }
    }
    node.close().await.expect("closed");
}

/// Lets everybody else go on once.
async fn next_turn() {
    let mut waited = false;
    poll_fn(|cx| match std::mem::replace(&mut waited, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Flushes the image, now and then in vain. Every flush of the file is held, and the image is cut off there.
async fn cut_at_every_flush(
    context: &AioHandle,
    (node, control): &(BlockNode, TestDiskControl),
    trial: &mut Trial,
    what: &str,
) {
    control.hold(Op::Flush, 0..u64::MAX);
    loop {
        if trial.random.below(3) == 0 {
            control.fail_nth(Op::Write, trial.random.below(8), Errno::IO);
        }
        let flush = node.clone();
        let mut flush = Box::pin(async move { flush.flush().await });
        let mut stage = 0;
        let flushed = loop {
            if let Some(result) = settled(flush.as_mut()).await {
                break result;
            }
            let held = control.held();
            let record = held.first().expect("it waits for a flush of the file");
            for round in 0..2 {
                let random = &mut trial.random;
                let bytes =
                    control.contents_after_crash(|write| part(random, write.offset, write.len));
                let what = format!("{what}, flush {stage}, round {round}");
                judge(context, &bytes, trial.cluster, &trial.guest, &what).await;
            }
            stage += 1;
            match trial.random.below(8) {
                0 => control.fail_held(record.id, Errno::IO),
                _ => control.release(record.id),
            };
        };
        control.clear_faults();
        if flushed.is_ok() {
            break;
        }
    }
    control.stop_holding();
    for values in &mut trial.guest {
        values.drain(..values.len() - 1);
    }
}

/// What `future` ends with, if it does without a call of the disk that is held.
async fn settled<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..50 {
        let mut result = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                result = Some(done);
            }
            Poll::Ready(())
        })
        .await;
        if result.is_some() {
            return result;
        }
        next_turn().await;
    }
    None
}

#[test]
fn a_crash_while_the_refcount_table_grows_leaves_leaks_at_worst() {
    for (refcount_bits, size) in [(64, 5 << 20), (1, 3 << 20), (16, 1 << 20)] {
        run(async |context| {
            let cluster = 512;
            let pairs = format!("size={size},cluster_size=512,refcount_bits={refcount_bits}");
            let image = new_image(context, &pairs).await;
            let opened = open(context, &image).await;
            let (node, control) = &opened;
            control.track_crashes();
            let mut trial = Trial {
                cluster,
                guest: vec![vec![0]; size / cluster],
                random: Random(refcount_bits),
            };
            // With 64 bits the table's first cluster counts 2 MiB.
            let filled = size / cluster * 3 / 8;
            write(node, 0, &vec![0xF0; filled * cluster])
                .await
                .expect("written");
            trial.guest[..filled]
                .iter_mut()
                .for_each(|values| values.push(0xF0));
            let table = be64(&image, 48);
            for number in 0..4 {
                trial.step(node).await;
                let what = format!("{refcount_bits} bits, step {number}");
                cut_at_every_flush(context, &opened, &mut trial, &what).await;
            }
            node.close().await.expect("closed");
            let image = control.contents();
            if refcount_bits == 64 {
                assert_ne!(be64(&image, 48), table, "it did not grow");
            }
            let report = checked(context, &image).await;
            assert!(report.is_clean(), "{:?}", report.findings);
        });
    }
}

#[test]
fn writes_that_fail_leave_no_leak() {
    for seed in 0..12 {
        run(async |context| {
            let refcount_bits = [64, 1, 16][seed as usize % 3];
            let (cluster, size) = (512, 3_usize << 19);
            let pairs = format!("size={size},cluster_size=512,refcount_bits={refcount_bits}");
            let image = new_image(context, &pairs).await;
            let (node, control) = open(context, &image).await;
            let mut random = Random(seed);
            for _ in 0..60 {
                match random.below(4) {
                    0 => control.fail_nth(Op::Flush, random.below(6), Errno::IO),
                    1 => control.fail_nth(Op::Read, random.below(6), Errno::IO),
                    _ => control.fail_nth(Op::Write, random.below(40), Errno::IO),
                }
                let first = random.below((size / cluster) as u64 - 300);
                let at = DiskOffset(first * cluster as u64);
                let bytes = (1 + random.below(300)) as usize * cluster;
                let _ = match random.below(4) {
                    0 => node.pdiscard(at, bytes as u64).await,
                    1 => node.flush().await,
                    _ => write(&node, at.0, &vec![9; bytes]).await,
                };
            }
            control.clear_faults();
            node.close().await.expect("closed");
            let report = checked(context, &control.contents()).await;
            assert!(report.is_clean(), "{seed}: {report:?}");
        });
    }
}
