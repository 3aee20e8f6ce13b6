//! A process that writes an image is killed at any moment: what it had flushed is there, and the image is whole.

use hv_disk::{Chain, Format, OpenOptions, open};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SECTOR: u64 = 512;
/// Sectors that the model knows; another thread writes those behind them.
const SECTORS: u64 = 8192;
const SIZE: u64 = 2 * SECTORS * SECTOR;
/// Has the image's path in the process that is killed, and a seed.
const WRITER: &str = "HV_DISK_WRITER";

fn opened(path: &Path, writable: bool) -> Chain {
    let file = File::options().read(true).write(writable).open(path).unwrap();
    open(file, path, Format::Qcow2, &OpenOptions { writable, ..OpenOptions::default() }).unwrap()
}

/// What operation `n` writes.
fn content(n: u64, sectors: std::ops::Range<u64>) -> Vec<u8> {
    sectors.flat_map(|sector| (n << 32 | sector).to_le_bytes().repeat(SECTOR as usize / 8)).collect()
}

/// In the process that is killed: says what it will do before it does it, and what it has flushed.
#[test]
fn writer_that_is_killed() {
    let Ok(what) = std::env::var(WRITER) else { return };
    let (path, seed) = what.rsplit_once(':').unwrap();
    let (chain, seed) = (opened(Path::new(path), true), seed.parse().unwrap());
    let other = chain.image.clone();
    std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(seed);
        loop {
            let (sector, count) = (random.u64(SECTORS..2 * SECTORS - 64), random.u64(1..64));
            match random.u32(0..8) {
                0 => other.discard(sector * SECTOR, count * SECTOR).unwrap(),
                1 => other.flush().unwrap(),
                _ => other.write(&content(1, sector..sector + count), sector * SECTOR).unwrap(),
            }
        }
    });
    let mut random = fastrand::Rng::with_seed(seed + 1);
    let mut out = std::io::stdout();
    for n in 1.. {
        let (sector, count) = (random.u64(0..SECTORS - 300), random.u64(1..300));
        let (offset, len) = (sector * SECTOR, count * SECTOR);
        match random.u32(0..10) {
            0 => {
                writeln!(out, "op {n} zero {sector} {count}").unwrap();
                chain.image.zero(offset, len).unwrap();
            }
            1 | 2 => {
                chain.image.flush().unwrap();
                writeln!(out, "op {n} flushed 0 0").unwrap();
            }
            _ => {
                writeln!(out, "op {n} write {sector} {count}").unwrap();
                chain.image.write(&content(n, sector..sector + count), offset).unwrap();
            }
        }
    }
}

/// What a sector may have: the operation that was flushed last, and those after it. 0 is zeroes.
#[derive(Clone, Default)]
struct Sector {
    flushed: u64,
    later: Vec<u64>,
}

#[test]
fn what_was_flushed_survives_and_the_image_is_whole() {
    if !Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success()) {
        hv_skip::skip("needs qemu-img");
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for (round, options) in [
        "cluster_size=64k",
        "extended_l2=on",
        "cluster_size=512",
        "cluster_size=4k,refcount_bits=1",
        "compat=0.10",
    ]
    .into_iter()
    .cycle()
    .take(15)
    .enumerate()
    {
        let path = folder.path().join("image.qcow2");
        let create = ["create", "-q", "-f", "qcow2", "-o", options];
        let size = SIZE.to_string();
        assert!(Command::new("qemu-img").args(create).arg(&path).arg(size).status().unwrap().success());
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_that_is_killed", "--nocapture"])
            .env(WRITER, format!("{}:{round}", path.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut operations = Vec::new();
        // After so many, and some time more: at any point of an operation.
        let enough = random.usize(20..200);
        while operations.len() < enough {
            let line = lines.next().expect("it writes until it is killed");
            operations.extend(line.strip_prefix("op ").map(str::to_owned));
        }
        std::thread::sleep(Duration::from_micros(random.u64(0..3000)));
        writer.kill().unwrap();
        writer.wait().unwrap();
        operations.extend(lines.filter_map(|line| line.strip_prefix("op ").map(str::to_owned)));

        let check = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&path).output().unwrap();
        assert!(matches!(check.status.code(), Some(0 | 3)), "{options}: {check:?}");
        let mut model = BTreeMap::<u64, Sector>::new();
        for operation in &operations {
            // The last line may have been cut off.
            let words: Vec<&str> = operation.split(' ').collect();
            let [n, kind, sector, count] = words[..] else { continue };
            let (Ok(n), Ok(sector), Ok(count)) =
                (n.parse::<u64>(), sector.parse::<u64>(), count.parse::<u64>())
            else {
                continue;
            };
            if kind == "flushed" {
                for sector in model.values_mut() {
                    sector.flushed = sector.later.pop().unwrap_or(sector.flushed);
                    sector.later.clear();
                }
            }
            for sector in sector..sector + count {
                model.entry(sector).or_default().later.push(if kind == "zero" { 0 } else { n });
            }
        }
        let chain = opened(&path, false);
        for (number, sector) in model {
            let mut bytes = vec![0; SECTOR as usize];
            chain.image.read(&mut bytes, number * SECTOR).unwrap();
            let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes == word.to_le_bytes().repeat(64), "{options}: sector {number} is torn");
            assert!(
                word == 0 || word & 0xffff_ffff == number,
                "{options}: sector {number} has another's content"
            );
            let n = word >> 32;
            assert!(
                n == sector.flushed || sector.later.contains(&n),
                "{options}: sector {number} has operation {n}, flushed was {}, later {:?}",
                sector.flushed,
                sector.later
            );
        }
        drop(chain);
        // Leaks are repaired by hv as QEMU sees it.
        let repairing = OpenOptions { writable: true, repair: true, alone: true, ..OpenOptions::default() };
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let chain = open(file, &path, Format::Qcow2, &repairing).unwrap();
        let found = chain.qcow2.as_ref().unwrap().check(hv_disk::qcow2::Repair::Leaks).unwrap();
        assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.problems);
        drop(chain);
        let check =
            Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&path).status().unwrap();
        assert!(check.success(), "{options}");
    }
}
