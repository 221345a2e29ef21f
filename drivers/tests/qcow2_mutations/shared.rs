//! Where the bytes of a damaged image are, by a parser of its own that takes everything as it is: which host clusters a piece of the disk
//! is in, and whether they hold metadata too. What lies on metadata may change with it.

use crate::readable::{PIECE, Piece};
use std::collections::BTreeSet;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;

pub(crate) struct Metadata<'a> {
    bytes: &'a [u8],
    clusters: BTreeSet<u64>,
}

/// An L1 table.
#[derive(Clone, Copy)]
struct L1 {
    at: u64,
    entries: u64,
}

impl<'a> Metadata<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let mut all = Self {
            bytes,
            clusters: BTreeSet::new(),
        };
        all.add(0, 1);
        all.add(all.be64(48), all.be32(56) << all.cluster_bits());
        for index in 0..(all.be32(56) << all.cluster_bits()).min(8 << 20) / 8 {
            let block = all.be64(all.be64(48) + index * 8) & !511;
            if block != 0 {
                all.add(block, 1 << all.cluster_bits());
            }
        }
        all.add_l1(all.active());
        for (l1, ..) in all.snapshots() {
            all.add_l1(l1);
        }
        if let Some((.., end)) = all.snapshots().last() {
            all.add(all.be64(64), end - all.be64(64));
        }
        all
    }

    pub(crate) fn is_metadata(&self, cluster: u64) -> bool {
        self.clusters.contains(&cluster)
    }

    /// The host clusters that a piece is in.
    pub(crate) fn hosts(&self, piece: &Piece) -> Vec<u64> {
        let (l1, start) = match &piece.of {
            None => (self.active(), 0),
            Some(of) => {
                let found = self.snapshots().into_iter().find(|(_, id, ..)| *id == of.0);
                match found {
                    None => return Vec::new(),
                    Some((l1, _, disk, _)) if piece.state => {
                        (l1, disk.next_multiple_of(self.l2_span()))
                    }
                    Some((l1, ..)) => (l1, 0),
                }
            }
        };
        let cluster = 1 << self.cluster_bits();
        let first = (start + piece.at) / cluster * cluster;
        (first..start + piece.at + PIECE)
            .step_by(cluster as usize)
            .flat_map(|at| self.host(l1, at))
            .collect()
    }

    /// Where a guest cluster is, its L2 table included: what that holds decides as well.
    fn host(&self, l1: L1, at: u64) -> Vec<u64> {
        let bits = self.cluster_bits();
        let entry_size = if self.extended() { 16 } else { 8 };
        let table = self.be64(l1.at + at / self.l2_span() * 8) & OFFSET;
        let index = (at % self.l2_span()) >> bits;
        let entry = self.be64(table + index * entry_size);
        let l1_at = (l1.at + at / self.l2_span() * 8) >> bits;
        let mut found = Vec::new();
        // A table that lies on another one, or on data.
        for cluster in [l1_at, table >> bits] {
            if self.uses(cluster) > 1 {
                found.push(cluster);
            }
        }
        if entry & COMPRESSED != 0 {
            let shift = 62 - (bits - 8);
            let host = entry & ((1 << shift) - 1);
            found.extend([host >> bits, (host >> bits) + 1, (host >> bits) + 2]);
        } else if entry & OFFSET != 0 {
            found.push((entry & OFFSET) >> bits);
        }
        found
    }

    /// How many structures lie on a cluster.
    fn uses(&self, cluster: u64) -> usize {
        let bits = self.cluster_bits();
        let inside = |at: u64, bytes: u64| {
            bytes != 0 && at >> bits <= cluster && cluster <= (at + bytes - 1) >> bits
        };
        let mut tables = vec![
            (0, 1),
            (self.be64(48), self.be32(56) << bits),
            (self.active().at, self.active().entries * 8),
        ];
        for index in 0..(self.be32(56) << bits).min(8 << 20) / 8 {
            let block = self.be64(self.be64(48) + index * 8) & !511;
            tables.push((block, if block == 0 { 0 } else { 1 << bits }));
        }
        let mut l2: BTreeSet<u64> = self.l2_tables(self.active()).into_iter().collect();
        let mut end_of_table = None;
        for (l1, _, _, end) in self.snapshots() {
            tables.push((l1.at, l1.entries * 8));
            l2.extend(self.l2_tables(l1));
            end_of_table = Some(end);
        }
        if let Some(end) = end_of_table {
            tables.push((self.be64(64), end.saturating_sub(self.be64(64))));
        }
        tables.extend(l2.iter().map(|at| (*at, 1 << bits)));
        let used = tables.iter().filter(|(at, bytes)| inside(*at, *bytes));
        used.count()
    }

    fn add(&mut self, at: u64, bytes: u64) {
        let bits = self.cluster_bits();
        let bytes = bytes.min(self.bytes.len() as u64);
        if bytes != 0 {
            self.clusters
                .extend(at >> bits..=(at.saturating_add(bytes - 1)) >> bits);
        }
    }

    fn add_l1(&mut self, l1: L1) {
        self.add(l1.at, l1.entries * 8);
        for table in self.l2_tables(l1) {
            self.add(table, 1 << self.cluster_bits());
        }
    }

    fn l2_tables(&self, l1: L1) -> Vec<u64> {
        let entries = (0..l1.entries.min(4096)).map(|index| self.be64(l1.at + index * 8) & OFFSET);
        entries.filter(|at| *at != 0).collect()
    }

    fn active(&self) -> L1 {
        L1 {
            at: self.be64(40),
            entries: self.be32(36).min(4 << 20),
        }
    }

    /// L1 table, id, bytes of the disk, and the end of the entry in the file.
    fn snapshots(&self) -> Vec<(L1, String, u64, u64)> {
        let mut found = Vec::new();
        let (start, mut at) = (self.be64(64), self.be64(64));
        for _ in 0..self.be32(60).min(64) {
            at = start + (at - start).next_multiple_of(8);
            let extra = self.be32(at + 36);
            let (id, name) = (self.be32(at + 12) >> 16, self.be32(at + 12) & 0xffff);
            let disk = match extra >= 16 {
                true => self.be64(at + 48),
                false => self.be64(24) & !511,
            };
            let id_at = (at + 40 + extra) as usize;
            let bytes = self.bytes.get(id_at..).unwrap_or_default();
            let bytes = &bytes[..bytes.len().min(id as usize)];
            // As it is told: up to the first 0.
            let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            let l1 = L1 {
                at: self.be64(at),
                entries: self.be32(at + 8).min(4 << 20),
            };
            let end = at + 40 + extra + id + name;
            found.push((l1, String::from_utf8_lossy(bytes).into_owned(), disk, end));
            at = end;
        }
        found
    }

    fn l2_span(&self) -> u64 {
        let bits = self.cluster_bits();
        let entry_bits = if self.extended() { 4 } else { 3 };
        1 << (bits + bits - entry_bits)
    }

    fn extended(&self) -> bool {
        self.be32(4) == 3 && self.be64(72) & 16 != 0
    }

    fn cluster_bits(&self) -> u64 {
        self.be32(20).clamp(9, 21)
    }

    fn be64(&self, at: u64) -> u64 {
        (self.be32(at) << 32) | self.be32(at.saturating_add(4))
    }

    /// 0 past the end.
    fn be32(&self, at: u64) -> u64 {
        let byte = |i: u64| {
            let at = usize::try_from(at.saturating_add(i)).unwrap_or(usize::MAX);
            u64::from(self.bytes.get(at).copied().unwrap_or(0))
        };
        byte(0) << 24 | byte(1) << 16 | byte(2) << 8 | byte(3)
    }
}
