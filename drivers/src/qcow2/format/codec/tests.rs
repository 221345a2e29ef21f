use super::*;
use CompressionType::{Zlib, Zstd};

/// Every cluster size of the format.
fn sizes() -> impl Iterator<Item = usize> {
    (9..=21).map(|bits| 1 << bits)
}

fn built() -> impl Iterator<Item = CompressionType> {
    CompressionType::ALL
        .into_iter()
        .filter(|kind| kind.is_built())
}

/// Numbers that look random, always the same ones.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// Text with words that come back from near and far, and some noise.
fn text(len: usize) -> Vec<u8> {
    let mut numbers = Numbers(len as u64 + 1);
    let mut text = Vec::new();
    while text.len() < len {
        match numbers.below(8) {
            0 => text.extend(numbers.bytes(9)),
            1 => text.extend([b'-'; 70]),
            n => text.extend(["refcount ", "table ", "of ", "a ", "cluster ", "\n"][n - 2].bytes()),
        }
    }
    text.truncate(len);
    text
}

/// What the file has after a stream: the rest of the sector.
fn with_rest_of_the_sector(mut stream: Vec<u8>) -> Vec<u8> {
    let mut numbers = Numbers(77);
    let rest = stream.len().next_multiple_of(512) - stream.len();
    stream.extend(numbers.bytes(rest));
    stream
}

#[test]
fn a_cluster_of_every_size_comes_back_as_it_was() {
    for kind in built() {
        for len in sizes() {
            for cluster in [vec![0; len], vec![0xA5; len], text(len)] {
                let stream = compress(kind, &cluster).unwrap().expect("it gets smaller");
                assert!(stream.len() < len, "{kind} {len}");
                let mut back = vec![0xEE; len];
                decompress(kind, &stream, &mut back).unwrap();
                assert!(back == cluster, "{kind} {len}");
            }
        }
    }
}

#[test]
fn what_follows_the_stream_in_its_last_sector_is_not_looked_at() {
    for kind in built() {
        for len in sizes() {
            let cluster = text(len);
            let stream = compress(kind, &cluster).unwrap().expect("it gets smaller");
            let mut back = vec![0xEE; len];
            decompress(kind, &with_rest_of_the_sector(stream), &mut back).unwrap();
            assert!(back == cluster, "{kind} {len}");
        }
    }
}

#[test]
fn a_cluster_that_does_not_get_smaller_is_left_plain() {
    for kind in built() {
        for len in sizes() {
            let noise = Numbers(len as u64).bytes(len);
            assert_eq!(compress(kind, &noise).unwrap(), None, "{kind} {len}");
        }
    }
}

#[test]
fn nothing_at_all_does_not_get_smaller() {
    for kind in built() {
        assert_eq!(compress(kind, &[]).unwrap(), None, "{kind}");
    }
}

/// QEMU inflates with 12 bits: a match from further back is an error there, as soon as its output comes in pieces.
#[cfg(feature = "zlib")]
#[test]
fn zlib_repeats_nothing_from_more_than_4_kib_back() {
    let noise = Numbers(5).bytes(8 << 10);
    let twice = [noise.clone(), noise].concat();
    assert_eq!(
        compress(Zlib, &twice).unwrap(),
        None,
        "the window is too small for it"
    );
    let noise = Numbers(6).bytes(2 << 10);
    let near = [noise.clone(), noise].concat();
    assert!(
        compress(Zlib, &near).unwrap().is_some(),
        "the window serves"
    );
}

/// A fixed stream that no code of ours made: stored blocks, as RFC 1951 has them.
#[cfg(feature = "zlib")]
#[test]
fn zlib_reads_a_stored_block_and_cuts_what_is_more_than_a_cluster() {
    let stored = [&[1, 4, 0, 0xFB, 0xFF][..], b"abcd"].concat();
    let mut cluster = [0; 4];
    decompress(Zlib, &stored, &mut cluster).unwrap();
    assert_eq!(&cluster, b"abcd");
    let mut shorter = [0; 3];
    decompress(Zlib, &stored, &mut shorter).unwrap();
    assert_eq!(&shorter, b"abc");
    let mut longer = [0; 5];
    assert_eq!(
        decompress(Zlib, &stored, &mut longer),
        Err(CodecError::Corrupt {
            kind: Zlib,
            bytes: 9,
            wanted: 5,
            got: 4
        })
    );
}

#[cfg(feature = "zstd")]
mod frames {
    use super::*;

    /// A frame with one raw block, as RFC 8878 has it: the size is in the header, and no checksum follows.
    fn raw(data: &[u8]) -> Vec<u8> {
        let len = u8::try_from(data.len()).unwrap();
        let magic = [0x28, 0xB5, 0x2F, 0xFD];
        [&magic[..], &[0x20, len, (len << 3) | 1, len >> 5, 0], data].concat()
    }

