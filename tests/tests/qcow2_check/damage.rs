//! Images are damaged byte by byte. A small reader of the format finds the places; it is not the driver's.

use std::ops::Range;

/// The bytes of an image, and where its tables are.
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
    numbers: u64,
}

/// Something done to an image. False: it has not got what is to be damaged.
pub(super) type Damage = fn(&mut Image) -> bool;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

pub(super) const DAMAGES: &[(&str, Damage)] = &[
    ("nothing at all", |_| true),
    ("the refcount of a data cluster is 0", |i| {
        i.refcount_of_data(|_| 0)
    }),
    ("the refcount of a data cluster is one more", |i| {
        i.refcount_of_data(|n| n + 1)
    }),
    ("the refcount of a data cluster is one less", |i| {
        i.refcount_of_data(|n| n.saturating_sub(1))
    }),
    ("the refcount of an L2 table is 0", |i| {
        i.refcount_of_l2(|_| 0)
    }),
    ("the refcount of an L2 table is one more", |i| {
        i.refcount_of_l2(|n| n + 1)
    }),
    ("the refcount of the header is 0", |i| {
        i.change_refcount(0, |_| 0)
    }),
    ("the refcount of the L1 table is one more", |i| {
        let cluster = i.u64(40) / i.cluster();
        i.change_refcount(cluster, |n| n + 1)
    }),
    ("the refcount of the refcount table is 0", |i| {
        let cluster = i.u64(48) / i.cluster();
        i.change_refcount(cluster, |_| 0)
    }),
    ("two clusters past everything are leaked", |i| {
        let end = i.bytes.len() as u64 / i.cluster();
        i.change_refcount(end.saturating_sub(1), |n| n + 1) && i.change_refcount(end + 1, |_| 1)
    }),
    ("two entries lead to one cluster", |i| {
        let entries = i.standard_entries();
        let [first, .., last] = entries[..] else {
            return false;
        };
        let raw = i.u64(first);
        i.put(last, raw)
    }),
    ("an entry leads into a cluster", |i| {
        i.a_standard_entry(|i, raw| raw + i.cluster() / 2)
    }),
    ("a zero cluster's entry leads into a cluster", |i| {
        i.a_standard_entry(|i, raw| (raw | 1) + i.cluster() / 2)
    }),
    ("an entry leads past the file", |i| {
        i.a_standard_entry(|i, _| (i.end_of_file() + 4 * i.cluster()) | COPIED)
    }),
    ("an entry leads to the cluster past the file", |i| {
        i.a_standard_entry(|i, _| i.end_of_file() | COPIED)
    }),
    ("an entry leads far away", |i| {
        i.a_standard_entry(|_, _| 1 << 54 | COPIED)
    }),
    ("an entry has no COPIED flag", |i| {
        i.a_standard_entry(|_, raw| raw ^ COPIED)
    }),
    ("an L1 entry has no COPIED flag", |i| {
        i.an_l1_entry(|_, raw| raw ^ COPIED)
    }),
    ("all flags of a table are wrong", |i| {
        let entries = i.standard_entries();
        entries.iter().all(|at| {
            let raw = i.u64(*at);
            i.put(*at, raw ^ COPIED)
        }) && !entries.is_empty()
    }),
    ("an entry has reserved bits", |i| {
        i.a_standard_entry(|_, raw| raw | 0x2a << 56 | 6)
    }),
    ("an entry leads to the L1 table", |i| {
        i.a_standard_entry(|i, _| i.u64(40) | COPIED)
    }),
    ("an entry leads to a refcount block", |i| {
        i.a_standard_entry(|i, _| i.block(0).unwrap_or(0) | COPIED)
    }),
    ("an entry leads to the refcount table", |i| {
        i.a_standard_entry(|i, _| i.u64(48) | COPIED)
    }),
    ("an entry leads to its own table", |i| {
        i.a_standard_entry(|i, _| i.u64(i.l1()[0]) & OFFSET | COPIED)
    }),
    ("an entry is gone", |i| i.a_standard_entry(|_, _| 0)),
    ("an L1 entry is gone", |i| i.an_l1_entry(|_, _| 0)),
    ("two L1 entries lead to one table", |i| {
        let l1 = i.u64(40) as usize;
        let Some(first) = i.l1().first().copied() else {
            return false;
        };
        let raw = i.u64(first);
        let last = l1 + 8 * (i.u32(36) as usize - 1);
        last != first && i.put(last, raw)
    }),
    ("an L1 entry leads into a cluster", |i| {
        i.an_l1_entry(|_, raw| raw + 512)
    }),
    ("an L1 entry leads past the file", |i| {
        i.an_l1_entry(|i, _| (i.end_of_file() + 8 * i.cluster()) | COPIED)
    }),
    ("an L1 entry has reserved bits", |i| {
        i.an_l1_entry(|_, raw| raw | 1 << 57 | 8)
    }),
    ("an L1 entry leads to the header", |i| {
        i.an_l1_entry(|_, _| COPIED)
    }),
    ("an L1 entry leads to the L1 table", |i| {
        i.an_l1_entry(|i, _| i.u64(40) | COPIED)
    }),
    ("an L1 entry leads to a refcount block", |i| {
        i.an_l1_entry(|i, _| i.block(0).unwrap_or(0) | COPIED)
    }),
    ("the first refcount block is gone", |i| {
        i.reftable_entry(0, |_, _| 0)
    }),
    ("the second refcount block is gone", |i| {
        i.reftable_entry(1, |_, _| 0)
    }),
    ("a refcount block is said to be inside a cluster", |i| {
        i.reftable_entry(0, |_, raw| raw + 512)
    }),
    ("a reftable entry has reserved bits", |i| {
        i.reftable_entry(0, |_, raw| raw | 5)
    }),
    ("a refcount block is said to be past the file", |i| {
        i.reftable_entry(0, |i, _| i.end_of_file() + 3 * i.cluster())
    }),
    ("there are two refcount blocks in one place", |i| {
        let at = i.u64(48) as usize;
        let raw = i.u64(at);
        i.put(at + 8, raw)
    }),
    ("a refcount block is an L2 table", |i| {
        let Some(l2) = i.l1().first().map(|at| i.u64(*at) & OFFSET) else {
            return false;
        };
        i.reftable_entry(0, |_, _| l2)
    }),
    ("a refcount block is said to be far away", |i| {
        i.reftable_entry(0, |_, _| 1 << 63)
    }),
    ("a refcount block is all zeroes", |i| i.fill_block(0)),
    ("a refcount block is all ones", |i| i.fill_block(0xff)),
    ("there is no refcount table", |i| i.put32(56, 0)),
    ("the refcount table is on the L1 table", |i| {
        let l1 = i.u64(40);
        i.put(48, l1)
    }),
    ("the refcount table is past the file", |i| {
        let end = i.end_of_file();
        i.put(48, end + i.cluster())
    }),
    ("there is one snapshot more than there is", |i| {
        let snapshots = i.u32(60);
        snapshots != 0 && i.put32(60, snapshots + 1)
    }),
    ("the first snapshot's L1 table is inside a cluster", |i| {
        i.snapshot(|i, at| {
            let raw = i.u64(at);
            i.put(at, raw + 8)
        })
    }),
    ("the first snapshot's L1 table is too large", |i| {
        i.snapshot(|i, at| i.put32(at + 8, 5 << 20))
    }),
    ("the first snapshot's L1 table is past the file", |i| {
        i.snapshot(|i, at| {
            let end = i.end_of_file();
            i.put(at, end + 3 * i.cluster())
        })
    }),
    ("the first snapshot's L1 table is the active one", |i| {
        i.snapshot(|i, at| {
            let l1 = i.u64(40);
            i.put(at, l1)
        })
    }),
    ("the first snapshot has no extra data", |i| {
        i.snapshot(|i, at| {
            // What was extra data is part of its name now.
            let extra = i.u32(at + 36);
            let name = i.u32(at + 12);
            i.put32(at + 36, 0) && i.put32(at + 12, name + extra)
        })
    }),
    ("the first snapshot has half its extra data", |i| {
        i.snapshot(|i, at| {
            let extra = i.u32(at + 36);
            let name = i.u32(at + 12);
            i.put32(at + 36, 8) && i.put32(at + 12, name + extra - 8)
        })
    }),
    ("the first snapshot has too much extra data", |i| {
        i.snapshot(|i, at| i.put32(at + 36, 1100))
    }),
    (
        "an entry of a snapshot's L2 table is shared with the active one",
        |i| {
            i.snapshot(|i, at| {
                let l1 = i.u64(at) as usize;
                let active = i.u64(40) as usize;
                let raw = i.u64(active) & !COPIED;
                i.put(l1, raw)
            })
        },
    ),
    ("the snapshot table is inside a cluster", |i| {
        let at = i.u64(64);
        i.u32(60) != 0 && i.put(64, at + 8)
    }),
    ("a compressed entry has the COPIED flag", |i| {
        i.a_compressed_entry(|_, raw| raw | COPIED)
    }),
    ("a compressed entry leads past the file", |i| {
        i.a_compressed_entry(|i, raw| raw + 5 * i.cluster() + i.end_of_file())
    }),
    ("a compressed entry is a standard one", |i| {
        i.a_compressed_entry(|_, raw| raw & !COMPRESSED)
    }),
    ("a standard entry is a compressed one", |i| {
        i.a_standard_entry(|_, raw| raw & !COPIED | COMPRESSED)
    }),
    ("a subcluster is both", |i| {
        i.a_bitmap(|raw| raw | 1 | 1 << 32)
    }),
    ("a subcluster is allocated nowhere", |i| {
        i.extended() && i.a_standard_entry(|_, _| 0)
    }),
    (
        "a preallocated cluster with subclusters is inside a cluster",
        |i| i.a_bitmap(|_| 3 << 40) && i.a_standard_entry(|_, raw| raw + 512),
    ),
    ("a bitmap's table is inside a cluster", |i| {
        i.bitmap_directory(|i, at| {
            let raw = i.u64(at);
            i.put(at, raw + 8)
        })
    }),
    ("a bitmap has unknown flags", |i| {
        i.bitmap_directory(|i, at| i.put32(at + 12, 0x80))
    }),
    ("a bitmap's table has reserved bits", |i| {
        i.bitmap_directory(|i, at| {
            let table = i.u64(at) as usize;
            let raw = i.u64(table);
            i.put(table, raw | 2)
        })
    }),
    ("a bitmap's table leads into a cluster", |i| {
        i.bitmap_directory(|i, at| {
            let table = i.u64(at) as usize;
            let raw = i.u64(table);
            i.put(table, (raw & !1) + 512)
        })
    }),
    ("a bitmap's table leads to the L1 table", |i| {
        i.bitmap_directory(|i, at| {
            let table = i.u64(at) as usize;
            let l1 = i.u64(40);
            i.put(table, l1)
        })
    }),
    ("the bitmaps are out of date", |i| {
        i.u32(4) == 3 && i.put(88, 0)
    }),
    ("it is marked corrupt", |i| {
        i.u32(4) == 3 && {
            let bits = i.u64(72);
            i.put(72, bits | 2)
        }
    }),
    ("it is marked dirty", |i| {
        i.u32(4) == 3 && {
            let bits = i.u64(72);
            i.put(72, bits | 1)
        }
    }),
    ("the file ends two clusters early", |i| {
        let len = i.bytes.len().saturating_sub(2 * i.cluster() as usize);
        i.bytes.truncate(len);
        len > i.cluster() as usize
    }),
    ("the file ends half a cluster early", |i| {
        let len = i.bytes.len() - i.cluster() as usize / 2;
        i.bytes.truncate(len);
        true
    }),
    ("the file is longer", |i| {
        let len = i.bytes.len() + 5 * i.cluster() as usize + 7;
        i.bytes.resize(len, 0xa5);
        true
    }),
    ("the virtual disk is smaller", |i| i.put(24, 65536)),
];

