//! Disk images that anybody may have made: headers, tables and compressed clusters of qcow2.
//!
//! An image that hv made is damaged as the bytes say, opened, and used. Whatever is in it, nothing panics, no
//! call goes on without end, and what is outside the disk is refused.

use crate::{Input, Seed};
use hv_disk::qcow2::{CreateOptions, Repair, create};
use hv_disk::{Chain, Format, OpenOptions, Run, open};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the disk.
const SIZE: u64 = 1 << 20;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some(file) = image(input.byte()) else { return };
    for _ in 0..input.byte() {
        let (at, bytes) = (input.number() % (1 << 20), input.bytes());
        file.write_all_at(bytes, at).unwrap();
    }
    if input.byte() % 8 == 0 {
        file.set_len(input.number() % (1 << 20)).unwrap();
    }
    let writable = input.byte() % 2 == 0;
    let repair = input.byte() % 4 == 0;
    let options = OpenOptions { writable, unlocked: true, alone: true, repair, ..OpenOptions::default() };
    // A folder that is not there: no name leads to a file.
    match open(file, Path::new("/nowhere/x.qcow2"), Format::Qcow2, &options) {
        Ok(chain) => use_it(&chain, &mut input),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
        }
    }
}

/// A small image with some data, a compressed cluster and zeroes.
fn image(kind: u8) -> Option<File> {
    let file = tempfile::tempfile().unwrap();
    let mut options = CreateOptions::new(SIZE);
    options.cluster_size = [512, 4096, 16384, 65536][usize::from(kind % 4)];
    options.extended_l2 = kind & 4 != 0 && options.cluster_size >= 16384;
    options.refcount_bits = [16, 1, 64, 8][usize::from(kind >> 3 & 3)];
    create(&file, &options).ok()?;
    let writing = OpenOptions { writable: true, unlocked: true, ..OpenOptions::default() };
    let copy = file.try_clone().unwrap();
    let chain = open(copy, Path::new("/nowhere/x.qcow2"), Format::Qcow2, &writing).unwrap();
    chain.image.write(&[7; 3000], 1000).unwrap();
    chain.image.write(&[8; 70_000], 200_000).unwrap();
    chain.image.zero(300_000, 100_000).unwrap();
    let cluster = chain.image.size() / options.cluster_size - 1;
    chain.qcow2.as_ref()?.write_packed(cluster, &vec![9; options.cluster_size as usize]).unwrap();
    chain.image.flush().unwrap();
    chain.image.close().unwrap();
    Some(file)
}

fn use_it(chain: &Chain, input: &mut Input<'_>) {
    let (image, size) = (&chain.image, chain.image.size());
    let mut steps = 0;
    while input.more() && steps < 64 {
        steps += 1;
        let (operation, offset) = (input.byte(), input.number());
        let len = u64::from(input.half());
        let is_inside = offset.checked_add(len).is_some_and(|end| end <= size);
        let result = match operation % 8 {
            0 => image.read(&mut vec![0; len as usize], offset),
            1 => image.write(&vec![operation; len as usize], offset),
            2 => image.zero(offset, len),
            3 => image.discard(offset, len),
            4 => image.flush(),
            5 => image.map(offset, len.max(1)).map(|run| assert!(shorter(&run, len.max(1)))),
            6 => chain.qcow2.as_ref().unwrap().check(Repair::None).map(drop),
            _ => image.close(),
        };
        assert!(is_inside || matches!(operation % 8, 4..) || result.is_err(), "outside");
    }
}

/// A run has something, and not more than was asked for.
fn shorter(run: &Run, len: u64) -> bool {
    match run {
        Run::Data { len: run, .. } | Run::Zeroes(run) | Run::Packed(_, run) => (1..=len).contains(run),
        Run::Other => false,
    }
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for kind in [0, 1, 2, 3, 6, 7, 9, 0x11, 0x19] {
        for (at, bytes) in
            [(0, &[][..]), (72, &[0; 40]), (36, &[0, 0, 0, 9]), (96, &[0, 0, 0, 6]), (70_000, &[0xff; 8])]
        {
            let mut seed = Seed::default().byte(kind).byte(1).number(at).bytes(bytes).byte(1).byte(0).byte(1);
            for (operation, offset) in [(0, 0), (1, 5000), (4, 0), (2, 70_000), (6, 0), (1, 900_000), (7, 0)]
            {
                seed = seed.byte(operation).number(offset).half(9000);
            }
            seeds.push(seed.done());
        }
    }
    seeds
}
