//! The COPIED flags of the active tables: each says whether the refcount is exactly 1. QEMU's `check_oflag_copied`.

use super::l2::{Kind, entries, kind};
use super::refcounts::DiskRefcounts;
use super::reference_counts::ReferenceCounts;
use super::report::{CheckReport, Finding};
use crate::qcow2::format::entry::{COPIED, L1Entry, L2Entry, OFFSET_MASK};
use crate::qcow2::format::error::{Qcow2Error, Table};
use crate::qcow2::format::geometry::TABLE_ENTRY_SIZE;
use crate::qcow2::format::header::Header;
use crate::qcow2::format::read_at::ReadAt;
use crate::qcow2::metadata::{Entries, buffer};
use std::collections::BTreeMap;

impl ReferenceCounts<'_, '_> {
    /// Compares every flag with the refcount on disk. `repair`: it is set right, in place; each is old or new after a crash. Not flushed.
    ///
    /// Tables that other metadata lies on are left as they are, which is a check error.
    pub(crate) async fn check_copied(
        &mut self,
        header: &Header,
        refcounts: &mut DiskRefcounts<'_, '_>,
        repair: bool,
    ) -> Result<(), Qcow2Error> {
        let (at, count) = (header.l1_offset.0, u64::from(header.l1_entries));
        let keep_l1 = repair && self.is_overlapped(at, count * TABLE_ENTRY_SIZE);
        if keep_l1 {
            self.give_up(Table::L1, at);
        }
        let mut table = buffer(Table::L2, self.geometry.cluster_size())?;
        // How many flags are wrong in the tables that were looked at: several entries may lead to one.
        let mut looked_at = BTreeMap::new();
        let mut pieces = Entries::new(self.source, Table::L1, at, count);
        while let Some((first, piece)) = pieces.next().await? {
            for (index, raw) in (first..).zip(piece) {
                let entry = L1Entry(raw);
                let offset = entry.offset().0;
                if offset == 0 {
                    continue;
                }
                let cluster = offset >> self.geometry.cluster_bits();
                let Some(refcount) = refcounts.get(cluster).await? else {
                    continue; // reported when the refcounts were compared
                };
                let (what, copied) = (Table::L2, refcount == 1);
                if entry.copied() != copied {
                    let fixed = repair && !keep_l1;
                    flag(&mut self.report, fixed, what, at, index, raw, refcount);
                    if fixed {
                        let place = at.saturating_add(index * TABLE_ENTRY_SIZE);
                        let entry = entry.with_copied(copied).0.to_be_bytes();
                        self.source.write(Table::L1, place, &entry).await?;
                    }
                }
                if offset >= self.source.end() {
                    continue; // it reads as zeroes
                }
                if let Some(wrong) = looked_at.get(&offset) {
                    self.report.corruptions += wrong;
                    continue;
                }
                let wrong = self
                    .l2_copied(offset, &mut table, refcounts, repair)
                    .await?;
                looked_at.insert(offset, wrong);
            }
        }
        Ok(())
    }

    /// The flags of one L2 table. Returns how many are wrong afterwards.
    async fn l2_copied(
        &mut self,
        at: u64,
        table: &mut [u8],
        refcounts: &mut DiskRefcounts<'_, '_>,
        repair: bool,
    ) -> Result<u64, Qcow2Error> {
        self.source.read(Table::L2, at, table).await?;
        let geometry = self.geometry;
        let mut wrong = Vec::new();
        for (index, L2Entry { raw, bitmap }) in entries(geometry, table) {
            if kind(&geometry, raw) != Kind::Standard {
                continue;
            }
            let refcount = if geometry.data_file() {
                1
            } else {
                let cluster = (raw & OFFSET_MASK) >> geometry.cluster_bits();
                match refcounts.get(cluster).await? {
                    Some(refcount) => refcount,
                    None => continue,
                }
            };
            if (raw & COPIED != 0) != (refcount == 1) {
                let raw = raw ^ COPIED;
                wrong.push((index, L2Entry { raw, bitmap }, refcount));
            }
        }
        let size = geometry.l2_entry_size();
        let keep = !geometry.is_aligned(at) || self.is_overlapped(at, geometry.cluster_size());
        let fixed = repair && !keep;
        if repair && keep && !wrong.is_empty() {
            self.give_up(Table::L2, at);
        }
        for (index, entry, refcount) in &wrong {
            let raw = entry.raw ^ COPIED;
            flag(
                &mut self.report,
                fixed,
                Table::Data,
                at,
                *index,
                raw,
                *refcount,
            );
            if fixed {
                let _ = entry.write(&geometry, table, *index as usize); // it was read there
            }
        }
        // One write from the first to the last that changes.
        if let (true, [(first, ..), ..], [.., (last, ..)]) = (fixed, &wrong[..], &wrong[..]) {
            let (start, end) = (first * size, (last + 1) * size);
            if let Some(bytes) = table.get(start as usize..end as usize) {
                self.source
                    .write(Table::L2, at.saturating_add(start), bytes)
                    .await?;
            }
        }
        Ok(if fixed { 0 } else { wrong.len() as u64 })
    }
}

fn flag(
    report: &mut CheckReport,
    fixed: bool,
    what: Table,
    table: u64,
    index: u64,
    raw: u64,
    refcount: u64,
) {
    let finding = Finding::Copied {
        what,
        table,
        index,
        raw,
        refcount,
    };
    if fixed {
        report.corruptions_fixed += 1;
        report.find(finding);
    } else {
        report.corrupt(1, finding);
    }
}