impl Image {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, numbers: 1 }
    }

    /// Changes one bit in a table or in the header's table fields.
    pub(super) fn flip_somewhere(&mut self, seed: u64) {
        self.numbers = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let places = self.tables();
        let place = places[self.below(places.len())].clone();
        // Tables are mostly empty: half of the hits are where something is.
        let full: Vec<usize> = place.clone().filter(|at| self.bytes[*at] != 0).collect();
        let at = match self.below(2) {
            0 if !full.is_empty() => full[self.below(full.len())],
            _ => place.start + self.below(place.len()),
        };
        let bit = 1 << self.below(8);
        self.bytes[at] ^= bit;
    }

    fn below(&mut self, end: usize) -> usize {
        self.numbers ^= self.numbers << 13;
        self.numbers ^= self.numbers >> 7;
        self.numbers ^= self.numbers << 17;
        (self.numbers % end as u64) as usize
    }

    /// All tables that are inside the file.
    fn tables(&self) -> Vec<Range<usize>> {
        let cluster = self.cluster() as usize;
        let l1 = self.u64(40) as usize;
        // QEMU forgets the snapshot table (60..72) when it opens an image with bitmaps to repair it.
        let mut tables = vec![36..60, l1..l1 + 8 * self.u32(36) as usize];
        let mut clusters = vec![self.u64(48)];
        clusters.extend(self.l1().iter().map(|at| self.u64(*at) & OFFSET));
        clusters.extend(self.block(0));
        if self.u32(60) != 0 {
            clusters.push(self.u64(64));
            clusters.push(self.u64(self.u64(64) as usize));
        }
        if let Some(directory) = self.directory() {
            clusters.push(directory as u64);
            clusters.push(self.u64(directory));
        }
        let clusters = clusters
            .into_iter()
            .map(|at| at as usize..at as usize + cluster);
        tables.extend(clusters);
        let len = self.bytes.len();
        let inside = tables.into_iter().map(|t| t.start.min(len)..t.end.min(len));
        inside.filter(|table| !table.is_empty()).collect()
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self
            .bytes
            .get(at..at + 4)
            .map_or([0; 4], |b| b.try_into().expect("four"));
        u32::from_be_bytes(bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        let bytes = self
            .bytes
            .get(at..at + 8)
            .map_or([0; 8], |b| b.try_into().expect("eight"));
        u64::from_be_bytes(bytes)
    }

    fn put(&mut self, at: usize, value: u64) -> bool {
        let place = self.bytes.get_mut(at..at + 8);
        place
            .map(|place| place.copy_from_slice(&value.to_be_bytes()))
            .is_some()
    }

    fn put32(&mut self, at: usize, value: u32) -> bool {
        let place = self.bytes.get_mut(at..at + 4);
        place
            .map(|place| place.copy_from_slice(&value.to_be_bytes()))
            .is_some()
    }

    fn cluster(&self) -> u64 {
        1 << self.u32(20)
    }

    fn extended(&self) -> bool {
        self.u32(4) == 3 && self.u64(72) & 1 << 4 != 0
    }

    fn end_of_file(&self) -> u64 {
        (self.bytes.len() as u64).next_multiple_of(self.cluster())
    }

    /// Where the L1 entries are that lead anywhere.
    fn l1(&self) -> Vec<usize> {
        let entries = (0..self.u32(36) as usize).map(|i| self.u64(40) as usize + 8 * i);
        entries.filter(|at| self.u64(*at) & OFFSET != 0).collect()
    }

    fn an_l1_entry(&mut self, to: impl Fn(&Self, u64) -> u64) -> bool {
        let Some(at) = self.l1().first().copied() else {
            return false;
        };
        let raw = to(self, self.u64(at));
        self.put(at, raw)
    }

    /// Where the L2 entries are that are not 0.
    fn l2_entries(&self) -> Vec<usize> {
        let size = if self.extended() { 16 } else { 8 };
        let tables = self
            .l1()
            .into_iter()
            .map(|at| (self.u64(at) & OFFSET) as usize);
        let entries =
            tables.flat_map(|table| (table..table + self.cluster() as usize).step_by(size));
        entries.filter(|at| self.u64(*at) != 0).collect()
    }

    fn standard_entries(&self) -> Vec<usize> {
        let standard = |raw: u64| raw & COMPRESSED == 0 && raw & OFFSET != 0;
        let entries = self.l2_entries().into_iter();
        entries.filter(|at| standard(self.u64(*at))).collect()
    }

    fn a_standard_entry(&mut self, to: impl Fn(&Self, u64) -> u64) -> bool {
        let Some(at) = self.standard_entries().first().copied() else {
            return false;
        };
        let raw = to(self, self.u64(at));
        self.put(at, raw)
    }

    fn a_compressed_entry(&mut self, to: impl Fn(&Self, u64) -> u64) -> bool {
        let entries = self.l2_entries().into_iter();
        let mut entries = entries.filter(|at| self.u64(*at) & COMPRESSED != 0);
        let Some(at) = entries.next() else {
            return false;
        };
        let raw = to(self, self.u64(at));
        self.put(at, raw)
    }

    fn a_bitmap(&mut self, to: impl Fn(u64) -> u64) -> bool {
        if !self.extended() {
            return false;
        }
        let Some(at) = self.standard_entries().first().copied() else {
            return false;
        };
        let raw = to(self.u64(at + 8));
        self.put(at + 8, raw)
    }

    fn block(&self, index: usize) -> Option<u64> {
        let raw = self.u64(self.u64(48) as usize + 8 * index);
        (raw != 0).then_some(raw)
    }

    fn reftable_entry(&mut self, index: usize, to: impl Fn(&Self, u64) -> u64) -> bool {
        let Some(raw) = self.block(index) else {
            return false;
        };
        let raw = to(self, raw);
        let at = self.u64(48) as usize + 8 * index;
        self.put(at, raw)
    }

    fn fill_block(&mut self, with: u8) -> bool {
        let Some(at) = self.block(0) else {
            return false;
        };
        let end = at + self.cluster();
        let block = self.bytes.get_mut(at as usize..end as usize);
        block.map(|block| block.fill(with)).is_some()
    }

    /// Changes the refcount of `cluster` as far as its width goes. False where nothing changes.
    fn change_refcount(&mut self, cluster: u64, to: impl Fn(u64) -> u64) -> bool {
        let order = if self.u32(4) == 3 { self.u32(96) } else { 4 };
        let bits = 1_usize << order;
        let per_block = self.cluster() * 8 / bits as u64;
        let Some(block) = self.block((cluster / per_block) as usize) else {
            return false;
        };
        let index = (cluster % per_block) as usize;
        let (from, bytes) = (block as usize + index * bits / 8, (bits / 8).max(1));
        let Some(field) = self.bytes.get_mut(from..from + bytes) else {
            return false;
        };
        let shift = if bits < 8 { index * bits % 8 } else { 0 };
        let mask = u64::MAX >> (64 - bits);
        let number = field
            .iter()
            .fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let old = number >> shift & mask;
        let new = to(old) & mask;
        let number = number & !(mask << shift) | new << shift;
        field.copy_from_slice(&number.to_be_bytes()[8 - bytes..]);
        new != old
    }

    fn refcount_of_data(&mut self, to: impl Fn(u64) -> u64) -> bool {
        let Some(at) = self.standard_entries().last().copied() else {
            return false;
        };
        let cluster = (self.u64(at) & OFFSET) / self.cluster();
        self.change_refcount(cluster, to)
    }

    fn refcount_of_l2(&mut self, to: impl Fn(u64) -> u64) -> bool {
        let Some(at) = self.l1().first().copied() else {
            return false;
        };
        let cluster = (self.u64(at) & OFFSET) / self.cluster();
        self.change_refcount(cluster, to)
    }

    fn snapshot(&mut self, damage: impl Fn(&mut Self, usize) -> bool) -> bool {
        self.u32(60) != 0 && damage(self, self.u64(64) as usize)
    }

    /// Where the bitmap directory is.
    fn directory(&self) -> Option<usize> {
        if self.u32(4) != 3 {
            return None;
        }
        let mut at = self.u32(100) as usize;
        loop {
            let (magic, len) = (self.u32(at), self.u32(at + 4) as usize);
            match magic {
                0 => return None,
                0x2385_2875 => return Some(self.u64(at + 24) as usize),
                _ => at += 8 + len.next_multiple_of(8),
            }
        }
    }

    fn bitmap_directory(&mut self, damage: impl Fn(&mut Self, usize) -> bool) -> bool {
        match self.directory() {
            Some(at) => damage(self, at),
            None => false,
        }
    }
}
