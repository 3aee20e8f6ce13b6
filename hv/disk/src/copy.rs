//! Copying and comparing whole disks, in parallel, without moving zeroes.
#![forbid(unsafe_code)]

use crate::image::{Image, Run};
use crate::qcow2::Qcow2;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Bytes that one thread works on at a time: the largest cluster.
pub const CHUNK: u64 = 2 << 20;
/// Most threads: more do not help, and each has a chunk in memory.
const MAX_THREADS: usize = 8;

/// Runs `work` on all chunks of a disk, by as many threads as there are processors; `progress` hears of bytes that are done.
///
/// # Errors
///
/// The first error; chunks that were not begun by then are left out.
pub fn each_chunk(
    size: u64,
    work: impl Fn(u64, u64) -> io::Result<()> + Sync,
    progress: impl FnMut(u64) + Send,
) -> io::Result<()> {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let state = Mutex::new((Ok(()), 0, progress));
    let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if offset >= size || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let len = CHUNK.min(size - offset);
                    let result = work(offset, len);
                    let (first, done, progress) = &mut *state.lock().expect("no panic while held");
                    *done += len;
                    progress(*done);
                    if result.is_err() && first.is_ok() {
                        *first = result;
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    state.into_inner().expect("no panic while held").0
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // By words, which the compiler turns into vectors.
    let (before, words, behind) = (&bytes[..bytes.len() % 8], bytes[bytes.len() % 8..].chunks_exact(64), 0u8);
    let rest = words.remainder();
    before.iter().chain(rest).fold(behind, |all, byte| all | byte) == 0
        && words.clone().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Copies a part of a disk that reads as zeroes to another one; zeroes stay unwritten.
///
/// # Errors
///
/// If one cannot be read, or the other not written.
pub fn copy_part(from: &dyn Image, to: &dyn Image, offset: u64, len: u64, unit: u64) -> io::Result<()> {
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let len = match from.map(at, end - at)? {
            Run::Zeroes(len) => len,
            Run::Data { len, .. } | Run::Packed(_, len) => {
                let mut bytes = vec![0; len as usize];
                from.read(&mut bytes, at)?;
                write_data(to, &bytes, at, unit)?;
                len
            }
            Run::Other => return Err(io::ErrorKind::InvalidData.into()),
        };
        at += len;
    }
    Ok(())
}

/// Writes what is not zero, in whole units of the disk.
fn write_data(to: &dyn Image, bytes: &[u8], offset: u64, unit: u64) -> io::Result<()> {
    let (mut from, mut at) = (0, 0);
    // Runs of units with data are written together.
    while at < bytes.len() {
        let next = (((offset + at as u64) / unit + 1) * unit - offset).min(bytes.len() as u64) as usize;
        if is_zero(&bytes[at..next]) {
            if from < at {
                to.write(&bytes[from..at], offset + from as u64)?;
            }
            from = next;
        }
        at = next;
    }
    if from < bytes.len() {
        to.write(&bytes[from..], offset + from as u64)?;
    }
    Ok(())
}

/// Copies a part of a disk, of whole clusters, compressed to another one.
///
/// # Errors
///
/// As for [`copy_part`].
pub fn pack_part(from: &dyn Image, to: &Qcow2, offset: u64, len: u64) -> io::Result<()> {
    let size = to.header().cluster_size();
    let mut bytes = vec![0; size as usize];
    for at in (offset..offset + len).step_by(size as usize) {
        let count = size.min(offset + len - at) as usize;
        let (there, behind) = bytes.split_at_mut(count);
        from.read(there, at)?;
        behind.fill(0);
        if !is_zero(there) && !to.write_packed(at / size, &bytes)? {
            to.write(&bytes[..count], at)?;
        }
    }
    Ok(())
}

/// The first byte of a part in which two disks differ.
///
/// # Errors
///
/// If one cannot be read.
pub fn first_difference(
    one: &dyn Image,
    other: &dyn Image,
    offset: u64,
    len: u64,
) -> io::Result<Option<u64>> {
    let (mut first, mut second) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let zeroes = |image: &dyn Image| {
            Ok::<_, io::Error>(match image.map(at, end - at)? {
                Run::Zeroes(len) => len,
                _ => 0,
            })
        };
        let both = zeroes(one)?.min(zeroes(other)?);
        if both > 0 {
            at += both;
            continue;
        }
        let count = (end - at).min(64 << 10) as usize;
        one.read(&mut first[..count], at)?;
        other.read(&mut second[..count], at)?;
        if first[..count] != second[..count] {
            let differing = first.iter().zip(&second).position(|(one, other)| one != other);
            return Ok(differing.map(|byte| at + byte as u64));
        }
        at += count as u64;
    }
    Ok(None)
}
