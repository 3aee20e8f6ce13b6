//! What a program of the host gets from its files: the floor of shares.
#![forbid(unsafe_code)]

use super::host::{host, times};
use crate::files::{COUNT, Files, LARGE};
use crate::operation::{Group, Operation};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, openat, statat};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// Bytes of a page.
const PAGE: usize = 4096;

/// Bytes that the attributes of a file are in a share. Operations with bytes are compared by their number in a time, whatever is in flight.
const ATTRIBUTES: u64 = size_of::<hv_abi::io::share::ShareAttributes>() as u64;

pub(super) fn operations(files: &Rc<Files>) -> Vec<Box<dyn Operation>> {
    let with = |measure: fn(&Files, u64) -> io::Result<Vec<f64>>| {
        let files = files.clone();
        Box::new(move |count| measure(&files, count))
    };
    let what = "The attributes of one of 10,000 files in a folder, by a program of the host.";
    let stat = host("host-stat", Group::Files, ATTRIBUTES, 1, what, with(stat));
    let what = "An entry, with its attributes, of a folder of 10,000 files, by a program of the host.";
    let list = host("host-list", Group::Files, 0, COUNT, what, with(list));
    let what = "1 MiB of a file in the page cache, one read after the other, by a program of the host.";
    let sequential = host("host-read-1m", Group::Files, 1 << 20, 1, what, with(read::<{ 1 << 20 }, true>));
    let what = "4 KiB from anywhere in a file in the page cache, by a program of the host.";
    let random = host("host-read-4k", Group::Files, 4096, 1, what, with(read::<4096, false>));
    vec![stat, list, sequential, random]
}

fn folder(files: &Files) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(files.path()?.join(Files::NAMES), flags, Mode::empty())?)
}

fn stat(files: &Files, count: u64) -> io::Result<Vec<f64>> {
    let folder = folder(files)?;
    let (mut number, mut failed) = (0, None);
    let took = times(count, 1, || {
        let name = format!("{:05}", number % COUNT);
        number += 1;
        failed = statat(&folder, name, AtFlags::empty()).err().or(failed);
    });
    failed.map_or(Ok(took), |errno| Err(errno.into()))
}

fn list(files: &Files, count: u64) -> io::Result<Vec<f64>> {
    let folder = folder(files)?;
    let mut failed = None;
    let all = || -> io::Result<u64> {
        let again =
            openat(&folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut found = 0;
        for entry in Dir::new(again)? {
            let attributes = statat(&folder, entry?.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            found += u64::from(attributes.st_size == 1);
        }
        Ok(found)
    };
    // A call of `all` is as many operations as there are entries.
    let mut took = times(count.div_ceil(COUNT), 1, || failed = all().err().or(failed.take()));
    took.iter_mut().for_each(|nanos| *nanos /= COUNT as f64);
    failed.map_or(Ok(took), Err)
}

fn read<const SIZE: usize, const SEQUENTIAL: bool>(files: &Files, count: u64) -> io::Result<Vec<f64>> {
    let file = std::fs::File::open(files.path()?.join(Files::LARGE))?;
    // Copies to odd places take up to five times as long.
    let mut buffer = vec![0; SIZE + PAGE];
    let start = buffer.as_ptr().align_offset(PAGE);
    let buffer = &mut buffer[start..][..SIZE];
    let (mut number, mut failed) = (0, None);
    let took = times(count, 1, || {
        let place = if SEQUENTIAL { number } else { scatter(number) } % (LARGE / SIZE as u64);
        number += 1;
        failed = file.read_exact_at(buffer, place * SIZE as u64).err().or(failed.take());
    });
    failed.map_or(Ok(took), Err)
}

/// A permutation of numbers that looks random (the finaliser of MurmurHash3), the same as the guest's.
fn scatter(n: u64) -> u64 {
    let n = (n ^ n >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let n = (n ^ n >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    n ^ n >> 33
}
