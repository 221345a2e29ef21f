//! Opening an image: QEMU's `qcow2_do_open`.

use super::options::{BackingFile, L2_CACHE, Qcow2Options, REFCOUNT_CACHE};
use crate::qcow2::check::{self, RepairLevel};
use crate::qcow2::format::error::{Qcow2Error, Table, io};
use crate::qcow2::format::header::{Header, Purpose};
use crate::qcow2::format::snapshot_table::SnapshotTable;
use crate::qcow2::guest::{Backing, Guest};
use crate::qcow2::metadata::{CacheSizes, ImageFile, Metadata, Source};
use crate::qcow2::snapshot::Image;
use block_core::BlockChild;

/// Reads the header and the tables that are kept whole. Nothing is written, unless the image is to be written to and its last user did not
/// close it.
pub(super) async fn open(file: BlockChild, options: Qcow2Options) -> Result<Image, Qcow2Error> {
    let source = Source::new(&file).await?;
    let mut header = Header::read(&source, Purpose::Use).await?;
    let read_only = options.read_only || file.is_read_only();
    if header.is_corrupt() && !read_only {
        return Err(Qcow2Error::CorruptBit);
    }
    let backing = backing(&header, options.backing)?;
    if header.is_dirty() && !read_only {
        mend(&source, &mut header).await?;
    }
    let length = file.length().await.map_err(io(Table::Header))?;
    if !read_only {
        header.check_inside(length)?;
    }
    let data = match (header.geometry.data_file(), options.data_file) {
        (true, Some(data)) => Some(ImageFile::new(data)),
        (false, None) => None,
        (true, None) => return Err(Qcow2Error::DataFileMissing),
        (false, Some(_)) => return Err(Qcow2Error::DataFileUnwanted),
    };
    let or_default = |wanted, default| if wanted == 0 { default } else { wanted };
    let caches = CacheSizes {
        l2: or_default(options.l2_cache, L2_CACHE),
        refcounts: or_default(options.refcount_cache, REFCOUNT_CACHE),
    };
    let meta = Metadata::load(&header, ImageFile::new(file), length, data, caches).await?;
    let snapshots = match header.snapshots {
        0 => SnapshotTable::default(),
        _ => {
            let source = Source::new(meta.file().child()).await?;
            SnapshotTable::read(&source, &header, Purpose::Use).await?
        }
    };
    if !read_only {
        meta.note_tables(length)?;
    }
    let guest = Guest::new(meta, header, backing, read_only, options.workers);
    let image = Image::new(guest, snapshots);
    if !read_only {
        image.note_snapshot_tables()?;
        image.guest().note_autoclear_features();
    }
    Ok(image)
}

/// Repairs an image with lazy refcounts whose last user did not come to its end, as QEMU does when it opens one.
async fn mend(source: &Source<'_>, header: &mut Header) -> Result<(), Qcow2Error> {
    let report = check::repair_opened(source, header, RepairLevel::All).await?;
    let (corruptions, check_errors) = (report.corruptions, report.check_errors);
    if corruptions + check_errors > 0 {
        return Err(Qcow2Error::NotRepaired {
            corruptions,
            check_errors,
        });
    }
    Ok(())
}

fn backing(header: &Header, wanted: BackingFile) -> Result<Backing, Qcow2Error> {
    let Some(name) = header.backing_file_name() else {
        return Ok(Backing::None);
    };
    match wanted {
        BackingFile::Open(child) => Ok(Backing::Open(ImageFile::new(child))),
        BackingFile::Ignore => Ok(Backing::NotOpened {
            path: name.to_string(),
            why: None,
        }),
        BackingFile::Missing { why } => Ok(Backing::NotOpened {
            path: name.to_string(),
            why: Some(why),
        }),
        BackingFile::Deny => Err(Qcow2Error::Denied {
            what: "backing file",
            path: name.to_string(),
        }),
    }
}
