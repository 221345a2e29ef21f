//! A guest's disk is no place for a machine's state.

use aio_task::{AioContext, WorkerPool};
use block_core::{BlockError, CacheMode, Cause, Errno, NodeBuilder, Permissions};
use block_drivers::{FileDriver, FileOptions, RawDriver, RawOptions};
use std::num::NonZeroUsize;
use tests::files::disk_folder;
use vmstate::{SaveOptions, VmstateSave};

/// The buffered save over raw on a file must refuse before it takes a byte: a save that only found out at finalize would have told the
/// user that all was well, and one that passed down to the file would have written over the guest.
#[test]
fn savevm_over_raw_on_a_disk_full_of_guest_data_is_enotsup_and_changes_no_byte() {
    let guest: Vec<u8> = (0..3_000_007_u32).map(|i| ((i * 31) >> 3) as u8).collect();
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let folder = disk_folder();
        let path = folder.path().join("disk");
        std::fs::write(&path, &guest).expect("a disk");
        let before = path.metadata().expect("it").modified().expect("a time");
        let context = AioContext::new().expect("a context");
        let workers = WorkerPool::new(NonZeroUsize::new(4).expect("four"));
        context.block_on(async {
            let options = FileOptions {
                cache,
                ..FileOptions::writer(workers)
            };
            let file = FileDriver::open(&path, options).await.expect("open");
            let handle = context.handle();
            let file = NodeBuilder::new("file")
                .cache(cache)
                .open(&handle, file)
                .await
                .expect("file");
            let child = file.attach("raw", Permissions::writer()).expect("attach");
            let raw = RawDriver::open(child, RawOptions::default())
                .await
                .expect("raw");
            let raw = NodeBuilder::new("raw")
                .cache(cache)
                .open(&handle, raw)
                .await
                .expect("raw");

            let state = vec![0xAB; 2 << 20];
            let refused = |error: BlockError| {
                assert_eq!(
                    (error.cause.clone(), error.errno()),
                    (Cause::NotSupported, Errno::NOTSUP)
                );
            };
            refused(
                vmstate::save_vmstate_bytes(&raw, 0, &state)
                    .await
                    .expect_err("no area"),
            );
            refused(
                vmstate::save_vmstate_bytes(&raw, 1 << 20, b"x")
                    .await
                    .expect_err("no area"),
            );
            refused(
                vmstate::load_vmstate(&raw, 0, &mut [0; 512])
                    .await
                    .expect_err("no area"),
            );
            refused(
                VmstateSave::begin(&raw, SaveOptions::default())
                    .map(drop)
                    .expect_err("no area"),
            );
            let _ = vmstate::finalize_vmstate(&raw).await;
            raw.close().await.expect("close");
            drop(raw);
            file.close().await.expect("close");
        });
        assert!(
            std::fs::read(&path).expect("the disk") == guest,
            "the guest's bytes"
        );
        assert_eq!(
            path.metadata().expect("it").modified().expect("a time"),
            before
        );
    }
}
