//! Big-endian numbers in fields that were read whole.

/// The big-endian number at `at` of fields that are long enough; 0 where they are not.
pub(crate) fn be16(fields: &[u8], at: usize) -> u16 {
    let bytes = fields.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// The big-endian number at `at` of fields that are long enough; 0 where they are not.
pub(crate) fn be32(fields: &[u8], at: usize) -> u32 {
    let bytes = fields.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The big-endian number at `at` of fields that are long enough; 0 where they are not.
pub(crate) fn be64(fields: &[u8], at: usize) -> u64 {
    let bytes = fields.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Puts `what` into fields that are long enough.
pub(crate) fn put(fields: &mut [u8], at: usize, what: &[u8]) {
    let place = at
        .checked_add(what.len())
        .and_then(|end| fields.get_mut(at..end));
    if let Some(place) = place {
        place.copy_from_slice(what);
    }
}
