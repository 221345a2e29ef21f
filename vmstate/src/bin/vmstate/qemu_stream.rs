//! Whether a stream that begins as a QEMU migration stream also ends as one.
//!
//! ```text
//!   51 45 56 4d  00 00 00 03   "QEVM", version 3
//!   ...                        sections; the guest's memory among them
//!   00                         end of the sections (QEMU_VM_EOF)
//!   06 LL LL LL LL {...}       description: its length, big-endian, and that many bytes of JSON, to the end of the stream
//! ```
//!
//! The description is missing where `-machine suppress-vmdesc=on`, a machine type before 2.3 or `xen-save-devices-state` leaves it out:
//! then only the 00 can be checked, and the last section's footer (7e and four bytes) before it where the machine type writes footers.
//! Such types write a configuration section (07) first. That the stream is whole is then likely, not certain. A state of `mapped-ram` or of a background snapshot ends in the same way.
//!
//! Nothing is kept of the stream but a few bytes. QEMU's JSON is text without control characters, so a description cannot begin before the
//! last control character of the stream but by the length of its own header. What comes after that character is read as JSON while it
//! passes by.

use crate::json_text::JsonText;

/// The first bytes: the magic, and version 3.
const MAGIC: [u8; 8] = *b"QEVM\0\0\0\x03";
/// QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION, and a length of 4 bytes. A section's footer with QEMU_VM_EOF is as long.
const HEADER: usize = 6;
/// QEMU_VM_CONFIGURATION, the first section of machine types that write footers.
const CONFIGURATION: u8 = 7;
/// QEMU_VM_SECTION_FOOTER.
const FOOTER: u8 = 0x7e;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Not a QEMU migration stream: nothing is known of its end.
    Unknown,
    /// With the end of the sections and a whole description.
    Complete,
    /// With the end of the sections, which may be a coincidence.
    WithoutDescription,
    /// In the middle.
    Cut,
}

/// Sees all bytes of a stream, in order.
#[derive(Default)]
pub(crate) struct StreamEnd {
    /// The first bytes: those of [`MAGIC`] and the type of the first section.
    start: Vec<u8>,
    /// Bytes so far.
    len: u64,
    /// The last bytes so far, at most [`HEADER`].
    recent: Vec<u8>,
    /// The bytes before `text_from`, at most [`HEADER`].
    before: Vec<u8>,
    /// The first bytes from `text_from` on, at most [`HEADER`].
    after: Vec<u8>,
    /// Where the text at the end begins: after the last control character.
    text_from: u64,
    /// Descriptions that may have begun. Those that overlap begin two bytes after each other, so there are at most three.
    candidates: Vec<Candidate>,
}

/// A description that may have begun.
struct Candidate {
    /// Where it begins, and where it ends if it is one.
    begin: u64,
    end: u64,
    json: JsonText,
}

impl StreamEnd {
    /// The next bytes of the stream.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        let missing = MAGIC.len() + 1 - self.start.len();
        self.start
            .extend_from_slice(&bytes[..missing.min(bytes.len())]);
        if bytes.is_empty() || !self.may_be_qemus() {
            return;
        }
        let text = match bytes.iter().rposition(|byte| is_control(*byte)) {
            None => bytes,
            Some(last) => {
                let (sections, text) = bytes.split_at(last + 1);
                self.text_ends(sections);
                text
            }
        };
        self.see_text(text);
    }

    /// True if the stream began as one of QEMU's, as far as it has come: a whole stream of `QE` was cut inside the magic.
    fn may_be_qemus(&self) -> bool {
        let len = self.start.len().min(MAGIC.len());
        self.start[..len] == MAGIC[..len]
    }

    /// The sections have ended, as far as their last bytes show it.
    fn sections_end(&self) -> bool {
        let ends = self.recent.last() == Some(&0);
        let has_footer = self.recent.len() == HEADER && self.recent[0] == FOOTER;
        match self.start.get(MAGIC.len()) {
            None => false,
            Some(&CONFIGURATION) => ends && has_footer,
            Some(_) => ends,
        }
    }

    /// How the stream ended.
    pub(crate) fn ending(&self) -> Ending {
        let complete = |found: &Candidate| found.end == self.len && found.json.is_complete();
        if self.len == 0 || !self.may_be_qemus() {
            Ending::Unknown
        } else if self.candidates.iter().any(complete) {
            Ending::Complete
        } else if self.sections_end() {
            Ending::WithoutDescription
        } else {
            Ending::Cut
        }
    }

    /// The text so far was not the end of the stream: `sections` comes after it, and ends with a control character.
    fn text_ends(&mut self, sections: &[u8]) {
        self.candidates.clear();
        self.len += sections.len() as u64;
        self.text_from = self.len;
        self.remember(sections);
        self.before.clone_from(&self.recent);
        self.after.clear();
    }

    /// Keeps the last bytes.
    fn remember(&mut self, bytes: &[u8]) {
        let keep = bytes.len().min(HEADER);
        self.recent.extend_from_slice(&bytes[bytes.len() - keep..]);
        let surplus = self.recent.len().saturating_sub(HEADER);
        self.recent.drain(..surplus);
    }

    fn see_text(&mut self, text: &[u8]) {
        let begin = self.len;
        self.len += text.len() as u64;
        self.remember(text);
        let room = HEADER - self.after.len();
        let taken = text.len().min(room);
        self.after.extend_from_slice(&text[..taken]);
        if taken > 0 {
            self.find_candidates();
        }
        for candidate in &mut self.candidates {
            // A header may end inside the text, if its length has bytes that are text.
            let skip = candidate.begin.saturating_sub(begin).min(text.len() as u64);
            candidate.json.see(&text[skip as usize..]);
        }
    }

    /// Looks for headers that are complete by now and were not before.
    fn find_candidates(&mut self) {
        let around = [&self.before[..], &self.after[..]].concat();
        let origin = self.text_from - self.before.len() as u64;
        for (at, header) in around.windows(HEADER).enumerate() {
            let begin = origin + at as u64 + HEADER as u64;
            let known = self.candidates.iter().any(|found| found.begin == begin);
            let [0, 6, length @ ..] = header else {
                continue;
            };
            if known || begin < self.text_from {
                continue;
            }
            let length = length.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
            self.candidates.push(Candidate {
                begin,
                end: begin + length,
                json: JsonText::default(),
            });
        }
    }
}

