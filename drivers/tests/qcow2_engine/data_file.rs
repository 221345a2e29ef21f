//! Images whose guest data is in a file of its own.

use crate::support::*;
use block_core::{DiskOffset, Errno, Op, ZeroFlags};
use block_drivers::qcow2::{CreateOptions, create};

/// Where the autoclear features are in the header.
const AUTOCLEAR: usize = 88;

#[test]
fn what_a_short_data_file_has_not_got_is_discarded_and_zeroed_all_the_same() {
    run(async |context| {
        let (image, control) = file(context, &[]).await;
        let (data, _) = file(context, &[]).await;
        let options = CreateOptions::from_pairs("size=1M,data_file=data").expect("options");
        create(&image, Some(&data), &options)
            .await
            .expect("created");
        // As QEMU leaves it when an image grows, whose data file is not raw.
        let (data, _) = file(context, &[]).await;
        let (image, _) = file(context, &control.contents()).await;
        let node = open_in(context, image, Some(data)).await;
        node.pdiscard(DiskOffset(0), 1 << 20)
            .await
            .expect("discarded");
        write(&node, 0, &[7; 100_000]).await.expect("written");
        node.pdiscard(DiskOffset(65536), 131_072)
            .await
            .expect("discarded");
        assert_eq!(read(&node, 65536, 65536).await, [0; 65536]);
        let flags = ZeroFlags {
            may_unmap: true,
            ..ZeroFlags::default()
        };
        let zeroed = node.pwrite_zeroes(DiskOffset(0), 1 << 20, flags);
        zeroed.await.expect("zeroed");
        assert_eq!(read(&node, 0, 1 << 20).await, vec![0; 1 << 20]);
        node.close().await.expect("closed");
    });
}

#[test]
fn autoclear_features_that_are_not_known_go_before_guest_data_changes_in_a_data_file() {
    run(async |context| {
        let (image, control) = file(context, &[]).await;
        let (data, data_control) = file(context, &[]).await;
        let options = CreateOptions::from_pairs("size=1M,data_file=data").expect("options");
        create(&image, Some(&data), &options)
            .await
            .expect("created");
        let node = open_in(context, image, Some(data)).await;
        write(&node, 0, &[7; 65536]).await.expect("written");
        node.close().await.expect("closed");

        let mut bytes = control.contents();
        bytes[AUTOCLEAR] |= 0x80;
        let (image, control) = file(context, &bytes).await;
        let (data, data_control) = file(context, &data_control.contents()).await;
        let node = open_in(context, image, Some(data)).await;
        assert!(control.contents() == bytes, "an open changes nothing");
        // In place, so that nothing else of the image file changes.
        control.fail_nth(Op::Write, 0, Errno::IO);
        let refused = write(&node, 0, &[8; 65536]).await;
        refused.expect_err("the header comes first");
        assert_eq!(data_control.contents()[..65536], [7; 65536]);
        write(&node, 0, &[8; 65536]).await.expect("written");
        bytes[AUTOCLEAR] &= !0x80;
        assert!(control.contents() == bytes, "only the feature is gone");
        assert_eq!(data_control.contents()[..65536], [8; 65536]);
        node.close().await.expect("closed");
    });
}
