//! What a new image is to be like: QEMU's `-o` options, and which of them go together.

#[cfg(test)]
mod tests;

pub use crate::qcow2::format::option_error::OptionError;

use crate::qcow2::format::codec::CompressionType;
use crate::qcow2::format::error::Qcow2Error;
use crate::qcow2::format::geometry::{Geometry, MIN_EXTENDED_CLUSTER_BITS};
use block_core::Preallocation;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// What a new image is to be like. The default is qemu-img 10's, without a size.
///
/// Made from fields, or from the text that `qemu-img create -o` takes ([`CreateOptions::from_pairs`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// The disk's size in bytes, rounded up to sectors of 512. Must be there; qemu-img takes the backing file's where it is not.
    pub size: Option<u64>,
    /// The version of the format.
    pub version: Version,
    /// Bytes of a cluster: a power of two, 512 to 2 MiB, with extended L2 from 16 KiB.
    pub cluster_size: u64,
    /// The width of a refcount in bits: 1, 2, 4, 8, 16, 32 or 64.
    pub refcount_bits: u32,
    /// What shows through where the image has nothing.
    pub backing: Option<Backing>,
    /// How much is allocated at once.
    pub preallocation: Preallocation,
    /// Refcounts may be written late; an image that was not closed is then repaired when it is opened.
    pub lazy_refcounts: bool,
    /// How clusters are compressed that are written compressed.
    pub compression_type: CompressionType,
    /// Clusters have 32 subclusters each.
    pub extended_l2: bool,
    /// The guest's data is in a file of its own.
    pub data_file: Option<DataFile>,
}

/// The version of the format, QEMU's `compat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// Version 2, `0.10`: no zero clusters, no features.
    V2,
    /// Version 3, `1.1`.
    #[default]
    V3,
}

impl Version {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// The backing file of a new image. It is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Its name as it is to be in the image, up to 1023 bytes. Where it is relative, it is so to the image's folder.
    pub file: OsString,
    /// QEMU's name of its format.
    pub format: String,
}

/// The external data file of a new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Its name as it is to be in the image.
    pub file: OsString,
    /// It is to be a raw image of the disk at all times.
    pub raw: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: None,
            version: Version::V3,
            cluster_size: 64 << 10,
            refcount_bits: 16,
            backing: None,
            preallocation: Preallocation::Off,
            lazy_refcounts: false,
            compression_type: CompressionType::Zlib,
            extended_l2: false,
            data_file: None,
        }
    }
}

impl From<OptionError> for Qcow2Error {
    fn from(error: OptionError) -> Self {
        Self::Options(error)
    }
}

/// What QEMU takes for a backing file's format: its formats and protocols.
const FORMATS: [&str; 42] = [
    "blkdebug",
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "bochs",
    "cloop",
    "compress",
    "copy-before-write",
    "copy-on-read",
    "dmg",
    "file",
    "ftp",
    "ftps",
    "gluster",
    "host_cdrom",
    "host_device",
    "http",
    "https",
    "iscsi",
    "iser",
    "luks",
    "nbd",
    "nfs",
    "null-aio",
    "null-co",
    "nvme",
    "parallels",
    "preallocate",
    "qcow",
    "qcow2",
    "qed",
    "quorum",
    "raw",
    "rbd",
    "replication",
    "ssh",
    "throttle",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
    "vvfat",
];

/// The options of encryption and of the file below, by how their names begin.
const UNSUPPORTED: [&str; 4] = ["encrypt.", "encryption", "nocow", "extent_size_hint"];

