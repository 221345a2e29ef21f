//! Persistent bitmaps in an image that is written to, and the other features that are true only while every writer keeps them so (autoclear
//! bits).
//!
//! This driver does not write bitmaps. It must not let them lie either, so each step is taken as late as possible:
//!
//! | when | what |
//! |---|---|
//! | the image is opened | nothing is written; the directory's clusters are protected (`metadata/overlap.rs`) |
//! | before the first write to the image file, or of guest data to an external data file | autoclear bits that this driver does not know are cleared (`metadata/image_file.rs`) |
//! | before the first change of the guest's disk | each bitmap is marked as in use, and that is made stable |
//!
//! A bitmap that is in use is *inconsistent* to QEMU, which does not trust it and lets its user remove it (`qemu-img bitmap --remove`). A
//! command that is refused, a snapshot that is made or deleted and a state that is saved leave the bitmaps as they were: they do not change
//! the disk.

use super::Guest;
use crate::qcow2::format::bitmap_directory::{BitmapEntry, Directory, FLAGS_AT, IN_USE};
use crate::qcow2::format::error::{Qcow2Error, Result, Table};
use crate::qcow2::format::header::AUTOCLEAR_AT;
use crate::qcow2::format::header::features::autoclear;
use crate::qcow2::metadata::Source;
use aio_task::CoMutex;
use std::cell::Cell;

/// What is known of the persistent bitmaps of an open image.
#[derive(Default)]
pub(crate) struct Bitmaps {
    /// The disk has not changed since the image was opened, and there are bitmaps that say so.
    valid: Cell<bool>,
    /// The directory lies where another table is: it must not be written to.
    misplaced: Cell<bool>,
    /// The image on disk no longer says that it has bitmaps, although the header that was read does. Set once.
    disowned: Cell<bool>,
    /// Held while they are marked.
    turn: CoMutex<()>,
}

impl Guest {
    /// Takes note of the autoclear features of an image that will be written to. Nothing is written yet.
    pub(crate) fn note_autoclear_features(&self) {
        let known = self.header.autoclear & autoclear::KNOWN;
        if known != self.header.autoclear {
            self.meta
                .file()
                .write_first(AUTOCLEAR_AT, known.to_be_bytes());
        }
        let Some(place) = self.header.extensions.bitmaps else {
            return;
        };
        self.bitmaps.valid.set(true);
        // The header's check has bounded both.
        let end = place.directory_offset.0 + place.directory_size;
        let clusters = self.meta.geometry().cluster_of(place.directory_offset)
            ..self.meta.geometry().clusters_for(end);
        let added = self.meta.add_table(Table::BitmapDirectory, clusters);
        self.bitmaps.misplaced.set(added.is_err());
    }

    /// The disk is about to change: from now on no bitmap says what has changed. Stable when it returns.
    ///
    /// Called before every change of what the guest reads, once whatever may refuse the change has been asked.
    ///
    /// # Errors
    ///
    /// What the disk says. Bitmaps may be marked then although the disk has not changed; the next call goes on.
    pub(crate) async fn before_guest_change(&self) -> Result<()> {
        // The change may be in an external data file alone, whose writes do not pass the image file.
        self.meta.file().before_write().await?;
        if !self.bitmaps.valid.get() {
            return Ok(());
        }
        let _turn = self.bitmaps.turn.lock().await;
        if !self.bitmaps.valid.get() {
            return Ok(()); // done by the one before
        }
        match self.bitmap_entries().await {
            Ok(entries) => self.mark(&entries).await?,
            Err(Qcow2Error::Io { error, .. }) => return Err(error.cause),
            Err(error @ Qcow2Error::OutOfMemory { .. }) => return Err(error.into()),
            Err(_) => self.disown().await?,
        }
        self.bitmaps.valid.set(false);
        Ok(())
    }

    /// Refuses to replace the whole disk under bitmaps that are to tell what changes (QEMU's `bdrv_snapshot_goto`).
    pub(crate) fn check_no_bitmaps(&self) -> Result<(), Qcow2Error> {
        match self.header.extensions.bitmaps {
            Some(_) if self.bitmaps.disowned.get() => Ok(()),
            Some(place) => Err(Qcow2Error::ActiveBitmaps {
                bitmaps: place.bitmaps,
            }),
            None => Ok(()),
        }
    }

    /// All entries of the directory, which is read to its end before anything is changed.
    async fn bitmap_entries(&self) -> Result<Vec<BitmapEntry>, Qcow2Error> {
        let Some(place) = self.header.extensions.bitmaps else {
            return Ok(Vec::new());
        };
        if self.bitmaps.misplaced.get() {
            return Err(Qcow2Error::Overlap {
                what: Table::BitmapDirectory,
                other: Table::Header,
                offset: place.directory_offset.0,
            });
        }
        let source = Source::new(self.meta.file().child()).await?;
        let mut directory = Directory::new(&source, place, &self.header);
        let mut entries = Vec::new(); // at most 65535
        while let Some(entry) = directory.next().await? {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Sets IN_USE in each entry, in place.
    async fn mark(&self, entries: &[BitmapEntry]) -> Result<()> {
        for entry in entries {
            let flags = entry.flags | IN_USE;
            if flags != entry.flags {
                let at = entry.at + FLAGS_AT;
                self.meta.file().write(at, &flags.to_be_bytes()).await?;
            }
        }
        self.meta.file().flush().await
    }

    /// The directory makes no sense, so that nothing in it can be marked: the image no longer says that it has bitmaps. Their clusters stay
    /// counted, as leaks that a check finds.
    async fn disown(&self) -> Result<()> {
        let kept = self.header.autoclear & autoclear::KNOWN & !autoclear::BITMAPS;
        self.meta
            .file()
            .write(AUTOCLEAR_AT, &kept.to_be_bytes())
            .await?;
        self.meta.file().flush().await?;
        self.bitmaps.disowned.set(true);
        Ok(())
    }
}
