//! CRC-32C as ext4 uses it: from a seed, not inverted at the end.

const ALGORITHM: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// The seed where none is given.
pub(crate) const SEED: u32 = !0;

/// The checksum over several pieces.
pub(crate) fn crc32c(seed: u32, pieces: &[&[u8]]) -> u32 {
    let mut digest = ALGORITHM.digest_with_initial(seed.reverse_bits());
    for piece in pieces {
        digest.update(piece);
    }
    !digest.finalize()
}
