//! What a replay writes: every 8-byte word is a hash of the seed and its position, so that bytes in the wrong place differ.

/// Bytes of one word.
const WORD: u64 = 8;

/// The content of a state, for any position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) seed: u64,
}

impl Content {
    /// Fills `dst` with the bytes of the state from `at` on.
    pub(crate) fn fill(self, at: u64, dst: &mut [u8]) {
        let (head, words, tail) = split(at, dst.len());
        let (first, rest) = dst.split_at_mut(head);
        let (middle, last) = rest.split_at_mut(words);
        debug_assert_eq!(last.len(), tail);
        self.fill_part(at, first);
        let number = (at + head as u64) / WORD;
        for (word, number) in middle.chunks_exact_mut(WORD as usize).zip(number..) {
            word.copy_from_slice(&self.word(number).to_le_bytes());
        }
        self.fill_part(at + (head + words) as u64, last);
    }

    /// The first of the bytes `found`, which stand at `at`, that is not what was written there.
    pub(crate) fn mismatch(self, at: u64, found: &[u8]) -> Option<u64> {
        let (head, words, _) = split(at, found.len());
        let (first, rest) = found.split_at(head);
        let (middle, last) = rest.split_at(words);
        let number = (at + head as u64) / WORD;
        let wrong = middle
            .chunks_exact(WORD as usize)
            .zip(number..)
            .position(|(word, number)| word != self.word(number).to_le_bytes());
        let slow = |at: u64, bytes: &[u8]| {
            (at..)
                .zip(bytes)
                .find(|(at, byte)| self.byte(*at) != **byte)
                .map(|(at, _)| at)
        };
        slow(at, first)
            .or_else(|| {
                let start = wrong? * WORD as usize;
                slow(at + (head + start) as u64, &middle[start..])
            })
            .or_else(|| slow(at + (head + words) as u64, last))
    }

    /// Part of one word.
    fn fill_part(self, at: u64, dst: &mut [u8]) {
        for (at, byte) in (at..).zip(dst) {
            *byte = self.byte(at);
        }
    }

    fn byte(self, at: u64) -> u8 {
        self.word(at / WORD).to_le_bytes()[(at % WORD) as usize]
    }

    /// Word `number` of the state. A mixer of Steele, Lea and Flood's SplittableRandom: each bit of the input changes half of the output.
    fn word(self, number: u64) -> u64 {
        let mut z = self
            .seed
            .wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// How `len` bytes at `at` divide: bytes before the first whole word, bytes of whole words, bytes after them.
fn split(at: u64, len: usize) -> (usize, usize, usize) {
    let head = ((WORD - at % WORD) % WORD).min(len as u64) as usize;
    let words = (len - head) / WORD as usize * WORD as usize;
    (head, words, len - head - words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_the_same_as_that_part_of_the_whole() {
        let content = Content { seed: 7 };
        let mut whole = vec![0; 100];
        content.fill(0, &mut whole);
        for at in 0..40 {
            for len in 0..40 {
                let mut part = vec![0; len];
                content.fill(at as u64, &mut part);
                assert_eq!(part, whole[at..at + len]);
                assert_eq!(content.mismatch(at as u64, &part), None);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_found_at_its_place() {
        let content = Content { seed: 7 };
        for at in [0u64, 3, 8] {
            let mut bytes = vec![0; 45];
            content.fill(at, &mut bytes);
            for wrong in 0..bytes.len() {
                bytes[wrong] ^= 0x10;
                assert_eq!(content.mismatch(at, &bytes), Some(at + wrong as u64));
                bytes[wrong] ^= 0x10;
            }
        }
    }

    #[test]
    fn shifted_bytes_and_another_seed_differ() {
        let content = Content { seed: 7 };
        let mut bytes = vec![0; 4096];
        content.fill(4096, &mut bytes);
        assert_eq!(content.mismatch(0, &bytes), Some(0));
        assert!(content.mismatch(4104, &bytes).is_some());
        assert!(Content { seed: 8 }.mismatch(4096, &bytes).is_some());
    }
}
