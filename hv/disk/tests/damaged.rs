//! Images that are damaged anywhere: nothing panics or goes on without end, and what lies outside the disk is refused.

use hv_disk::qcow2::{CreateOptions, Repair, create};
use hv_disk::{Chain, Format, OpenOptions, Run, open};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SIZE: u64 = 1 << 20;

fn opened(file: &File, options: OpenOptions) -> Result<Chain, hv_disk::ImageError> {
    // A folder that is not there: no name leads to a file.
    open(file.try_clone().unwrap(), Path::new("/nowhere/x.qcow2"), Format::Qcow2, &options)
}

/// A small image with data, a compressed cluster, zeroes and a snapshot.
fn image(cluster_size: u64, extended_l2: bool, refcount_bits: u32) -> File {
    let file = tempfile::tempfile().unwrap();
    let options = CreateOptions { cluster_size, extended_l2, refcount_bits, ..CreateOptions::new(SIZE) };
    create(&file, &options).unwrap();
    let writing = || OpenOptions { writable: true, unlocked: true, ..OpenOptions::default() };
    let chain = opened(&file, writing()).unwrap();
    chain.image.write(&[7; 3000], 1000).unwrap();
    chain.image.write(&[8; 70_000], 200_000).unwrap();
    let last = SIZE / cluster_size - 1;
    chain.qcow2.as_ref().unwrap().write_packed(last, &vec![9; cluster_size as usize]).unwrap();
    chain.image.zero(250_000, 100_000).unwrap();
    chain.image.close().unwrap();
    if refcount_bits > 1 {
        chain.qcow2.as_ref().unwrap().take_snapshot("kept").unwrap();
    }
    file
}

/// Reads, writes and checks, as far as that goes.
fn use_it(chain: &Chain, random: &mut fastrand::Rng) {
    let (image, size) = (&chain.image, chain.image.size());
    for _ in 0..12 {
        let offset = match random.u32(0..4) {
            0 => random.u64(..),
            1 => size.saturating_sub(random.u64(0..5000)),
            _ => random.u64(0..size.max(1)),
        };
        let len = random.u64(1..40_000);
        let is_inside = offset.checked_add(len).is_some_and(|end| end <= size);
        let operation = random.u32(0..7);
        let result = match operation {
            0 => image.read(&mut vec![0; len as usize], offset),
            1 | 2 => image.write(&vec![3; len as usize], offset),
            3 => image.zero(offset, len.min(size)),
            4 => image.discard(offset, len),
            5 => image.map(offset, len).map(|run| {
                let (Run::Data { len: run, .. } | Run::Zeroes(run) | Run::Packed(_, run)) = run else {
                    panic!("nothing of a run")
                };
                assert!((1..=len).contains(&run));
            }),
            _ => image.flush(),
        };
        assert!(is_inside || operation >= 6 || operation == 3 || result.is_err(), "outside");
    }
    let _ = chain.qcow2.as_ref().unwrap().check(Repair::None);
    let _ = image.close();
}

#[test]
fn whatever_is_in_an_image_nothing_panics_and_nothing_is_endless() {
    let mut random = fastrand::Rng::with_seed(11);
    let images =
        [(512, false, 16), (4096, false, 1), (16384, true, 64), (65536, false, 16), (65536, true, 8)];
    let images = images.map(|(cluster, extended, bits)| (cluster, image(cluster, extended, bits)));
    let mut opened_at_all = 0;
    for round in 0..3000 {
        let (cluster, good) = &images[round % images.len()];
        let mut bytes = vec![0; good.metadata().unwrap().len() as usize];
        good.read_exact_at(&mut bytes, 0).unwrap();
        for _ in 0..random.usize(1..6) {
            // The header, a table, or anywhere.
            let most = match random.u32(0..4) {
                0 => 112,
                1 | 2 => (6 * *cluster as usize).min(bytes.len()),
                _ => bytes.len(),
            };
            let at = random.usize(0..most);
            match random.u32(0..5) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u32(0..8),
                2 => bytes[at] = 0xff,
                3 => {
                    let (from, len) = (random.usize(0..most), random.usize(1..64));
                    let len = len.min(bytes.len() - at.max(from));
                    bytes.copy_within(from..from + len, at);
                }
                // The place of a cluster, of any table or of none.
                _ => {
                    let at = at / 8 * 8;
                    let place = (random.u64(0..40) * cluster) | (random.u64(0..4) << 62);
                    bytes[at..at + 8].copy_from_slice(&place.to_be_bytes());
                }
            }
        }
        if random.u32(0..10) == 0 {
            bytes.truncate(random.usize(0..bytes.len()));
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let writable = random.bool();
        let options = OpenOptions {
            writable,
            repair: random.u32(0..4) == 0,
            unlocked: true,
            alone: true,
            ..OpenOptions::default()
        };
        match opened(&file, options) {
            Ok(chain) => {
                opened_at_all += 1;
                use_it(&chain, &mut random);
            }
            Err(error) => {
                let message = error.to_string();
                assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
            }
        }
    }
    assert!(opened_at_all > 500, "{opened_at_all} of them were looked into");
}

#[test]
fn snapshots_inside_survive_changes() {
    let file = image(4096, false, 16);
    let reading = || OpenOptions { unlocked: true, ..OpenOptions::default() };
    let writing = || OpenOptions { writable: true, ..reading() };
    let all = |file: &File| {
        let chain = opened(file, reading()).unwrap();
        let mut bytes = vec![0; SIZE as usize];
        chain.image.read(&mut bytes, 0).unwrap();
        let found = chain.qcow2.as_ref().unwrap().check(Repair::None).unwrap();
        assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.problems);
        bytes
    };
    let kept = all(&file);
    let chain = opened(&file, writing()).unwrap();
    chain.image.write(&vec![1; SIZE as usize], 0).unwrap();
    chain.image.close().unwrap();
    assert!(all(&file).iter().all(|byte| *byte == 1));
    opened(&file, writing()).unwrap().qcow2.unwrap().apply_snapshot("kept").unwrap();
    assert!(all(&file) == kept);
    opened(&file, writing()).unwrap().qcow2.unwrap().delete_snapshot("1").unwrap();
    assert!(all(&file) == kept);
}
