//! What a saved state costs beside its own bytes: requests and bytes of the image's file, as the disk saw them.

use crate::support::{Bench, Image, pattern};
use block_core::{DiskOffset, Op};
use futures::future::{join, join_all};

const MIB: u64 = 1 << 20;
const CLUSTER: u64 = 64 << 10;

/// What came to the disk since it was asked last.
#[derive(Debug, Default)]
struct Cost {
    /// Writes of a whole buffer.
    buffers: u64,
    /// All other requests, flushes included, and the bytes that they moved.
    others: u64,
    other_bytes: u64,
}

fn cost(image: &Image) -> Cost {
    let mut cost = Cost::default();
    for record in image.control.take_records() {
        match record.op {
            Op::Write if record.len == MIB => cost.buffers += 1,
            Op::Read | Op::Write => {
                cost.others += 1;
                cost.other_bytes += record.len;
            }
            _ => cost.others += 1,
        }
    }
    cost
}

/// Eight buffers in flight, as a buffered save has them.
async fn save(image: &Image, mib: u64) {
    let buffer = pattern(1, MIB as usize);
    for eight in (0..mib).collect::<Vec<_>>().chunks(8) {
        let writes = eight.iter().map(|n| image.save(n * MIB, &buffer));
        for written in join_all(writes).await {
            written.expect("written");
        }
    }
}

/// Every other cluster of the first `clusters` is free.
async fn full_of_gaps(image: &Image, clusters: u64) {
    let bytes = pattern(2, (clusters * CLUSTER) as usize);
    image.write(0, &bytes).await.expect("written");
    for cluster in (0..clusters).step_by(2) {
        let discarded = image.node.pdiscard(DiskOffset(cluster * CLUSTER), CLUSTER);
        discarded.await.expect("discarded");
    }
    image.node.flush().await.expect("flushed");
}

#[test]
fn a_saved_state_costs_less_than_3_percent_of_requests_and_1_percent_of_bytes_in_metadata() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=64M").await;
        full_of_gaps(&image, 64).await;
        cost(&image);
        save(&image, 256).await;
        image.node.finish_vmstate(256 * MIB).await.expect("length");
        image.node.flush().await.expect("flushed");
        let saved = cost(&image);
        assert_eq!(saved.buffers, 256, "each buffer is one write: {saved:?}");
        assert!(saved.others * 100 < 3 * 256, "{saved:?}");
        assert!(saved.other_bytes * 100 < 256 * MIB, "{saved:?}");

        image.snapshot("s").await.expect("made");
        let recorded = cost(&image);
        assert!(recorded.others <= 12, "whatever its size: {recorded:?}");
        bench.is_clean(&image.close().await).await;
    });
}

#[test]
fn a_buffer_of_the_state_is_one_write_while_the_guest_writes() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=64M").await;
        full_of_gaps(&image, 64).await;
        cost(&image);
        let guest = async {
            for number in 0..200 {
                let at = 16 * MIB + number * 3 * CLUSTER + 512;
                image.write(at, &[7; 1024]).await.expect("written");
            }
        };
        join(save(&image, 32), guest).await;
        assert_eq!(cost(&image).buffers, 32);
        image.node.discard_vmstate().await.expect("dropped");
        bench.is_clean(&image.close().await).await;
    });
}
