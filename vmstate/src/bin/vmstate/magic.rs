//! Disk images that must not be replaced by a state, known by how they start.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How many bytes of a file are needed to tell.
pub(crate) const NEEDED: usize = 33 * 1024;

/// What [`image_format`] calls an image that a snapshot can be saved into.
pub(crate) const QCOW2: &str = "qcow2";

/// Names of formats, and what stands where.
const MAGICS: [(&str, usize, &[u8]); 18] = [
    ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
    (QCOW2, 0, b"QFI\xfb"),
    ("QED", 0, b"QED\0"),
    ("VMDK", 0, b"KDMV"),
    ("VMDK", 0, b"COWD"),
    ("VMDK", 0, b"# Disk DescriptorFile"),
    ("VDI", 64, &[0x7f, 0x10, 0xda, 0xbe]),
    ("VHDX", 0, b"vhdxfile"),
    ("VHD", 0, b"conectix"),
    ("Parallels", 0, b"WithoutFreeSpace"),
    ("Parallels", 0, b"WithouFreSpacExt"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("Bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\n"),
    ("GPT disk", 512, b"EFI PART"),
    ("GPT disk", 4096, b"EFI PART"),
    ("ISO 9660", 32769, b"CD001"),
    ("ext file system", 1024 + 56, &[0x53, 0xef, 0x01, 0x00]),
];

/// The format of the image in `file`, if it is one.
pub(crate) fn image_format_of(file: &File) -> io::Result<Option<&'static str>> {
    let mut start = vec![0; NEEDED];
    let mut filled = 0;
    while filled < start.len() {
        match file.read_at(&mut start[filled..], filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    start.truncate(filled);
    Ok(image_format(&start))
}

/// The format of the image that starts with `start`, if it is one.
pub(crate) fn image_format(start: &[u8]) -> Option<&'static str> {
    let known = MAGICS
        .iter()
        .find(|(_, at, magic)| start.get(*at..at + magic.len()) == Some(magic));
    known.map(|(name, ..)| *name).or_else(|| {
        // A boot sector: its mark, and four partitions whose status byte is one of the two that exist.
        let sector = start.get(..512)?;
        let statuses_valid = (446..510).step_by(16).all(|at| sector[at] & 0x7f == 0);
        (sector[510..] == [0x55, 0xaa] && statuses_valid).then_some("MBR disk")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_and_a_state_is_not() {
        for (name, at, magic) in MAGICS {
            let mut start = vec![0; NEEDED];
            start[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(image_format(&start), Some(name));
            let cut = image_format(&start[..at + magic.len() - 1]);
            assert!(cut.is_none() || name == "qcow", "{name}");
        }
        let mut boot = vec![0; 512];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(image_format(&boot), Some("MBR disk"));
        boot[446] = 1;
        assert_eq!(image_format(&boot), None);
        assert_eq!(image_format(b"QEVM\0\0\0\x03"), None);
        assert_eq!(image_format(b""), None);
    }
}
