//! Which images are judged.

use std::fmt;

/// Who makes an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    /// `qemu-img create`.
    QemuImg,
    /// `qemu-img convert -c`: everything is compressed at first.
    Compressed,
    /// Our `create`.
    Ours,
}

/// What is below an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    Nothing,
    Raw,
    Qcow2,
}

/// How an image is to be. Fields that a version or maker has not got are at their defaults.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) maker: Maker,
    pub(super) version: u32,
    pub(super) cluster: u64,
    pub(super) refcount_bits: u32,
    pub(super) extended: bool,
    pub(super) zstd: bool,
    pub(super) lazy: bool,
    pub(super) preallocation: &'static str,
    pub(super) below: Below,
    /// What is below is longer than the image, or shorter.
    pub(super) longer: bool,
    /// The data file, and whether it is to be raw.
    pub(super) data_file: Option<bool>,
    /// Whether snapshots are made of it, too.
    pub(super) snapshots: bool,
}

const PLAIN: Spec = Spec {
    maker: Maker::QemuImg,
    version: 3,
    cluster: 64 << 10,
    refcount_bits: 16,
    extended: false,
    zstd: false,
    lazy: false,
    preallocation: "off",
    below: Below::Nothing,
    longer: false,
    data_file: None,
    snapshots: false,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SIZES: [u64; 7] = [512, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 512 * KIB, 2 * MIB];
const WIDTHS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

impl Spec {
    /// The disk's size: at least nine clusters, and it ends inside one.
    pub(super) fn size(&self) -> u64 {
        (9 * self.cluster).max(MIB) + 3 * 512
    }

    /// The size of what is below.
    pub(super) fn size_below(&self) -> u64 {
        match self.longer {
            true => self.size() + 2 * self.cluster + 5 * 512,
            false => (self.size() / 2).next_multiple_of(512),
        }
    }

    /// What `-o` takes. `data_file` is that file's path.
    pub(super) fn options(&self, data_file: &str) -> String {
        let mut options = vec![
            format!("compat={}", if self.version == 2 { "0.10" } else { "1.1" }),
            format!("cluster_size={}", self.cluster),
        ];
        let mut add = |used: bool, option: String| {
            if used {
                options.push(option);
            }
        };
        add(
            self.refcount_bits != 16,
            format!("refcount_bits={}", self.refcount_bits),
        );
        add(self.extended, "extended_l2=on".into());
        add(self.zstd, "compression_type=zstd".into());
        add(self.lazy, "lazy_refcounts=on".into());
        add(
            self.preallocation != "off",
            format!("preallocation={}", self.preallocation),
        );
        let below = match self.below {
            Below::Nothing => "",
            Below::Raw => "raw",
            Below::Qcow2 => "qcow2",
        };
        add(
            !below.is_empty(),
            format!("backing_file=below,backing_fmt={below}"),
        );
        if let Some(raw) = self.data_file {
            add(true, format!("data_file={data_file}"));
            add(raw, "data_file_raw=on".into());
        }
        options.join(",")
    }

    /// Something of the guest's may lie in compressed clusters.
    pub(super) fn may_compress(&self) -> bool {
        self.data_file.is_none()
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.longer { " longer" } else { " shorter" };
        write!(f, "{:?} {}", self.maker, self.options("data"))?;
        f.write_str(match self.below {
            Below::Nothing => "",
            _ => place,
        })
    }
}

/// The images in groups, each with what its images have in common.
pub(super) fn groups() -> Vec<(&'static str, Vec<Spec>)> {
    let mut groups = vec![
        ("of version 2", version_2()),
        ("with refcounts of 1 to 4 bits", refcounts(&WIDTHS[..3])),
        ("with refcounts of 8 to 64 bits", refcounts(&WIDTHS[3..])),
        ("over a raw file", over(Below::Raw)),
        ("over a qcow2 image", over(Below::Qcow2)),
        ("with subclusters", subclusters()),
        ("with a data file", data_files()),
        ("with preallocated clusters", preallocated()),
        ("with lazy refcounts", lazy()),
    ];
    // Whatever qemu-img can make, our create can; of one of the two there are snapshots.
    for (_, specs) in &mut groups {
        let mut ours = specs.clone();
        for (i, (theirs, ours)) in specs.iter_mut().zip(&mut ours).enumerate() {
            ours.maker = Maker::Ours;
            theirs.snapshots = i % 2 == 0;
            ours.snapshots = !theirs.snapshots;
        }
        specs.extend(ours);
    }
    groups.push(("that are compressed", compressed()));
    groups
}

fn version_2() -> Vec<Spec> {
    let of_size = |cluster| Spec {
        version: 2,
        cluster,
        ..PLAIN
    };
    SIZES.map(of_size).into()
}

fn refcounts(widths: &[u32]) -> Vec<Spec> {
    let mut specs = Vec::new();
    for refcount_bits in widths {
        for cluster in SIZES {
            specs.push(Spec {
                refcount_bits: *refcount_bits,
                cluster,
                ..PLAIN
            });
        }
    }
    specs
}

fn over(below: Below) -> Vec<Spec> {
    let mut specs = Vec::new();
    for (version, longer) in [(2, false), (2, true), (3, false), (3, true)] {
        for cluster in [512, 4 * KIB, 64 * KIB, 2 * MIB] {
            specs.push(Spec {
                version,
                cluster,
                below,
                longer,
                ..PLAIN
            });
        }
    }
    specs
}

fn subclusters() -> Vec<Spec> {
    let mut specs = Vec::new();
    for cluster in [16 * KIB, 64 * KIB, 128 * KIB, 2 * MIB] {
        for below in [Below::Nothing, Below::Raw, Below::Qcow2] {
            specs.push(Spec {
                extended: true,
                cluster,
                below,
                longer: cluster > 64 * KIB,
                ..PLAIN
            });
        }
    }
    specs
}

fn data_files() -> Vec<Spec> {
    let mut specs = Vec::new();
    for (cluster, extended) in [
        (512, false),
        (4 * KIB, false),
        (64 * KIB, false),
        (64 * KIB, true),
        (2 * MIB, false),
    ] {
        for (raw, below) in [
            (true, Below::Nothing),
            (false, Below::Nothing),
            (false, Below::Raw),
        ] {
            specs.push(Spec {
                cluster,
                extended,
                below,
                data_file: Some(raw),
                ..PLAIN
            });
        }
    }
    specs
}

fn preallocated() -> Vec<Spec> {
    let mut specs = Vec::new();
    for preallocation in ["metadata", "falloc", "full"] {
        for (version, cluster) in [(2, 4 * KIB), (3, 512), (3, 4 * KIB), (3, 64 * KIB)] {
            specs.push(Spec {
                version,
                cluster,
                preallocation,
                ..PLAIN
            });
        }
        specs.push(Spec {
            extended: true,
            below: Below::Raw,
            preallocation,
            ..PLAIN
        });
        specs.push(Spec {
            data_file: Some(false),
            preallocation,
            ..PLAIN
        });
    }
    specs
}

fn lazy() -> Vec<Spec> {
    let mut specs = Vec::new();
    for (cluster, refcount_bits) in [(512, 64), (4 * KIB, 1), (64 * KIB, 16), (2 * MIB, 16)] {
        specs.push(Spec {
            lazy: true,
            cluster,
            refcount_bits,
            ..PLAIN
        });
    }
    specs
}

fn compressed() -> Vec<Spec> {
    let compressed = Spec {
        maker: Maker::Compressed,
        snapshots: true,
        ..PLAIN
    };
    let mut specs = Vec::new();
    for cluster in SIZES {
        for (version, zstd) in [(2, false), (3, false), (3, true)] {
            specs.push(Spec {
                version,
                cluster,
                zstd,
                ..compressed
            });
        }
    }
    for cluster in [16 * KIB, 64 * KIB, 2 * MIB] {
        for zstd in [false, true] {
            specs.push(Spec {
                cluster,
                zstd,
                extended: true,
                ..compressed
            });
        }
    }
    for refcount_bits in [1, 4, 64] {
        specs.push(Spec {
            cluster: 4 * KIB,
            refcount_bits,
            ..compressed
        });
    }
    specs
}
