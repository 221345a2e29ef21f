//! A reader and checker of images that shares no code with the driver: what the tests believe instead of it. It knows the format's tables
//! and nothing else, and takes the image as one array of bytes.

use std::collections::BTreeMap;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// An image file's bytes, and what its header says.
pub struct Walker<'a> {
    bytes: &'a [u8],
    data_file: Option<&'a [u8]>,
    cluster_bits: u32,
    refcount_bits: u32,
    extended: bool,
    zstd: bool,
    pub size: u64,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Findings {
    /// In words: whatever a crash must not leave.
    pub errors: Vec<String>,
    /// Clusters counted more often than they are used.
    pub leaks: Vec<u64>,
    /// Guest offsets (or L1 indices) whose COPIED flag is not what the refcount says.
    pub copied: Vec<u64>,
    /// Host clusters in use.
    pub used: usize,
}

impl<'a> Walker<'a> {
    pub fn new(bytes: &'a [u8], data_file: Option<&'a [u8]>) -> Self {
        assert_eq!(&bytes[..4], b"QFI\xfb");
        let version = be32(bytes, 4);
        let incompatible = if version == 2 { 0 } else { be64(bytes, 72) };
        assert_eq!(incompatible & 4 != 0, data_file.is_some());
        Self {
            bytes,
            data_file,
            cluster_bits: be32(bytes, 20),
            refcount_bits: if version == 2 {
                16
            } else {
                1 << be32(bytes, 96)
            },
            extended: incompatible & 16 != 0,
            zstd: incompatible & 8 != 0,
            size: be64(bytes, 24),
        }
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn entry_size(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.entry_size()
    }

    fn l1(&self) -> Vec<u64> {
        self.table(be64(self.bytes, 40), be32(self.bytes, 36).into())
    }

    /// A table of 8-byte entries; what lies past the file's end counts as 0.
    fn table(&self, at: u64, entries: u64) -> Vec<u64> {
        (0..entries).map(|i| be64(self.bytes, at + 8 * i)).collect()
    }

    /// The L1 tables of all snapshots.
    fn snapshots(&self) -> Vec<(u64, Vec<u64>)> {
        let mut at = be64(self.bytes, 64);
        let mut tables = Vec::new();
        for _ in 0..be32(self.bytes, 60) {
            let (table, entries) = (be64(self.bytes, at), be32(self.bytes, at + 8));
            tables.push((table, self.table(table, entries.into())));
            let names = u64::from(be16(self.bytes, at + 12)) + u64::from(be16(self.bytes, at + 14));
            let extra = u64::from(be32(self.bytes, at + 36));
            at = (at + 40 + extra + names).next_multiple_of(8);
        }
        tables
    }

    /// Bytes of the snapshot table.
    fn snapshots_len(&self) -> u64 {
        let start = be64(self.bytes, 64);
        let mut at = start;
        for _ in 0..be32(self.bytes, 60) {
            let names = u64::from(be16(self.bytes, at + 12)) + u64::from(be16(self.bytes, at + 14));
            let extra = u64::from(be32(self.bytes, at + 36));
            at = (at + 40 + extra + names).next_multiple_of(8);
        }
        at - start
    }

    fn refcount(&self, cluster: u64) -> u64 {
        let per_block = self.cluster_size() * 8 / u64::from(self.refcount_bits);
        let reftable = be64(self.bytes, 48);
        let entries = u64::from(be32(self.bytes, 56)) * self.cluster_size() / 8;
        let index = cluster / per_block;
        let block = match index < entries {
            true => be64(self.bytes, reftable + 8 * index),
            false => 0,
        };
        if block == 0 {
            return 0;
        }
        let bit = cluster % per_block * u64::from(self.refcount_bits);
        let byte = block + bit / 8;
        match self.refcount_bits {
            bits @ 1..=4 => {
                let value = self.bytes.get(byte as usize).copied().unwrap_or(0);
                u64::from(value >> (bit % 8)) & ((1 << bits) - 1)
            }
            bits => (0..u64::from(bits) / 8).fold(0, |value, i| {
                let byte = self.bytes.get((byte + i) as usize).copied();
                value << 8 | u64::from(byte.unwrap_or(0))
            }),
        }
    }

    /// Counts all references, and compares.
    pub fn check(&self) -> Findings {
        let mut found = Findings::default();
        let mut refs: BTreeMap<u64, (u64, &'static str)> = BTreeMap::new();
        let size = self.cluster_size();
        let mut count = |found: &mut Findings, at: u64, len: u64, what: &'static str| {
            let table = what != "data" && what != "compressed data";
            if table
                && (!at.is_multiple_of(size)
                    || at + len > (self.bytes.len() as u64).next_multiple_of(size))
            {
                found
                    .errors
                    .push(format!("{what} at {at:#x}, outside or not aligned"));
            }
            for cluster in at / size..(at + len).div_ceil(size) {
                let (count, first) = refs.entry(cluster).or_insert((0, what));
                *count += 1;
                let shareable = ["data", "compressed data", "L2 table"];
                if *count > 1 && !(what == *first && shareable.contains(&what)) {
                    found
                        .errors
                        .push(format!("cluster {cluster:#x} is {first} and {what}"));
                }
            }
        };
        count(&mut found, 0, 1, "header");
        let reftable = be64(self.bytes, 48);
        let reftable_clusters = u64::from(be32(self.bytes, 56));
        count(&mut found, reftable, reftable_clusters * size, "reftable");
        for block in self.table(reftable, reftable_clusters * size / 8) {
            if block != 0 {
                count(&mut found, block, size, "refcount block");
            }
        }
        if be32(self.bytes, 60) > 0 {
            count(
                &mut found,
                be64(self.bytes, 64),
                self.snapshots_len(),
                "snapshot table",
            );
        }
        let mut tables = vec![(be64(self.bytes, 40), self.l1())];
        tables.extend(self.snapshots());
        for (at, l1) in &tables {
            count(&mut found, *at, 8 * l1.len() as u64, "L1 table");
            for l1_entry in l1.iter().filter(|e| **e & OFFSET != 0) {
                count(&mut found, l1_entry & OFFSET, size, "L2 table");
                for index in 0..self.l2_entries() {
                    let (entry, _) = self.l2_entry(*l1_entry, index);
                    if entry & COMPRESSED != 0 {
                        let (at, len) = self.compressed(entry);
                        count(&mut found, at, len, "compressed data");
                    } else if entry & OFFSET != 0 && self.data_file.is_none() {
                        if entry & OFFSET & (size - 1) != 0 {
                            found
                                .errors
                                .push(format!("data at {entry:#x}, not aligned"));
                        }
                        count(&mut found, entry & OFFSET, size, "data");
                    }
                }
            }
        }
        found.used = refs.len();
        let last = refs.keys().next_back().copied().unwrap_or(0);
        let in_file = (self.bytes.len() as u64).div_ceil(size);
        for cluster in 0..in_file.max(last + 1) {
            let (used, what) = refs.get(&cluster).copied().unwrap_or((0, "nothing"));
            let counted = self.refcount(cluster);
            if counted < used {
                let text =
                    format!("cluster {cluster:#x} ({what}): {used} uses, refcount {counted}");
                found.errors.push(text);
            } else if counted > used {
                found.leaks.push(cluster);
            }
        }
        self.check_copied(&mut found);
        found
    }

    fn check_copied(&self, found: &mut Findings) {
        let refcount = |at: u64| self.refcount(at >> self.cluster_bits);
        for (i, l1_entry) in self.l1().into_iter().enumerate() {
            if l1_entry & OFFSET == 0 {
                continue;
            }
            if (l1_entry & COPIED != 0) != (refcount(l1_entry & OFFSET) == 1) {
                found.copied.push(i as u64);
            }
            for index in 0..self.l2_entries() {
                let (entry, _) = self.l2_entry(l1_entry, index);
                if entry & COMPRESSED != 0 || entry & OFFSET == 0 || self.data_file.is_some() {
                    continue;
                }
                if (entry & COPIED != 0) != (refcount(entry & OFFSET) == 1) {
                    let guest = (i as u64 * self.l2_entries() + index) << self.cluster_bits;
                    found.copied.push(guest);
                }
            }
        }
    }

    fn l2_entry(&self, l1_entry: u64, index: u64) -> (u64, u64) {
        let at = (l1_entry & OFFSET) + index * self.entry_size();
        let bitmap = if self.extended {
            be64(self.bytes, at + 8)
        } else {
            0
        };
        (be64(self.bytes, at), bitmap)
    }

    /// Where the compressed data of a guest cluster begins.
    pub fn compressed_at(&self, guest: u64) -> Option<u64> {
        let number = guest >> self.cluster_bits;
        let l1 = *self.l1().get((number / self.l2_entries()) as usize)?;
        let (entry, _) = self.l2_entry(l1, number % self.l2_entries());
        (entry & COMPRESSED != 0).then(|| self.compressed(entry).0)
    }

    /// Where compressed data is, up to the end of its last sector.
    fn compressed(&self, entry: u64) -> (u64, u64) {
        let shift = 62 - (self.cluster_bits - 8);
        let at = entry & ((1 << shift) - 1);
        let sectors = ((entry & !(COPIED | COMPRESSED)) >> shift) + 1;
        (at, sectors * 512 - at % 512)
    }

    /// The guest's disk. `backing` shows through where nothing is allocated.
    pub fn read(&self, backing: &[u8]) -> Vec<u8> {
        let mut disk = vec![0; self.size as usize];
        for (number, chunk) in disk.chunks_mut(self.cluster_size() as usize).enumerate() {
            let at = (number as u64) << self.cluster_bits;
            let shown = backing.get(at as usize..).unwrap_or_default();
            self.read_cluster(number as u64, chunk, shown);
        }
        disk
    }

    fn read_cluster(&self, number: u64, out: &mut [u8], backing: &[u8]) {
        let l1 = be64(
            self.bytes,
            be64(self.bytes, 40) + number / self.l2_entries() * 8,
        );
        let (entry, bitmap) = match l1 & OFFSET {
            0 => (0, 0),
            _ => self.l2_entry(l1, number % self.l2_entries()),
        };
        if entry & COMPRESSED != 0 {
            let (at, len) = self.compressed(entry);
            let mut sectors: Vec<u8> = self.bytes.get(at as usize..).unwrap_or_default().to_vec();
            sectors.truncate(len as usize);
            let cluster = self.unpack(&sectors);
            out.copy_from_slice(&cluster[..out.len()]);
            return;
        }
        let (file, host, there) = match self.data_file {
            Some(data) => (
                data,
                number << self.cluster_bits,
                entry & (COPIED | OFFSET) != 0,
            ),
            None => (self.bytes, entry & OFFSET, entry & OFFSET != 0),
        };
        let parts = if self.extended { 32 } else { 1 };
        let part = self.cluster_size() as usize / parts;
        for (i, out) in out.chunks_mut(part).enumerate() {
            let (data, zero) = match self.extended {
                true => (bitmap >> i & 1 != 0, bitmap >> (32 + i) & 1 != 0),
                false => (there && entry & 1 == 0, entry & 1 != 0),
            };
            let (source, at) = match (data, zero) {
                (true, _) => (file, host as usize + i * part),
                (_, true) => (&[][..], 0),
                _ => (backing, i * part),
            };
            let source = source.get(at..).unwrap_or_default();
            let there = source.len().min(out.len());
            out[..there].copy_from_slice(&source[..there]);
            out[there..].fill(0);
        }
    }

    #[cfg(not(all(feature = "zlib", feature = "zstd")))]
    fn unpack(&self, _: &[u8]) -> Vec<u8> {
        panic!("compressed data, zstd: {}", self.zstd)
    }

    #[cfg(all(feature = "zlib", feature = "zstd"))]
    fn unpack(&self, sectors: &[u8]) -> Vec<u8> {
        use block_drivers::qcow2::codec::{CompressionType, decompress};
        let kind = match self.zstd {
            true => CompressionType::Zstd,
            false => CompressionType::Zlib,
        };
        let mut cluster = vec![0; self.cluster_size() as usize];
        decompress(kind, sectors, &mut cluster).expect("compressed data");
        cluster
    }
}

/// Where the data of a guest cluster is in the image file, if it has any that is not compressed.
pub fn host_of(image: &[u8], guest: u64) -> Option<u64> {
    let walker = Walker::new(image, None);
    let number = guest >> walker.cluster_bits;
    let l1 = *walker.l1().get((number / walker.l2_entries()) as usize)?;
    let (entry, _) = match l1 & OFFSET {
        0 => return None,
        _ => walker.l2_entry(l1, number % walker.l2_entries()),
    };
    (entry & COMPRESSED == 0 && entry & OFFSET != 0).then_some(entry & OFFSET)
}

impl Findings {
    /// Nothing is wrong at all.
    #[track_caller]
    pub fn assert_clean(&self, when: &str) {
        assert!(
            self.errors.is_empty() && self.leaks.is_empty() && self.copied.is_empty(),
            "{when}: {self:x?}"
        );
    }

    /// What a crash may leave.
    #[track_caller]
    pub fn assert_leaks_at_most(&self, when: &str) {
        assert!(self.errors.is_empty(), "{when}: {self:x?}");
    }
}

fn be16(bytes: &[u8], at: u64) -> u16 {
    (be64(bytes, at) >> 48) as u16
}

fn be32(bytes: &[u8], at: u64) -> u32 {
    (be64(bytes, at) >> 32) as u32
}

/// Bytes past the end count as 0.
fn be64(bytes: &[u8], at: u64) -> u64 {
    let rest = bytes.get(at as usize..).unwrap_or_default();
    let mut number = [0; 8];
    let len = rest.len().min(8);
    number[..len].copy_from_slice(&rest[..len]);
    u64::from_be_bytes(number)
}
