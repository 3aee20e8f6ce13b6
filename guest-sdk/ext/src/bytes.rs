//! Numbers in bytes; zero beyond their end.

pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|from| from.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|from| from.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|from| from.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A number of 48 or 64 bits in two parts.
pub(crate) fn join(high: impl Into<u64>, low: u32) -> u64 {
    high.into() << 32 | u64::from(low)
}
