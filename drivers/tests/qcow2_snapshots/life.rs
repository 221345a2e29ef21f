//! Snapshots are made, listed, read, gone to and deleted.

use crate::support::{Bench, pattern, snapshot_bytes, state};

#[test]
fn snapshots_show_what_the_disk_and_the_state_were() {
    let bench = Bench::new();
    bench.run(async {
        let image = bench.image("size=8M").await;
        let mut disk = vec![0; 8 << 20];
        let mut kept = Vec::new();
        for round in 0..4_u64 {
            let at = (round * 1_300_000) as usize;
            let bytes = pattern(round, 700_000);
            image.write(at as u64, &bytes).await.expect("written");
            disk[at..at + bytes.len()].copy_from_slice(&bytes);
            let machine = pattern(100 + round, 3_000_001 * (round as usize % 3));
            if round % 3 > 0 {
                image.save_state(&machine).await.expect("saved");
            }
            let info = image.snapshot(&format!("s{round}")).await.expect("made");
            assert_eq!(info.id, (round + 1).to_string());
            assert_eq!(info.vmstate_size, machine.len() as u64);
            kept.push((info, disk.clone(), machine));
        }
        bench.is_clean(&image.control.contents()).await;
        for (info, disk, machine) in &kept {
            let (d, s) = snapshot_bytes(&image.node, &info.name).await.expect("read");
            assert!(d == *disk && s == *machine, "{}", info.name);
        }
        image.node.snapshot_goto("s1").await.expect("gone to");
        bench.is_clean(&image.control.contents()).await;
        assert!(image.disk().await == kept[1].1);
        assert!(state(&image.node, 0, kept[1].2.len()).await.expect("read") == kept[1].2);
        image.node.snapshot_delete("s0").await.expect("deleted");
        bench.is_clean(&image.control.contents()).await;
        image.node.snapshot_delete("s2").await.expect("deleted");
        bench.is_clean(&image.control.contents()).await;
        image.write(0, &pattern(7, 4 << 20)).await.expect("written");
        let image = bench.open(&image.close().await).await;
        for (info, disk, machine) in [&kept[1], &kept[3]] {
            let (d, s) = snapshot_bytes(&image.node, &info.name).await.expect("read");
            assert!(d == *disk && s == *machine, "{}", info.name);
        }
        image.snapshot("again").await.expect("made");
        bench.is_clean(&image.control.contents()).await;
        for name in image.names().await {
            image.node.snapshot_delete(name).await.expect("deleted");
            bench.is_clean(&image.control.contents()).await;
        }
        bench.is_clean(&image.close().await).await;
    });
}