    /// A frame that a decoder skips.
    fn skipped(len: u8) -> Vec<u8> {
        let mut frame = vec![0x50, 0x2A, 0x4D, 0x18, len, 0, 0, 0];
        frame.extend(vec![0xCC; usize::from(len)]);
        frame
    }

    fn fails_after(src: &[u8], wanted: usize, got: usize) {
        assert_eq!(
            decompress(Zstd, src, &mut vec![0; wanted]),
            Err(CodecError::Corrupt {
                kind: Zstd,
                bytes: src.len(),
                wanted,
                got
            })
        );
    }

    #[test]
    fn zstd_takes_frames_until_the_cluster_is_full() {
        let frames = [
            skipped(3),
            raw(b"ab"),
            raw(b""),
            skipped(0),
            raw(b"cd"),
            raw(b"ef"),
        ]
        .concat();
        let mut cluster = [0; 4];
        decompress(Zstd, &frames, &mut cluster).unwrap();
        assert_eq!(&cluster, b"abcd");
        fails_after(&frames, 7, 6);
    }

    #[test]
    fn zstd_refuses_a_frame_that_goes_on_after_the_cluster() {
        fails_after(&raw(b"abcd"), 3, 0);
        fails_after(&[raw(b"ab"), raw(b"cd")].concat(), 3, 2);
    }

    #[test]
    fn zstd_refuses_a_frame_whose_header_claims_another_size() {
        let mut frame = raw(b"abcd");
        frame[5] = 5;
        fails_after(&frame, 4, 0);
    }

    #[test]
    fn zstd_refuses_a_frame_whose_checksum_is_wrong() {
        let mut frame = compress(Zstd, &[7; 512]).unwrap().expect("it gets smaller");
        let last = frame.len() - 1;
        frame[last] ^= 1;
        fails_after(&frame, 512, 0);
    }

    #[test]
    fn zstd_does_not_follow_a_skipped_frame_out_of_the_sectors() {
        let mut frame = skipped(3);
        frame[7] = 0xFF;
        fails_after(&frame, 512, 0);
    }

    /// A few bytes of RLE blocks stand for gigabytes; the decoder stops at the cluster's end.
    #[test]
    fn zstd_gives_up_a_frame_that_swells_beyond_the_cluster() {
        let header = [0x28, 0xB5, 0x2F, 0xFD, 0x00, 17 << 3]; // a window of 128 MiB
        let block = [0b010, 0x00, 0x10, 0x00]; // 128 KiB of zeroes
        let frame = [&header[..], &block.repeat(100_000)].concat();
        fails_after(&frame, 512, 0);
    }
}

#[test]
fn no_bytes_and_garbage_are_errors_and_no_panic() {
    let mut numbers = Numbers(1);
    for kind in built() {
        let mut cluster = vec![0; 4096];
        let nothing = decompress(kind, &[], &mut cluster);
        assert!(matches!(
            nothing,
            Err(CodecError::Corrupt {
                bytes: 0,
                got: 0,
                ..
            })
        ));
        for _ in 0..2000 {
            let len = numbers.below(600);
            let garbage = numbers.bytes(len);
            let _ = decompress(kind, &garbage, &mut cluster);
        }
    }
}

#[test]
fn a_stream_that_is_cut_is_an_error() {
    let cluster = text(4096);
    for kind in built() {
        let stream = compress(kind, &cluster).unwrap().expect("it gets smaller");
        for len in 0..stream.len() - 8 {
            let cut = decompress(kind, &stream[..len], &mut vec![0; 4096]);
            assert!(
                matches!(cut, Err(CodecError::Corrupt { .. })),
                "{kind} {len}"
            );
        }
    }
}

#[test]
fn a_stream_with_wrong_bits_is_an_error_or_another_cluster_and_no_panic() {
    let mut numbers = Numbers(9);
    for kind in built() {
        for len in [512, 4096, 65536] {
            let stream = compress(kind, &text(len))
                .unwrap()
                .expect("it gets smaller");
            let mut cluster = vec![0; len];
            for _ in 0..1000 {
                let mut wrong = stream.clone();
                for _ in 0..1 + numbers.below(3) {
                    let at = numbers.below(wrong.len());
                    wrong[at] ^= 1 << numbers.below(8);
                }
                let _ = decompress(kind, &wrong, &mut cluster);
            }
        }
    }
}

#[test]
fn a_type_whose_feature_is_off_is_refused_by_name() {
    for kind in CompressionType::ALL
        .into_iter()
        .filter(|kind| !kind.is_built())
    {
        let refused = CodecError::BuiltWithout { kind };
        assert_eq!(compress(kind, &[0; 512]), Err(refused));
        assert_eq!(decompress(kind, &[0; 512], &mut [0; 512]), Err(refused));
        assert!(refused.to_string().contains(kind.name()));
    }
    assert_eq!(Zlib.is_built(), cfg!(feature = "zlib"));
    assert_eq!(Zstd.is_built(), cfg!(feature = "zstd"));
}
