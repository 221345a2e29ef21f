//! The judge: an array of bytes, and what each operation does to it.

use tests::random::Random;

/// Something done to the disk. Positions and lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// Bytes from this seed.
    Write {
        at: u64,
        len: u64,
        seed: u64,
    },
    Zeroes {
        at: u64,
        len: u64,
        unmap: bool,
    },
    Discard {
        at: u64,
        len: u64,
    },
    Flush,
}

/// What the guest sees.
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) cluster: u64,
    /// A discarded cluster reads as zeroes. In version 2 over a backing file nothing is discarded, for that would show through.
    pub(super) discards: bool,
}

impl Disk {
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn range(&mut self, at: u64, len: u64) -> &mut [u8] {
        &mut self.bytes[at as usize..(at + len) as usize]
    }

    /// Discards whole clusters; the rest is as it was. QEMU also discards the last one of the disk, which is shorter; our node leaves it.
    pub(super) fn discard(&mut self, at: u64, len: u64, by_qemu: bool) {
        let (disk, cluster) = (self.len(), self.cluster);
        let end = match at + len {
            end if end == disk && by_qemu => disk,
            end => end / cluster * cluster,
        };
        let start = at.next_multiple_of(cluster);
        if self.discards && start < end {
            self.range(start, end - start).fill(0);
        }
    }

    pub(super) fn apply(&mut self, work: Work) {
        match work {
            Work::Write { at, len, seed } => {
                let bytes = payload(len, seed);
                self.range(at, len).copy_from_slice(&bytes);
            }
            Work::Zeroes { at, len, .. } => self.range(at, len).fill(0),
            Work::Discard { at, len } => self.discard(at, len, false),
            Work::Flush => {}
        }
    }

    /// A few operations that touch different bytes, so that their order does not matter. They may well touch the same clusters.
    pub(super) fn some_work(&self, random: &mut Random) -> Vec<Work> {
        let parts = 1 + random.below(4);
        let part = self.len() / parts;
        (0..parts)
            .map(|i| {
                let (start, end) = (
                    i * part,
                    if i + 1 == parts {
                        self.len()
                    } else {
                        (i + 1) * part
                    },
                );
                let (at, len) = self.some_range(start, end, random);
                match random.below(10) {
                    0..=4 => Work::Write {
                        at,
                        len,
                        seed: random.word(),
                    },
                    5 | 6 => Work::Zeroes {
                        at,
                        len,
                        unmap: random.once_in(2),
                    },
                    7 | 8 => Work::Discard { at, len },
                    _ => Work::Flush,
                }
            })
            .collect()
    }

    /// Bytes of `start..end`: a few, or about a cluster, whole clusters, or many.
    pub(super) fn some_range(&self, start: u64, end: u64, random: &mut Random) -> (u64, u64) {
        let cluster = self.cluster;
        let at = start + random.below(end - start);
        let most = (end - start) / 4;
        let (at, len) = match random.below(5) {
            0 => (at, 1 + random.below(700)),
            1 => (at, 1 + random.below(2 * cluster)),
            2 => (at, 1 + random.below(most.max(1))),
            // Up to the end, which is inside a cluster.
            3 if random.once_in(4) => (at, end),
            _ => (
                at / cluster * cluster,
                cluster * (1 + random.below((most / cluster).clamp(1, 20))),
            ),
        };
        let at = at.max(start);
        (at, len.min(end - at))
    }
}

/// Bytes to be written: half of the time with something to compress in them.
pub(super) fn payload(len: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let mut random = Random::new(seed);
    if random.once_in(2) {
        random.fill(&mut bytes);
    } else {
        let word = random.word().to_le_bytes();
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = word[(i / 97) % 8] | 1; // never 0: a lost write would not be seen
        }
    }
    bytes
}
