//! Compressed clusters: each gives one cluster, never more.
#![forbid(unsafe_code)]

use super::header::Compression;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::Read;

/// Most bytes that a frame of Zstandard may want to look back, which the decoder keeps: more than the largest cluster
/// has makes no sense.
const MAX_WINDOW: u64 = 8 << 20;

/// Unpacks one cluster into `cluster`; false if the bytes are not those of one.
/// They may go on behind it: their length is known in sectors only.
pub(crate) fn unpack(compression: Compression, bytes: &[u8], cluster: &mut [u8]) -> bool {
    match compression {
        Compression::Zlib => {
            let mut state = Box::<DecompressorOxide>::default();
            let (status, _, count) =
                decompress(&mut state, bytes, cluster, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
            count == cluster.len() && matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput)
        }
        Compression::Zstd if window(bytes).is_none_or(|bytes| bytes > MAX_WINDOW) => false,
        Compression::Zstd => match StreamingDecoder::new(bytes) {
            Ok(mut decoder) => decoder.read_exact(cluster).is_ok(),
            Err(_) => false,
        },
    }
}

/// Packs a cluster; `None` if it does not become smaller.
pub(crate) fn pack(compression: Compression, cluster: &[u8]) -> Option<Vec<u8>> {
    let packed = match compression {
        Compression::Zlib => miniz_oxide::deflate::compress_to_vec(cluster, 6),
        Compression::Zstd => compress_to_vec(cluster, CompressionLevel::Fastest),
    };
    (packed.len() < cluster.len()).then_some(packed)
}

/// The bytes that a frame wants to look back, as its header says.
fn window(frame: &[u8]) -> Option<u64> {
    let descriptor = *frame.get(4)?;
    let byte = u64::from(*frame.get(5)?);
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let base = 1 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let len = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let size = frame.get(5 + dictionary..5 + dictionary + len)?;
    Some(
        size.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
            + if len == 2 { 256 } else { 0 },
    )
}
