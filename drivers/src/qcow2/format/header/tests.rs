use super::extensions::{BitmapsExtension, magic};
use super::*;
use crate::qcow2::format::error::Feature;

/// A header of version 3 that nothing is wrong with: 1 GiB, clusters of 64 KiB, one of everything in the clusters 1, 2 and 3.
fn good() -> Header {
    let geometry = Geometry::new(3, 16, 4, false, false).expect("in range");
    Header {
        geometry,
        size: 1 << 30,
        l1_entries: 2,
        l1_offset: HostOffset(3 << 16),
        reftable_offset: HostOffset(1 << 16),
        reftable_clusters: 1,
        snapshots: 0,
        snapshots_offset: HostOffset(0),
        incompatible: 0,
        compatible: compatible::LAZY_REFCOUNTS,
        autoclear: 0,
        compression: CompressionType::Zlib,
        later_fields: Vec::new(),
        extensions: Extensions {
            feature_names: Some(features::name_table()),
            ..Extensions::default()
        },
        backing_file: None,
    }
}

fn bytes() -> Vec<u8> {
    let mut bytes = good().serialise().expect("fits");
    bytes.resize(1 << 16, 0);
    bytes
}

fn parse(bytes: &[u8]) -> Result<Header, Qcow2Error> {
    Header::parse(bytes, Purpose::Use)
}

/// What is said of the good header with `value` at `at`.
fn changed(at: usize, value: &[u8]) -> Result<Header, Qcow2Error> {
    let mut bytes = bytes();
    put(&mut bytes, at, value);
    parse(&bytes)
}

fn refused(at: usize, value: &[u8]) -> Qcow2Error {
    changed(at, value).expect_err("must be refused")
}

