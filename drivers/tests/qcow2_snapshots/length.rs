//! The disk's length changes, across the ends of L2 tables and of the L1 table's clusters, with snapshots of other lengths.

use crate::support::{Bench, Image, snapshot_bytes};
use crate::world::{World, cluster_of, was_ours};
use block_core::{Errno, Op, Preallocation, Result, Truncate};

const IMAGES: [&str; 3] = [
    "size=256k,cluster_size=512",
    "size=1M,cluster_size=4096",
    "size=1M,cluster_size=16384,extended_l2=on",
];

async fn truncate(image: &Image, len: u64, preallocation: Preallocation) -> Result<()> {
    let to = Truncate {
        len,
        exact: true,
        preallocation,
    };
    image.node.truncate(to).await
}

/// One fault while the length becomes `len`. False if there was none.
async fn one_fault(
    bench: &Bench,
    (bytes, world): &(Vec<u8>, World),
    len: u64,
    preallocation: Preallocation,
    op: Op,
    nth: u64,
) -> bool {
    let image = bench.open_small(bytes).await;
    let old = world.disk.len() as u64;
    image.control.fail_nth(op, nth, Errno::IO);
    let result = truncate(&image, len, preallocation).await;
    let fired = image.control.faults_fired() > 0;
    image.control.clear_faults();
    let what = format!("to {len}, {preallocation:?}, {op} {nth}: {result:?}");
    let now = image.node.length().await.expect("a length");
    match &result {
        Ok(()) => assert_eq!(now, len, "{what}"),
        Err(error) => {
            assert!(fired && was_ours(&error.cause), "{what}");
            assert!(now == old || len < old, "{what}: now {now}");
        }
    }
    let mut after = world.clone();
    after.disk.resize(now as usize, 0);
    after.assert(&image, &what).await;
    let bytes = image.close().await;
    let report = bench.check(&bytes).await;
    assert!(report.is_clean(), "{what}: {report:?}");
    let image = bench.open(&bytes).await;
    after.assert(&image, &format!("{what}, opened again")).await;
    fired
}

#[test]
fn a_growth_with_one_fault_leaves_the_old_length_and_the_snapshots_and_no_leak() {
    let bench = Bench::new();
    bench.run(async {
        for pairs in IMAGES {
            let base = World::build(&bench, pairs).await;
            let old = base.1.disk.len() as u64;
            for (len, preallocation) in [
                (old + 512 * 1024, Preallocation::Off),
                (old + 64 * 1024, Preallocation::Metadata),
                (old + 64 * 1024, Preallocation::Full),
                (old / 2 + 512, Preallocation::Off),
            ] {
                for op in [Op::Read, Op::Write, Op::WriteZeroes, Op::Flush] {
                    let mut nth = 0;
                    while one_fault(&bench, &base, len, preallocation, op, nth).await {
                        nth += 1;
                    }
                }
            }
        }
    });
}

#[test]
fn a_disk_is_gone_back_to_with_the_length_it_had() {
    let bench = Bench::new();
    bench.run(async {
        for pairs in IMAGES {
            let (bytes, world) = World::build(&bench, pairs).await;
            let image = bench.open_small(&bytes).await;
            let mut now = world.clone();
            let old = world.disk.len() as u64;
            let mut random = crate::support::Random::new(8);
            for (step, len) in [old * 9, 512, old + 512, 0, old * 5]
                .into_iter()
                .enumerate()
            {
                truncate(&image, len, Preallocation::Off)
                    .await
                    .expect("the new length");
                now.disk.resize(len as usize, 0);
                now.assert(&image, &format!("{pairs}, {len} bytes")).await;
                if len > old {
                    now.write(&image, &mut random, cluster_of(pairs)).await;
                }
                image.snapshot(&format!("n{step}")).await.expect("made");
                now.snapshots.push(crate::world::Kept {
                    name: format!("n{step}"),
                    disk: now.disk.clone(),
                    state: Vec::new(),
                });
            }
            for kept in now.snapshots.clone() {
                image.node.snapshot_goto(&kept.name).await.expect("there");
                now.disk = kept.disk.clone();
                now.assert(&image, &format!("{pairs}, at {}", kept.name))
                    .await;
                let there = snapshot_bytes(&image.node, &kept.name).await;
                assert!(there == Ok((kept.disk, kept.state)), "{}", kept.name);
            }
            bench.is_clean(&image.close().await).await;
        }
    });
}
