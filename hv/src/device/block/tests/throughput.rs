//! Figures for whoever works on the device: `cargo test --release -- --ignored --nocapture block::tests::throughput`.

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

/// Reads a second by a guest: this thread is its vCPU, another one the reactor.
fn guest(path: &Path, kind: EngineKind, len: u32, depth: u32, count: u64) -> f64 {
    let Rig { mut device, mut front, doorbell, .. } =
        Rig::with(Disk::open(&DiskSpec { read_only: true, ..DiskSpec::new(path) }).unwrap(), kind);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let reactor = std::thread::spawn(move || {
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
    });
    let (mut sent, mut got, mut rung) = (0, 0, 0u64);
    let mut free: Vec<u64> = (0..depth.into()).collect();
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
        if front.requests.publish() {
            rung += 1;
            doorbell.write(1).unwrap();
        }
        while let Some(response) = front.responses.pop_one().unwrap() {
            assert_eq!(response.status, 0);
            free.push(response.id);
            got += 1;
        }
        let _ = front.responses.release();
        std::hint::spin_loop();
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let _ = doorbell.write(1);
    let calls = reactor.join().unwrap();
    println!("    {kind:?}: {rung} doorbells, {calls} calls");
    rate
}

#[test]
#[ignore = "prints figures"]
fn cached_reads_beside_those_of_the_host() {
    let folder = folder();
    let path = file(&folder, &pattern(1, SIZE as usize));
    let disk = File::open(&path).unwrap();
    for (len, depth, count) in
        [(4096, 32, 400_000), (4096, 1, 50_000), (1 << 20, 4, 2_000), (1 << 20, 1, 2_000)]
    {
        host(&disk, len, depth, count / 4);
        let host = host(&disk, len, depth, count);
        for kind in engines() {
            let guest = guest(&path, kind, len, depth, count);
            println!(
                "{len:8} bytes, depth {depth:2}: host {host:9.0}/s, {kind:?} {guest:9.0}/s = {:.2}",
                guest / host
            );
        }
    }
}