fn be(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

fn be8(value: u64) -> [u8; 8] {
    value.to_be_bytes()
}

/// The header with `data` as an extension in front of all others.
fn with_extension(magic: u32, data: &[u8]) -> Vec<u8> {
    let mut header = good();
    header.extensions.feature_names = None;
    let mut bytes = header.serialise().expect("fits");
    bytes.truncate(LENGTH);
    bytes.extend(be(magic));
    bytes.extend(be(data.len() as u32));
    bytes.extend(data);
    bytes.resize(1 << 16, 0);
    bytes
}

#[test]
fn what_is_written_is_read_again() {
    let mut header = good();
    assert_eq!(parse(&bytes()), Ok(header.clone()));
    header.incompatible = incompatible::DIRTY | incompatible::COMPRESSION;
    header.compression = CompressionType::Zstd;
    header.compatible = u64::MAX;
    header.autoclear = autoclear::BITMAPS | 1 << 63;
    header.snapshots = 3;
    header.snapshots_offset = HostOffset(9 << 16);
    header.later_fields = vec![1, 2, 3, 4, 5, 6, 7, 8];
    header.backing_file = Some(Name::new("base.img"));
    header.extensions.backing_format = Some(Name::new("raw"));
    header.extensions.bitmaps = Some(BitmapsExtension {
        bitmaps: 2,
        directory_size: 96,
        directory_offset: HostOffset(8 << 16),
    });
    header.extensions.unknown = vec![(77, vec![1, 2, 3]), (78, vec![]), (77, vec![4])];
    let bytes = header.serialise().expect("fits");
    assert_eq!(parse(&bytes), Ok(header));
}

#[test]
fn version_2_has_72_bytes_and_refcounts_of_16_bits() {
    let mut header = good();
    header.geometry = Geometry::new(2, 9, 4, false, false).expect("in range");
    header.compatible = 0;
    header.size = 1 << 20;
    header.l1_entries = 32;
    header.extensions.feature_names = None;
    let bytes = header.serialise().expect("fits");
    assert_eq!(
        bytes.len(),
        72 + 8,
        "the end mark of the extensions follows"
    );
    assert_eq!(parse(&bytes), Ok(header.clone()));
    // A whole file may be just the header with nothing after, extensions' end included.
    assert_eq!(parse(&bytes[..72]), Ok(header));
}

#[test]
fn a_header_of_qemu_is_read_and_written_as_it_is() {
    // The first bytes of `qemu-img create -f qcow2 -o cluster_size=512 x 1M`, version 10.0.2. Small clusters get no feature names.
    let mut theirs = vec![0; 512];
    put(&mut theirs, 0, b"QFI\xfb");
    put(&mut theirs, 4, &be(3));
    put(&mut theirs, 20, &be(9));
    put(&mut theirs, 24, &be8(1 << 20));
    put(&mut theirs, 36, &be(32));
    put(&mut theirs, 40, &be8(0x600));
    put(&mut theirs, 48, &be8(0x200));
    put(&mut theirs, 56, &be(1));
    put(&mut theirs, 96, &be(4));
    put(&mut theirs, 100, &be(112));
    let header = parse(&theirs).expect("QEMU's");
    assert_eq!((header.l1_entries, header.l1_offset.0), (32, 0x600));
    let mut ours = header.serialise().expect("fits");
    assert_eq!(
        ours.len(),
        120,
        "the end mark of the extensions is the last"
    );
    ours.resize(512, 0);
    assert_eq!(ours, theirs);
}

#[test]
fn what_is_no_qcow2_image_is_refused_by_name() {
    assert_eq!(
        refused(0, b"QED\0"),
        Qcow2Error::BadMagic { found: 0x5145_4400 }
    );
    for found in [0, 1, 4] {
        assert_eq!(refused(4, &be(found)), Qcow2Error::Version { found });
    }
    for found in [8, 22, u32::MAX] {
        let error = Qcow2Error::ClusterBits { found, least: 9 };
        assert_eq!(refused(20, &be(found)), error);
    }
    for found in [0, 72, 103, 65537, u32::MAX] {
        let error = Qcow2Error::HeaderLength {
            found,
            cluster_size: 65536,
        };
        assert_eq!(refused(100, &be(found)), error);
    }
    assert_eq!(refused(96, &be(7)), Qcow2Error::RefcountOrder { found: 7 });
}

#[test]
fn an_encrypted_image_is_refused_by_its_method() {
    for (method, name) in [(1, "AES"), (2, "LUKS"), (3, "unknown method")] {
        let error = refused(32, &be(method));
        assert_eq!(error, Qcow2Error::Encrypted { method });
        assert!(error.to_string().contains(name));
    }
    let bytes = with_extension(magic::ENCRYPTION, &[0; 16]);
    assert!(matches!(parse(&bytes), Err(Qcow2Error::Extension { .. })));
}

#[test]
fn an_unknown_incompatible_feature_is_refused_by_the_images_own_name() {
    let mut bytes = bytes();
    put(&mut bytes, 72, &be8(1 << 40 | 1 << 41 | 1));
    // The first two entries of the table become the name of bit 40, and of a compatible bit 41.
    let at = LENGTH + 8;
    put(&mut bytes, at, &[0, 40]);
    put(&mut bytes, at + 2, b"time travel\0");
    put(&mut bytes, at + 48, &[1, 41]);
    let features = vec![
        Feature {
            bit: 40,
            name: Some("time travel".into()),
        },
        Feature {
            bit: 41,
            name: None,
        },
    ];
    assert_eq!(
        parse(&bytes),
        Err(Qcow2Error::IncompatibleFeatures { features })
    );
}

#[test]
fn the_compression_type_and_its_bit_must_agree() {
    assert_eq!(refused(104, &[2]), Qcow2Error::CompressionType { found: 2 });
    assert_eq!(
        refused(104, &[1]),
        Qcow2Error::CompressionBit {
            kind: 1,
            bit: false
        }
    );
    assert_eq!(
        refused(72, &be8(incompatible::COMPRESSION)),
        Qcow2Error::CompressionBit { kind: 0, bit: true }
    );
}

#[test]
fn a_header_of_104_bytes_has_no_compression_type() {
    let mut bytes = bytes();
    put(&mut bytes, 100, &be(104));
    // After it the extensions start: here an unknown one.
    bytes[104..].fill(0);
    put(&mut bytes, 104, &be(0x0100_0000));
    put(&mut bytes, 108, &be(8));
    let header = parse(&bytes).expect("good");
    assert_eq!(header.compression, CompressionType::Zlib);
    assert_eq!(header.extensions.unknown, [(0x0100_0000, vec![0; 8])]);
}

#[test]
fn fields_of_a_later_version_are_kept() {
    let mut header = good();
    header.later_fields = (1..=16).collect();
    let bytes = header.serialise().expect("fits");
    assert_eq!(be32(&bytes, 100), 128);
    assert_eq!(parse(&bytes), Ok(header));
}

#[test]
fn tables_are_refused_where_they_cannot_be() {
    let what = Table::L1;
    let error = Qcow2Error::NotAligned { what, offset: 512 };
    assert_eq!(refused(40, &be8(512)), error);
    let offset = u64::MAX << 16;
    let error = Qcow2Error::Outside {
        what,
        offset,
        bytes: 16,
        end: i64::MAX as u64,
    };
    assert_eq!(refused(40, &be8(offset)), error);
    let error = Qcow2Error::TableTooLarge {
        what,
        entries: 4194305,
        max: 4194304,
    };
    assert_eq!(refused(36, &be(4194305)), error);
    let error = Qcow2Error::TableTooSmall {
        what,
        entries: 1,
        needed: 2,
    };
    assert_eq!(refused(36, &be(1)), error);
    let error = Qcow2Error::TableTooLarge {
        what: Table::RefcountTable,
        entries: 129,
        max: 128,
    };
    assert_eq!(refused(56, &be(129)), error);
    let error = Qcow2Error::TableTooLarge {
        what: Table::SnapshotTable,
        entries: 65537,
        max: 65536,
    };
    assert_eq!(refused(60, &be(65537)), error);
    let error = Qcow2Error::NotAligned {
        what: Table::SnapshotTable,
        offset: 8,
    };
    assert_eq!(refused(64, &be8(8)), error);
}

#[test]
fn sizes_near_the_end_of_the_numbers_are_too_large() {
    for size in [1 << 52, 1 << 62, i64::MAX as u64, u64::MAX] {
        let error = refused(24, &be8(size));
        let max = (4 << 20) * (512 << 20);
        assert_eq!(error, Qcow2Error::SizeTooLarge { size, max });
    }
}

#[test]
fn an_image_without_a_refcount_table_is_for_a_check_only() {
    let mut bytes = bytes();
    put(&mut bytes, 56, &be(0));
    let error = Qcow2Error::TableTooSmall {
        what: Table::RefcountTable,
        entries: 0,
        needed: 1,
    };
    assert_eq!(parse(&bytes), Err(error));
    assert!(Header::parse(&bytes, Purpose::Check).is_ok());
}

#[test]
fn a_table_that_is_written_to_may_be_cut_by_less_than_a_cluster() {
    let header = good();
    let l1 = 3 << 16;
    assert_eq!(header.check_inside(l1), Ok(()));
    let outside = |what, offset, bytes, end| Qcow2Error::Outside {
        what,
        offset,
        bytes,
        end,
    };
    let far = l1 + 16 - (1 << 16);
    assert_eq!(header.check_inside(far + 1), Ok(()));
    let refused = header.check_inside(far);
    assert_eq!(refused, Err(outside(Table::L1, l1, 16, far)));
    let refused = header.check_inside(1 << 16);
    let wanted = outside(Table::RefcountTable, 1 << 16, 1 << 16, 1 << 16);
    assert_eq!(refused, Err(wanted));
}

#[test]
fn a_backing_name_lies_inside_the_first_cluster() {
    let named = |at: u64, len: u32| {
        let mut bytes = bytes();
        put(&mut bytes, 8, &be8(at));
        put(&mut bytes, 16, &be(len));
        parse(&bytes)
    };
    let name = named(65536 - 10, 10).expect("good").backing_file;
    assert_eq!(name, Some(Name::new(vec![0; 10])));
    let too_long = |bytes, max| Qcow2Error::NameLength {
        what: "backing file",
        bytes,
        max,
    };
    assert_eq!(named(65536 - 10, 11), Err(too_long(11, 10)));
    assert!(named(4096, 1023).is_ok());
    assert_eq!(named(4096, 1024), Err(too_long(1024, 1023)));
    assert_eq!(named(4096, u32::MAX), Err(too_long(u32::MAX.into(), 1023)));
    assert!(named(65536, 0).is_ok(), "as in QEMU");
    for offset in [65537, u64::MAX] {
        let error = Qcow2Error::BackingNameOffset {
            offset,
            cluster_size: 65536,
        };
        assert_eq!(named(offset, 1), Err(error));
    }
}

#[test]
fn an_extension_ends_before_the_backing_name_and_the_cluster() {
    let mut bytes = bytes();
    put(&mut bytes, LENGTH + 4, &be(u32::MAX));
    let error = |max| {
        Err(Qcow2Error::ExtensionLength {
            magic: magic::FEATURE_NAMES,
            len: u32::MAX,
            max,
        })
    };
    assert_eq!(parse(&bytes), error(65536 - 120));
    put(&mut bytes, 8, &be8(256));
    put(&mut bytes, 16, &be(1));
    assert_eq!(parse(&bytes), error(256 - 120));
}

#[test]
fn a_known_extension_is_there_once_and_has_its_length() {
    let format = with_extension(magic::BACKING_FORMAT, b"qcow2");
    let header = parse(&format).expect("good");
    assert_eq!(header.extensions.backing_format, Some(Name::new("qcow2")));
    let long = with_extension(magic::BACKING_FORMAT, &[b'x'; 16]);
    assert!(matches!(
        parse(&long),
        Err(Qcow2Error::NameLength {
            bytes: 16,
            max: 15,
            ..
        })
    ));
    let mut twice = format;
    put(&mut twice, LENGTH + 16, &be(magic::BACKING_FORMAT));
    put(&mut twice, LENGTH + 20, &be(3));
    put(&mut twice, LENGTH + 24, b"raw");
    let last = parse(&twice).expect("as in QEMU").extensions.backing_format;
    assert_eq!(last, Some(Name::new("raw")));
}

#[test]
fn bitmaps_count_only_while_their_bit_is_set() {
    let mut fields = [0; 24];
    put(&mut fields, 0, &be(2));
    put(&mut fields, 8, &be8(64));
    put(&mut fields, 16, &be8(5 << 16));
    let read = |fields: &[u8], autoclear: u64| {
        let mut bytes = with_extension(magic::BITMAPS, fields);
        put(&mut bytes, 88, &be8(autoclear));
        parse(&bytes).map(|header| header.extensions.bitmaps)
    };
    let bitmaps = read(&fields, autoclear::BITMAPS).expect("good");
    assert_eq!(
        bitmaps.map(|b| (b.bitmaps, b.directory_size)),
        Some((2, 64))
    );
    assert_eq!(read(&fields, 0), Ok(None));
    assert_eq!(read(&[0xff; 24], 0), Ok(None), "not even looked at");
    assert!(read(&fields[..20], 0).is_err(), "but for their length");
    for (at, value) in [
        (0, be(0)),
        (0, be(65536)),
        (4, be(1)),
        (8, be(1)),
        (20, be(512)),
    ] {
        let mut wrong = fields;
        put(&mut wrong, at, &value);
        let error = read(&wrong, autoclear::BITMAPS);
        assert!(error.is_err(), "{at}: {error:?}");
    }
    assert!(read(&fields[..20], autoclear::BITMAPS).is_err());
}

#[test]
fn raw_data_without_a_data_file_is_refused() {
    let error = refused(88, &be8(autoclear::DATA_FILE_RAW));
    assert_eq!(error, Qcow2Error::DataFileUnwanted);
    let mut bytes = bytes();
    put(&mut bytes, 88, &be8(autoclear::DATA_FILE_RAW));
    put(&mut bytes, 72, &be8(incompatible::DATA_FILE));
    assert!(parse(&bytes).expect("good").data_file_raw());
}

#[test]
fn the_parts_that_are_written_alone_are_those_of_the_whole() {
    let mut header = good();
    header.snapshots = 0x0102_0304;
    header.snapshots_offset = HostOffset(0x0506 << 16);
    header.incompatible = incompatible::DIRTY;
    header.autoclear = 0x1122_3344_5566_7788;
    let bytes = header.serialise().expect("fits");
    assert_eq!(bytes[24..72], header.table_fields());
    assert_eq!(bytes[72..96], header.feature_fields());
}

#[test]
fn a_header_that_does_not_fit_its_cluster_is_not_written() {
    let mut header = good();
    header.geometry = Geometry::new(3, 9, 4, false, false).expect("in range");
    assert_eq!(header.serialise().map(|bytes| bytes.len()), Ok(512));
    header.backing_file = Some(Name::new("b"));
    let error = Qcow2Error::HeaderTooLong {
        bytes: 513,
        cluster_size: 512,
    };
    assert_eq!(header.serialise(), Err(error));
    header.geometry = Geometry::new(3, 16, 4, false, false).expect("in range");
    header.backing_file = Some(Name::new(vec![b'x'; 1024]));
    assert!(matches!(
        header.serialise(),
        Err(Qcow2Error::NameLength { bytes: 1024, .. })
    ));
}

#[test]
fn a_file_that_ends_inside_its_header_is_refused() {
    let bytes = bytes();
    for len in 0..LENGTH {
        let error = parse(&bytes[..len]);
        assert!(
            matches!(
                error,
                Err(Qcow2Error::Truncated {
                    what: Table::Header,
                    ..
                })
            ),
            "{len} bytes: {error:?}"
        );
    }
    assert!(parse(&bytes[..LENGTH]).is_ok());
}

#[test]
fn a_disk_ends_at_its_last_whole_sector() {
    let header = changed(24, &be8((1 << 30) - 1)).expect("good");
    assert_eq!(header.disk_size(), (1 << 30) - 512);
}

#[test]
fn random_headers_are_read_or_refused_and_never_panic() {
    let mut full = good();
    full.backing_file = Some(Name::new("base"));
    full.extensions.unknown = vec![(77, vec![1; 9])];
    let start = full.serialise().expect("fits");
    let mut random = 3_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut good = 0;
    for round in 0..40_000 {
        let mut bytes = start.clone();
        if round % 8 == 0 {
            bytes.iter_mut().skip(8).for_each(|b| *b = next() as u8);
            bytes[20..24].copy_from_slice(&be(9 + next() as u32 % 13));
        }
        for _ in 0..next() % 5 {
            let at = next() as usize % bytes.len().min(if round % 2 == 0 { 128 } else { 600 });
            bytes[at] = match next() % 3 {
                0 => next() as u8,
                1 => bytes[at] ^ 1 << (next() % 8),
                _ => 0xff,
            };
        }
        if next() % 4 == 0 {
            bytes.truncate(next() as usize % 700);
        }
        for purpose in [Purpose::Use, Purpose::Check] {
            let Ok(header) = Header::parse(&bytes, purpose) else {
                continue;
            };
            good += 1;
            let _ = header.check_inside(next());
            // What is read can be written, and says the same then.
            if let Ok(bytes) = header.serialise() {
                assert_eq!(Header::parse(&bytes, purpose), Ok(header));
            }
        }
    }
    assert!(good > 1000, "only {good} headers were good enough to read");
}