impl CreateOptions {
    /// Reads a list as `qemu-img create -o` takes it: `cluster_size=4k,lazy_refcounts=on`. The last of two of the same name counts; two
    /// commas are one in a value. What is missing is the default.
    ///
    /// Errors: [`OptionError`]s about names, values, and what [`CreateOptions::check`] says except for a missing size.
    pub fn from_pairs(list: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let (mut backing_file, mut backing_format) = (None, None);
        let (mut data_file, mut data_file_raw) = (None, false);
        for (name, value) in pairs(list)? {
            let value = value.as_deref();
            match name.as_str() {
                "size" => options.size = Some(size("size", value)?),
                "compat" => options.version = choose("compat", value, COMPAT, VERSIONS)?,
                "cluster_size" => options.cluster_size = size("cluster_size", value)?,
                "refcount_bits" => {
                    let bits = number("refcount_bits", value)?;
                    options.refcount_bits =
                        u32::try_from(bits).map_err(|_| OptionError::RefcountBits { bits })?;
                }
                "backing_file" => backing_file = Some(text("backing_file", value)?),
                "backing_fmt" => backing_format = Some(text("backing_fmt", value)?),
                "preallocation" => {
                    options.preallocation = choose("preallocation", value, MODES, PREALLOCATIONS)?;
                }
                "lazy_refcounts" => options.lazy_refcounts = on_off("lazy_refcounts", value)?,
                "compression_type" => {
                    let types = CompressionType::ALL.map(|kind| (kind.name(), kind));
                    options.compression_type =
                        choose("compression_type", value, "zlib or zstd", types)?;
                }
                "extended_l2" => options.extended_l2 = on_off("extended_l2", value)?,
                "data_file" => data_file = Some(text("data_file", value)?),
                "data_file_raw" => data_file_raw = on_off("data_file_raw", value)?,
                "encryption" if !on_off("encryption", value)? => {}
                _ if UNSUPPORTED.iter().any(|start| name.starts_with(start)) => {
                    return Err(OptionError::Unsupported { name });
                }
                _ => return Err(OptionError::Unknown { name }),
            }
        }
        options.backing = match (backing_file, backing_format) {
            (Some(file), Some(format)) => Some(Backing {
                file: file.into(),
                format,
            }),
            (Some(_), None) => return Err(OptionError::NoBackingFormat),
            (None, Some(_)) => return Err(OptionError::NoBackingFile),
            (None, None) => None,
        };
        options.data_file = match data_file {
            Some(file) => Some(DataFile {
                file: file.into(),
                raw: data_file_raw,
            }),
            None if data_file_raw => return Err(OptionError::NoDataFile),
            None => None,
        };
        options.check_combination()?;
        Ok(options)
    }

    /// Whether such an image can be made: nothing that [`create`](crate::qcow2::create()) would refuse before its first write.
    ///
    /// Errors: [`Qcow2Error::Options`]; [`Qcow2Error::SizeTooLarge`]; [`Qcow2Error::TableTooLarge`] where preallocated clusters are more
    /// than a refcount table can count; [`Qcow2Error::HeaderTooLong`] and [`Qcow2Error::NameLength`] where the names do not fit.
    pub fn check(&self) -> Result<(), Qcow2Error> {
        super::Plan::new(self).map(drop)
    }

    /// The sizes of the tables, once all options fit each other.
    pub(crate) fn geometry(&self) -> Result<Geometry, Qcow2Error> {
        self.check_combination()?;
        Geometry::new(
            self.version.number(),
            self.cluster_size.trailing_zeros(),
            self.refcount_bits.trailing_zeros(),
            self.extended_l2,
            self.data_file.is_some(),
        )
    }

    /// All of qemu-img's refusals but those of the sizes.
    fn check_combination(&self) -> Result<(), OptionError> {
        let bytes = self.cluster_size;
        if !bytes.is_power_of_two() || !(512..=2 << 20).contains(&bytes) {
            return Err(OptionError::ClusterSize { bytes });
        }
        if self.extended_l2 && bytes < 1 << MIN_EXTENDED_CLUSTER_BITS {
            return Err(OptionError::ExtendedClusterSize { bytes });
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return Err(OptionError::RefcountBits {
                bits: self.refcount_bits.into(),
            });
        }
        if self.version == Version::V2 {
            let needs = [
                ("extended_l2", self.extended_l2),
                ("lazy_refcounts", self.lazy_refcounts),
                ("refcount_bits", self.refcount_bits != 16),
                ("data_file", self.data_file.is_some()),
                (
                    "compression_type",
                    self.compression_type != CompressionType::Zlib,
                ),
            ];
            if let Some((name, _)) = needs.into_iter().find(|(_, used)| *used) {
                return Err(OptionError::NeedsVersion3 { name });
            }
        }
        let bad_name = |file: &OsString| file.is_empty() || file.as_bytes().contains(&0);
        if let Some(backing) = &self.backing {
            if bad_name(&backing.file) {
                return Err(OptionError::FileName {
                    name: "backing_file",
                });
            }
            if !FORMATS.contains(&backing.format.as_str()) {
                return Err(OptionError::BackingFormat {
                    name: backing.format.clone(),
                });
            }
            if self.preallocation != Preallocation::Off && !self.extended_l2 {
                return Err(OptionError::BackingAndPreallocation);
            }
        }
        if let Some(data_file) = &self.data_file {
            if bad_name(&data_file.file) {
                return Err(OptionError::FileName { name: "data_file" });
            }
            if data_file.raw && self.backing.is_some() {
                return Err(OptionError::BackingAndRawData);
            }
        }
        Ok(())
    }
}

