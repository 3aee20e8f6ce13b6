//! Figures for whoever works on the device: `cargo test --release -- --ignored --nocapture block::tests::throughput`.
#![allow(unsafe_code, reason = "io_uring beside the device")]

use super::*;
use crate::device::block::Disk;
use hv_abi::io::block::OP_READ;
use io_uring::{IoUring, opcode, types};
use mio::{Events, Poll};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

const SIZE: u64 = 256 << 20;

fn offset(n: u64, len: u64) -> u64 {
    let blocks = SIZE / len;
    if len == 4096 { (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % blocks * len } else { n % blocks * len }
}

/// Reads a second by the host's own io_uring.
fn host(file: &File, len: u32, depth: u32, count: u64) -> f64 {
    let mut ring = IoUring::new(depth).unwrap();
    ring.submitter().register_files(&[file.as_raw_fd()]).unwrap();
    let mut buffers = vec![vec![1u8; len as usize]; depth as usize];
    let (mut sent, mut got) = (0, 0);
    let mut free: Vec<usize> = (0..depth as usize).collect();
    let start = Instant::now();
    while got < count {
        while sent < count
            && let Some(slot) = free.pop()
        {
            let entry = opcode::Read::new(types::Fixed(0), buffers[slot].as_mut_ptr(), len)
                .offset(offset(sent, len.into()))
                .build()
                .user_data(slot as u64);
            // SAFETY: a buffer belongs to one request at a time, and all are waited for.
            unsafe { ring.submission().push(&entry).unwrap() };
            sent += 1;
        }
        ring.submit_and_wait(1).unwrap();
        for completion in ring.completion() {
            assert_eq!(completion.result(), len as i32);
            free.push(completion.user_data() as usize);
            got += 1;
        }
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// Processor time of this thread.
fn worked() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds of processor time for a read when one thread is guest and device by
/// turns: what the device costs, without the two waiting for each other.
fn alone(path: &Path, len: u32, depth: u32, count: u64) -> f64 {
    let spec = DiskSpec { read_only: true, ..DiskSpec::new(path) };
    let mut rig = Rig::spinning(Disk::open(&spec).unwrap(), EngineKind::Auto, Duration::ZERO);
    let start = worked();
    for round in 0..count / u64::from(depth) {
        let mut requests = [BlockRequest::default(); ENTRIES as usize];
        for (i, request) in requests[..depth as usize].iter_mut().enumerate() {
            let sector = offset(round * u64::from(depth) + i as u64, len.into()) / 512;
            *request =
                BlockRequest { id: i as u64, op: OP_READ, segment_count: 1, sector, ..Default::default() };
            request.segments[0] = segment(DATA + i as u64 * u64::from(len), len);
        }
        rig.push(&requests[..depth as usize]);
        assert!(rig.wait(depth as usize).iter().all(|response| response.status == 0));
    }
    (worked() - start) / count as f64
}

/// Reads a second by a guest: this thread is its vCPU, another one the reactor.
fn guest(path: &Path, kind: EngineKind, len: u32, depth: u32, count: u64) -> f64 {
    let Rig { mut device, mut front, doorbell, .. } =
        Rig::with(Disk::open(&DiskSpec { read_only: true, ..DiskSpec::new(path) }).unwrap(), kind);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let reactor = std::thread::Builder::new()
        .name("reactor".into())
        .spawn(move || {
            let mut poll = Poll::new().unwrap();
            let mut events = Events::with_capacity(8);
            device.start(crate::reactor::Registrar::new(poll.registry(), 0).unwrap()).unwrap();
            let (mut next, mut calls) = (device.poll(Instant::now()), 0u64);
            while !stopped.load(Ordering::Relaxed) {
                let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
                let _ = poll.poll(&mut events, Some(timeout.unwrap_or(Duration::from_millis(100))));
                for event in &events {
                    device.ready(event.token().0 as u32, event);
                }
                next = device.poll(Instant::now());
                calls += 1;
            }
            calls
        })
        .unwrap();
    let (mut sent, mut got, mut rung) = (0, 0, 0u64);
    let mut free: Vec<u64> = (0..depth.into()).collect();
    let mut room = false;
    let start = Instant::now();
    while got < count {
        while sent < count
            && let Some(slot) = free.pop()
        {
            let mut request = BlockRequest {
                id: slot,
                op: OP_READ,
                segment_count: 1,
                sector: offset(sent, len.into()) / 512,
                ..Default::default()
            };
            request.segments[0] = segment(DATA + slot * u64::from(len), len);
            assert_eq!(front.requests.push(&[request]).unwrap(), 1);
            sent += 1;
        }
        if front.requests.publish() | std::mem::take(&mut room) {
            rung += 1;
            doorbell.write(1).unwrap();
        }
        while let Some(response) = front.responses.pop_one().unwrap() {
            assert_eq!(response.status, 0);
            free.push(response.id);
            got += 1;
        }
        room = front.responses.release();
        std::hint::spin_loop();
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let _ = doorbell.write(1);
    let calls = reactor.join().unwrap();
    if std::env::var_os("VERBOSE").is_some() {
        println!("    {kind:?}: {rung} doorbells, {calls} calls");
    }
    rate
}

#[test]
#[ignore = "a measurement that asserts no time: run with --release -- --ignored --nocapture"]
fn cached_reads_beside_those_of_the_host() {
    let folder = folder();
    let path = file(&folder, &pattern(1, SIZE as usize));
    let disk = File::open(&path).unwrap();
    for (len, depth, count) in [(4096, 32, 100_000), (4096, 1, 20_000), (1 << 20, 4, 500), (1 << 20, 1, 500)]
    {
        // The best of several, since the machine has other work too.
        let best = |run: &dyn Fn() -> f64| (0..7).map(|_| run()).fold(0.0, f64::max);
        let host_alone = best(&|| {
            let start = worked();
            host(&disk, len, depth, count);
            count as f64 / (worked() - start)
        });
        let device_alone = best(&|| 1.0 / alone(&path, len, depth, count));
        println!(
            "{len:8} bytes, depth {depth:2}: processor time, host {:7.0} ns, device {:7.0} ns = {:.2}",
            1e9 / host_alone,
            1e9 / device_alone,
            device_alone / host_alone
        );
        let host = best(&|| host(&disk, len, depth, count));
        for kind in engines() {
            let guest = best(&|| guest(&path, kind, len, depth, count));
            println!(
                "{len:8} bytes, depth {depth:2}: host {host:9.0}/s, {kind:?} {guest:9.0}/s = {:.2}",
                guest / host
            );
        }
    }
}

#[test]
#[ignore = "a measurement that asserts no time: run with --release -- --ignored --nocapture"]
fn folders() {
    for (files, len) in [(0, 0), (10, 10_000), (1000, 1000), (10_000, 100), (16, 16 << 20)] {
        let folder = folder();
        for i in 0..files {
            std::fs::write(folder.path().join(format!("{i} is the name of a file.txt")), pattern(i, len))
                .unwrap();
        }
        let start = Instant::now();
        Disk::open(&DiskSpec::new(folder.path())).unwrap();
        println!("{files:6} files of {len:8} bytes: {:?}", start.elapsed());
    }
}
