//! What an image says of itself: `qemu-img info`, QEMU's `ImageInfoSpecificQCow2`, and its snapshots.

use crate::qcow2::create::Version;
use crate::qcow2::format::codec::CompressionType;
use crate::qcow2::format::error::Qcow2Error;
use crate::qcow2::format::header::features::{autoclear, incompatible};
use crate::qcow2::format::header::{Header, Purpose};
use crate::qcow2::format::name::Name;
use crate::qcow2::format::snapshot_table::{Snapshot, SnapshotTable};
use crate::qcow2::metadata::Source;
use block_core::{BlockChild, SnapshotInfo};
use std::ffi::OsString;

/// What the header and the snapshot table of an image say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The version of the format.
    pub version: Version,
    /// The disk's length in bytes, as its last whole sector ends it.
    pub disk_size: u64,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// The width of a refcount in bits.
    pub refcount_bits: u32,
    /// How compressed clusters are compressed.
    pub compression_type: CompressionType,
    /// Clusters have 32 subclusters each.
    pub extended_l2: bool,
    /// Refcounts may be written late.
    pub lazy_refcounts: bool,
    /// Refcounts may be wrong: the next writer of the image repairs it first.
    pub dirty: bool,
    /// The image is marked as corrupt: it is not written to until it is repaired.
    pub corrupt: bool,
    /// The backing file's name as it is in the image.
    pub backing_file: Option<OsString>,
    /// QEMU's name of its format.
    pub backing_format: Option<String>,
    /// The image keeps the guest's data in a file of its own.
    pub external_data: bool,
    /// That file's name, where the image has it.
    pub data_file: Option<OsString>,
    /// That file is a raw image of the disk.
    pub data_file_raw: bool,
    /// How many persistent bitmaps it has, up to date or not.
    pub bitmaps: u32,
    /// In the order of the table.
    pub snapshots: Vec<SnapshotInfo>,
}

/// Reads what the image in `file` says of itself. No other file is opened and nothing is written, so it works without an external data file,
/// for a dirty image and for one that is marked as corrupt. Memory: a cluster and the snapshot table.
///
/// Errors: what is wrong with the header or the snapshot table, or not supported; [`Qcow2Error::Io`].
pub async fn info(file: &BlockChild) -> Result<ImageInfo, Qcow2Error> {
    let source = Source::new(file).await?;
    let header = Header::read(&source, Purpose::Use).await?;
    let table = SnapshotTable::read(&source, &header, Purpose::Use).await?;
    let (geometry, extensions) = (&header.geometry, &header.extensions);
    let external_data = header.incompatible & incompatible::DATA_FILE != 0;
    Ok(ImageInfo {
        version: match geometry.version() {
            2 => Version::V2,
            _ => Version::V3,
        },
        disk_size: header.disk_size(),
        cluster_size: geometry.cluster_size(),
        refcount_bits: geometry.refcount_bits(),
        compression_type: header.compression,
        extended_l2: geometry.extended_l2(),
        lazy_refcounts: header.lazy_refcounts(),
        dirty: header.incompatible & incompatible::DIRTY != 0,
        corrupt: header.is_corrupt(),
        backing_file: header.backing_file.as_ref().map(file_name),
        backing_format: extensions.backing_format.as_ref().map(Name::to_string),
        external_data,
        data_file: extensions.data_file.as_ref().map(file_name),
        data_file_raw: external_data && header.autoclear & autoclear::DATA_FILE_RAW != 0,
        bitmaps: extensions.bitmaps.map_or(0, |bitmaps| bitmaps.bitmaps),
        snapshots: table.snapshots.iter().map(snapshot_info).collect(),
    })
}

fn file_name(name: &Name) -> OsString {
    name.as_os_str().to_owned()
}

/// A snapshot as the block layer tells it. What is not text in its names is replaced.
fn snapshot_info(snapshot: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        id: snapshot.id.to_string(),
        name: snapshot.name.to_string(),
        vmstate_size: snapshot.vmstate_size,
        disk_size: snapshot.disk_size,
        date_sec: snapshot.date_sec,
        date_nsec: snapshot.date_nsec,
        vm_clock_nsec: snapshot.vm_clock_nsec,
        icount: snapshot.icount,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::{CreateOptions, create};
    use aio_task::AioContext;
    use block_core::test_disk::{TestDisk, TestDiskOptions};
    use block_core::{NodeBuilder, Permissions};

    /// What is known of an image that was made with `options`, on a disk that no task has written to since.
    fn info_of(options: &str) -> ImageInfo {
        let context = AioContext::new().unwrap();
        let handle = context.handle();
        context.block_on(async {
            let options = CreateOptions::from_pairs(options).unwrap();
            let disk = async |name| {
                let (disk, _) = TestDisk::new(TestDiskOptions {
                    grows: true,
                    ..Default::default()
                });
                let node = NodeBuilder::new(name).open(&handle, disk).await.unwrap();
                node.attach("create", Permissions::writer()).unwrap()
            };
            let (file, data) = (disk("file").await, disk("data").await);
            let data = options.data_file.is_some().then_some(&data);
            create(&file, data, &options).await.unwrap();
            info(&file).await.unwrap()
        })
    }

    #[test]
    fn an_image_says_what_it_was_made_with() {
        let plain = info_of("size=1M");
        assert_eq!(plain.version, Version::V3);
        assert_eq!((plain.disk_size, plain.cluster_size), (1 << 20, 64 << 10));
        assert_eq!((plain.refcount_bits, plain.bitmaps), (16, 0));
        assert!(!plain.dirty && !plain.corrupt && !plain.extended_l2 && !plain.lazy_refcounts);
        assert!(plain.snapshots.is_empty() && plain.backing_file.is_none());

        let old = info_of("size=513,compat=0.10,cluster_size=512");
        assert_eq!((old.version, old.disk_size), (Version::V2, 1024));

        let rich = info_of(
            "size=1M,cluster_size=128k,refcount_bits=64,lazy_refcounts=on,extended_l2=on,\
             compression_type=zstd,backing_file=b,backing_fmt=raw",
        );
        assert_eq!((rich.cluster_size, rich.refcount_bits), (128 << 10, 64));
        assert!(rich.lazy_refcounts && rich.extended_l2);
        assert_eq!(rich.compression_type, CompressionType::Zstd);
        assert_eq!(rich.backing_file, Some("b".into()));
        assert_eq!(rich.backing_format.as_deref(), Some("raw"));
        assert!(!rich.external_data && rich.data_file.is_none());
    }

    #[test]
    fn an_image_tells_of_its_data_file_without_it() {
        let info = info_of("size=1M,data_file=d,data_file_raw=on");
        assert!(info.external_data && info.data_file_raw);
        assert_eq!(info.data_file, Some("d".into()));
        assert!(!info_of("size=1M,data_file=d").data_file_raw);
    }
}
