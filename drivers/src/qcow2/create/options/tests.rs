use super::*;

#[test]
fn the_default_is_qemu_imgs() {
    let options = CreateOptions::from_pairs("").expect("the default");
    assert_eq!(options, CreateOptions::default());
    let same = "compat=1.1,cluster_size=64k,refcount_bits=16,preallocation=off,lazy_refcounts=off,\
                compression_type=zlib,extended_l2=off,data_file_raw=off,encryption=off";
    assert_eq!(CreateOptions::from_pairs(same), Ok(options));
}

#[test]
fn every_option_is_read() {
    let list = "size=1.5G,compat=v3,cluster_size=2M,refcount_bits=0x40,preallocation=full,lazy_refcounts,\
                compression_type=zstd,extended_l2=on,backing_file=a,,b.img,backing_fmt=raw";
    let read = CreateOptions::from_pairs(list);
    let expected = CreateOptions {
        size: Some(3 << 29),
        version: Version::V3,
        cluster_size: 2 << 20,
        refcount_bits: 64,
        backing: Some(Backing {
            file: "a,b.img".into(),
            format: "raw".into(),
        }),
        preallocation: Preallocation::Full,
        lazy_refcounts: true,
        compression_type: CompressionType::Zstd,
        extended_l2: true,
        data_file: None,
    };
    assert_eq!(read, Ok(expected));
    let data = CreateOptions::from_pairs("data_file=d=1.raw,data_file_raw=yes");
    let expected = DataFile {
        file: "d=1.raw".into(),
        raw: true,
    };
    assert_eq!(data.map(|options| options.data_file), Ok(Some(expected)));
}

#[test]
fn the_last_of_two_counts() {
    let options = CreateOptions::from_pairs("cluster_size=4k,cluster_size=8k");
    assert_eq!(options.map(|options| options.cluster_size), Ok(8192));
}

#[test]
fn sizes_are_read_as_qemu_reads_them() {
    for (text, bytes) in [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("64k", 65536),
        ("64K", 65536),
        ("0.5k", 512),
        ("1.5M", 3 << 19),
        ("0.3k", 307),
        ("1.G", 1 << 30),
        ("7E", 7 << 60),
        ("0x1000", 4096),
        ("18446744073709551615", u64::MAX),
    ] {
        assert_eq!(size("size", Some(text)), Ok(bytes), "{text}");
    }
    for text in [
        "",
        "k",
        "1.5",
        "1.5B",
        "64kb",
        "64KiB",
        "-1",
        "+1",
        "1e5",
        " 1",
        "1 ",
        "0x",
        "0x10k",
        "16E",
        "18446744073709551616",
        ".5k",
        "1.5.5k",
        "١",
    ] {
        assert!(size("size", Some(text)).is_err(), "{text}");
    }
}

#[test]
fn what_is_no_list_is_refused() {
    for list in [",", "cluster_size=4k,", ",cluster_size=4k", "=4k"] {
        let read = CreateOptions::from_pairs(list);
        assert!(matches!(read, Err(OptionError::NoList { .. })), "{list}");
    }
}

#[test]
fn names_are_refused_as_unknown_or_as_unsupported() {
    let refused = |list: &str| CreateOptions::from_pairs(list).expect_err("must be refused");
    for name in ["foo", "Cluster_size", "cluster-size"] {
        let error = OptionError::Unknown { name: name.into() };
        assert_eq!(refused(&format!("{name}=1")), error);
    }
    for list in [
        "encryption=on",
        "encrypt.format=luks",
        "nocow=on",
        "extent_size_hint=1M",
    ] {
        assert!(matches!(refused(list), OptionError::Unsupported { .. }));
    }
}

#[test]
fn a_backing_name_of_another_length_is_a_matter_of_the_header() {
    let named = |len: usize, cluster_size| {
        CreateOptions {
            size: Some(1 << 20),
            cluster_size,
            backing: Some(Backing {
                file: "x".repeat(len).into(),
                format: "raw".into(),
            }),
            ..CreateOptions::default()
        }
        .check()
    };
    assert_eq!(named(1023, 65536), Ok(()));
    assert!(matches!(
        named(1024, 65536),
        Err(Qcow2Error::NameLength { bytes: 1024, .. })
    ));
    assert_eq!(named(376, 512), Ok(()));
    assert!(matches!(
        named(377, 512),
        Err(Qcow2Error::HeaderTooLong { bytes: 513, .. })
    ));
}