const COMPAT: &str = "v2, v3, 0.10 or 1.1";
const VERSIONS: [(&str, Version); 4] = [
    ("v2", Version::V2),
    ("0.10", Version::V2),
    ("v3", Version::V3),
    ("1.1", Version::V3),
];
const MODES: &str = "off, metadata, falloc or full";
const PREALLOCATIONS: [(&str, Preallocation); 4] = [
    ("off", Preallocation::Off),
    ("metadata", Preallocation::Metadata),
    ("falloc", Preallocation::Falloc),
    ("full", Preallocation::Full),
];
const SIZE: &str = "a number below 2^64 with k, M, G, T, P, E or nothing after it";
const SWITCH: &str = "on or off";

/// The list's parts: a name, and a value unless there is no `=`.
fn pairs(list: &str) -> Result<Vec<(String, Option<String>)>, OptionError> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let mut parts = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match parts.last_mut() {
            Some(last) if c != ',' || chars.next_if_eq(&',').is_some() => last.push(c),
            _ => parts.push(String::new()),
        }
    }
    let split = |part: String| match part.split_once('=') {
        Some(("", _)) => Err(OptionError::NoList { text: part }),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None if part.is_empty() => Err(OptionError::NoList { text: part }),
        None => Ok((part, None)),
    };
    parts.into_iter().map(split).collect()
}

fn wrong(name: &'static str, value: Option<&str>, wanted: &'static str) -> OptionError {
    OptionError::Value {
        name,
        value: value.unwrap_or_default().to_owned(),
        wanted,
    }
}

fn text(name: &'static str, value: Option<&str>) -> Result<String, OptionError> {
    let value = value.map(str::to_owned);
    value.ok_or_else(|| wrong(name, None, "a name"))
}

/// A switch; without a value it is on.
fn on_off(name: &'static str, value: Option<&str>) -> Result<bool, OptionError> {
    match value {
        None | Some("on" | "yes" | "true" | "y") => Ok(true),
        Some("off" | "no" | "false" | "n") => Ok(false),
        Some(_) => Err(wrong(name, value, SWITCH)),
    }
}

fn choose<T, const N: usize>(
    name: &'static str,
    value: Option<&str>,
    wanted: &'static str,
    all: [(&str, T); N],
) -> Result<T, OptionError> {
    let found = all.into_iter().find(|(word, _)| Some(*word) == value);
    let found = found.map(|(_, choice)| choice);
    found.ok_or_else(|| wrong(name, value, wanted))
}

fn number(name: &'static str, value: Option<&str>) -> Result<u64, OptionError> {
    let number = value.and_then(|value| match hexadecimal(value) {
        Some(number) => number,
        None => value.parse().ok(),
    });
    number.ok_or_else(|| wrong(name, value, "a number"))
}

fn size(name: &'static str, value: Option<&str>) -> Result<u64, OptionError> {
    let size = value.and_then(|value| match hexadecimal(value) {
        Some(number) => number,
        None => decimal_size(value),
    });
    size.ok_or_else(|| wrong(name, value, SIZE))
}

/// `None` where it is no hexadecimal number, `Some(None)` where it is one that is too large or has other letters.
fn hexadecimal(value: &str) -> Option<Option<u64>> {
    let digits = value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"))?;
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u64::from_str_radix(digits, 16).ok();
    Some(number.filter(|_| plain))
}

/// Digits, with a unit also a fraction: `1.5G` (QEMU's `qemu_strtosz`).
fn decimal_size(value: &str) -> Option<u64> {
    let unit = value.chars().last()?.to_ascii_uppercase();
    let power = "BKMGTPE".find(unit);
    let digits = match power {
        Some(_) => value.get(..value.len() - 1)?,
        None => value,
    };
    let unit = 1_u128 << (10 * power.unwrap_or(0));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = !whole.is_empty() && all_digits(whole) && all_digits(fraction);
    // More digits than that do not change a size.
    let fraction = fraction.get(..fraction.len().min(18))?;
    if !is_number || (unit == 1 && digits.contains('.')) {
        return None;
    }
    let scale = 10_u128.pow(fraction.len() as u32);
    let part = match fraction {
        "" => 0,
        digits => (digits.parse::<u128>().ok()? * unit + scale / 2) / scale,
    };
    let whole = u128::from(whole.parse::<u64>().ok()?);
    u64::try_from(whole * unit + part).ok()
}