/// Not part of JSON text, whose white space it may be.
fn is_control(byte: u8) -> bool {
    byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &[u8] = b"QEVM\0\0\0\x03\x07\0\0\0\x0dpc-i440fx-7.2";

    /// A stream with `memory` in it, and with the description `json` if there is one.
    fn stream(memory: &[u8], json: Option<&str>) -> Vec<u8> {
        let mut stream = [START, memory, &[0x7e, 0, 0, 0, 2, 0]].concat();
        if let Some(json) = json {
            stream.push(6);
            stream.extend((json.len() as u32).to_be_bytes());
            stream.extend(json.as_bytes());
        }
        stream
    }

    /// The ending, which does not depend on how the stream comes.
    fn ending(stream: &[u8]) -> Ending {
        let in_pieces = |size: usize| {
            let mut end = StreamEnd::default();
            stream.chunks(size).for_each(|piece| end.see(piece));
            end.ending()
        };
        let found = in_pieces(stream.len().max(1));
        for size in 1..20 {
            assert_eq!(in_pieces(size), found, "in pieces of {size} bytes");
        }
        found
    }

    fn json(len: usize) -> String {
        let end = r#"", "devices": [{"name": "a\"}{"}, 1, [true]]}"#;
        let start = r#"{"configuration": ""#;
        let text = "x".repeat(len - start.len() - end.len());
        format!("{start}{text}{end}")
    }

    #[test]
    fn a_whole_stream_is_complete_whatever_the_length_of_its_description() {
        for memory in [
            &b"\0\x06\0\0\0\x10{}"[..],
            b"",
            b"text",
            &[0; 4096],
            &[0xff; 100],
        ] {
            // Lengths whose bytes are text, white space, zeroes and header bytes.
            for len in [
                100, 0x2020, 0x7b7b, 0x0a0d, 0x0600, 0x0006, 0x10000, 0x1_0a20,
            ] {
                let whole = stream(memory, Some(&json(len.max(100))));
                assert_eq!(ending(&whole), Ending::Complete, "{len:#x}");
            }
        }
    }

    #[test]
    fn a_stream_without_a_description_ends_with_a_zero() {
        for memory in [&b"\0\x06\0\0\0\x10{}"[..], b"", &[0xff; 100]] {
            assert_eq!(ending(&stream(memory, None)), Ending::WithoutDescription);
        }
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_is_never_complete() {
        let whole = stream(&(0..=255).collect::<Vec<u8>>(), Some(&json(300)));
        for len in 4..whole.len() {
            let found = ending(&whole[..len]);
            let expected = match len == whole.len() - 305 {
                true => Ending::WithoutDescription,
                false => Ending::Cut,
            };
            assert_eq!(found, expected, "{len} of {}", whole.len());
        }
    }

    #[test]
    fn old_machine_types_end_with_a_zero_alone() {
        let old = |end: &[u8]| [b"QEVM\0\0\0\x03\x01", end].concat();
        assert_eq!(ending(&old(b"serial\x01\0")), Ending::WithoutDescription);
        assert_eq!(ending(&old(b"\0")), Ending::WithoutDescription);
        assert_eq!(ending(&old(b"serial\0\x01")), Ending::Cut);
        assert_eq!(ending(&old(b"")), Ending::Cut);
    }

    #[test]
    fn bytes_after_the_description_or_a_wrong_length_are_no_end() {
        let whole = stream(b"memory", Some(&json(300)));
        let longer = [&whole[..], b"}"].concat();
        assert_eq!(ending(&longer), Ending::Cut);
        let mut wrong = whole.clone();
        let at = whole.len() - 300 - 1;
        wrong[at] ^= 1;
        assert_eq!(ending(&wrong), Ending::Cut);
        let mut broken = whole.clone();
        *broken.last_mut().expect("not empty") = b']';
        assert_eq!(ending(&broken), Ending::Cut);
        let twice = [&whole[..], &whole[whole.len() - 306..]].concat();
        assert_eq!(ending(&twice), Ending::Complete);
    }

    #[test]
    fn other_streams_are_not_judged() {
        for other in [
            &b""[..],
            b"QEVN\0\0\0\x03",
            b"QEVM\0\0\0\x02\0",
            b"QEVX",
            b"LibvirtQemudSave",
            b"xQEVM\0\0\0\x03",
        ] {
            assert_eq!(ending(other), Ending::Unknown, "{other:?}");
        }
        for len in 1..=MAGIC.len() {
            assert_eq!(ending(&MAGIC[..len]), Ending::Cut, "{len} bytes");
        }
    }
}
