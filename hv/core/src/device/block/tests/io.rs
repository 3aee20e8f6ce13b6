//! Reading, writing and the rest, by both engines on real files.

use super::*;
use hv_abi::io::block::*;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Runs a test on a disk of this content, by every engine and in both sizes of sectors.
fn each(content: &[u8], options: &str, test: impl Fn(&mut Rig, u64, &Path)) {
    for engine in engines() {
        for sector in [512, 4096] {
            let folder = folder();
            let path = file(&folder, content);
            let spec = format!("{}{options},sector={sector}", path.display()).parse().unwrap();
            match Disk::open(&spec) {
                Ok(disk) => test(&mut Rig::with(disk, engine), sector, &path),
                Err(error) => {
                    assert!(options.contains("direct"), "{error}");
                    hv_skip::skip(format_args!("needs a file system with O_DIRECT: {error}"));
                }
            }
        }
    }
}

/// Segments of different lengths, out of order in memory, and their total.
fn scattered(count: usize, sector: u64) -> (Vec<Segment>, u64) {
    let segments: Vec<_> = (0..count as u64)
        .map(|i| segment(DATA + (i * 7 % 128) * 4 * sector, ((1 + i % 3) * sector) as u32))
        .collect();
    let total = segments.iter().map(|s| u64::from(s.len)).sum();
    (segments, total)
}

fn gather(rig: &Rig, segments: &[Segment]) -> Vec<u8> {
    segments.iter().flat_map(|s| rig.peek(s.address.0, s.len as usize)).collect()
}

fn scatter(rig: &Rig, segments: &[Segment], mut bytes: &[u8]) {
    for s in segments {
        let (head, rest) = bytes.split_at(s.len as usize);
        rig.poke(s.address.0, head);
        bytes = rest;
    }
}

#[test]
fn segments_are_read_and_written_in_their_order() {
    let content = pattern(1, 2 << 20);
    each(&content, "", |rig, sector, path| {
        for count in [1, 2, 3, 17, 128] {
            let (segments, total) = scattered(count, sector);
            assert_eq!(rig.transfer(OP_READ, 3, &segments), Ok(0));
            let at = (3 * sector) as usize;
            assert!(gather(rig, &segments) == content[at..][..total as usize], "{count} segments");

            let new = pattern(count as u64, total as usize);
            scatter(rig, &segments, &new);
            assert_eq!(rig.transfer(OP_WRITE, 5, &segments), Ok(0));
            let mut expected = content.clone();
            expected[(5 * sector) as usize..][..total as usize].copy_from_slice(&new);
            assert!(fs::read(path).unwrap() == expected, "{count} segments");
            fs::write(path, &content).unwrap();
        }
    });
}

#[test]
fn the_first_and_the_last_sector_and_the_largest_transfer() {
    let content = pattern(2, 2 << 20);
    each(&content, "", |rig, sector, _| {
        let last = rig.config().sectors - 1;
        for at in [0, last] {
            assert_eq!(rig.transfer(OP_READ, at, &[segment(DATA, sector as u32)]), Ok(0));
            assert!(rig.peek(DATA, sector as usize) == content[(at * sector) as usize..][..sector as usize]);
        }
        assert_eq!(rig.transfer(OP_READ, (1 << 20) / sector, &[segment(DATA, 1 << 20)]), Ok(0));
        assert!(rig.peek(DATA, 1 << 20) == content[1 << 20..]);
    });
}

#[test]
fn memory_that_is_only_readable_can_be_written_to_a_disk() {
    each(&[1; 8192], "", |rig, sector, path| {
        assert_eq!(rig.transfer(OP_WRITE, 1, &[segment(READ_ONLY, sector as u32)]), Ok(0));
        assert_eq!(fs::read(path).unwrap()[sector as usize..][..sector as usize], vec![0; sector as usize]);
    });
}

#[test]
fn a_flush_is_answered() {
    each(&[0; 8192], "", |rig, sector, _| {
        assert_eq!(rig.transfer(OP_WRITE, 0, &[segment(DATA, sector as u32)]), Ok(0));
        assert_eq!(rig.transfer(OP_FLUSH, 0, &[]), Ok(0));
    });
    each(&[0; 8192], ",ro", |rig, _, _| assert_eq!(rig.transfer(OP_FLUSH, u64::MAX, &[]), Ok(0)));
}

#[test]
fn zeroes_are_zeroes_and_what_is_discarded_leaves_its_neighbours_alone() {
    let content = pattern(3, 1 << 20);
    for op in [OP_DISCARD, OP_WRITE_ZEROES] {
        each(&content, "", |rig, sector, path| {
            let (at, count) = (3, 41);
            assert_eq!(rig.span(op, at, count), Ok(0));
            let (from, to) = ((at * sector) as usize, ((at + count) * sector) as usize);
            let now = fs::read(path).unwrap();
            assert_eq!(now.len(), content.len());
            assert!(now[..from] == content[..from] && now[to..] == content[to..]);
            if op == OP_WRITE_ZEROES {
                assert!(now[from..to].iter().all(|b| *b == 0));
            }
            assert_eq!(rig.span(op, 0, rig.config().sectors), Ok(0), "the whole disk");
        });
    }
}

#[test]
fn a_discard_gives_space_back() {
    each(&pattern(4, 1 << 20), "", |rig, sector, path| {
        let before = fs::metadata(path).unwrap().blocks();
        assert_eq!(rig.span(OP_DISCARD, 0, (1 << 20) / sector), Ok(0));
        let after = fs::metadata(path).unwrap().blocks();
        assert!(after < before || before == 0, "{before} blocks, then {after}");
    });
}

#[test]
fn a_full_ring_of_requests_is_answered_each_once() {
    let content = pattern(5, 1 << 20);
    each(&content, "", |rig, sector, _| {
        for round in 0..20 {
            let requests: Vec<_> = (0..u64::from(ENTRIES))
                .map(|i| {
                    rig.request(OP_READ, (i * 3 + round) % 128, &[segment(DATA + i * sector, sector as u32)])
                })
                .collect();
            rig.push(&requests);
            let mut ids: Vec<_> = rig
                .wait(requests.len())
                .iter()
                .map(|response| {
                    assert_eq!(response.status, 0);
                    response.id
                })
                .collect();
            ids.sort_unstable();
            assert!(ids.iter().copied().eq(requests.iter().map(|r| r.id)));
            for (i, request) in requests.iter().enumerate() {
                let at = (request.sector * sector) as usize;
                assert!(
                    rig.peek(DATA + i as u64 * sector, sector as usize) == content[at..][..sector as usize]
                );
            }
        }
        assert_eq!(rig.device.in_flight(), 0);
    });
}

#[test]
fn past_the_page_cache_memory_need_not_be_aligned() {
    let content = pattern(6, 1 << 20);
    each(&content, ",direct", |rig, sector, path| {
        // Aligned, by half a page, by a sector of 512, by 4 bytes, by 1.
        for shift in [0, 2048, 512, 4, 1] {
            let len = 300 << 10;
            let segments = [segment(DATA + shift, len), segment(DATA + (1 << 20) + shift, 2 * sector as u32)];
            let total = (len + 2 * sector as u32) as usize;
            assert_eq!(rig.transfer(OP_READ, 2, &segments), Ok(0), "{shift}");
            assert!(gather(rig, &segments) == content[2 * sector as usize..][..total], "{shift}");

            let new = pattern(shift, total);
            scatter(rig, &segments, &new);
            assert_eq!(rig.transfer(OP_WRITE, 2, &segments), Ok(0), "{shift}");
            assert!(fs::read(path).unwrap()[2 * sector as usize..][..total] == new, "{shift}");
            assert_eq!(rig.transfer(OP_FLUSH, 0, &[]), Ok(0));
            fs::write(path, &content).unwrap();
        }
    });
}

#[test]
fn a_file_that_became_shorter_is_an_error_and_not_old_memory() {
    each(&pattern(7, 64 << 10), ",ro", |rig, sector, path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(sector + 100).unwrap();
        assert_eq!(rig.transfer(OP_READ, 0, &[segment(DATA, 2 * sector as u32)]), Err(Errno::Io));
        assert_eq!(rig.transfer(OP_READ, 0, &[segment(DATA, sector as u32)]), Ok(0));
    });
}

#[test]
fn a_device_that_is_dropped_waits_for_what_is_in_flight() {
    for engine in engines() {
        let folder = folder();
        let path = file(&folder, &pattern(8, 4 << 20));
        let mut rig = Rig::new(&DiskSpec::new(&path), engine);
        let requests: Vec<_> = (0..u64::from(ENTRIES))
            .map(|i| rig.request(OP_WRITE, i * 128, &[segment(DATA, 64 << 10)]))
            .collect();
        rig.push(&requests);
        rig.device.poll(Instant::now());
        let Rig { memory, device, ring, front, .. } = rig;
        drop((device, ring, front));
        assert_eq!(Arc::strong_count(&memory), 1, "{engine:?}: nothing works on the memory any more");
        Disk::open(&DiskSpec::new(&path)).expect("nothing holds the disk any more");
    }
}
