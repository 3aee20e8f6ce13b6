//! A guest that tries what the SDK and the host promise; the argument says what.
#![no_std]
#![no_main]

use core::mem::offset_of;
use hv_guest::abi::shared_info::SharedInfo;
use hv_guest::block::{self, Disk};
use hv_guest::embassy_futures::join::join;
use hv_guest::embassy_time;
use hv_guest::embedded_io_async::Write;
use hv_guest::net::{self, IpEndpoint, Stack, TcpSocket};
use hv_guest::prelude::*;
use hv_guest::{block_on, fs, hypercall, log, random, start_info, time};

#[hv_guest::entry]
fn main() -> u8 {
    let mut args = env::args().skip(1);
    let what = args.next().unwrap_or("");
    match what {
        "exit" => return args.next().and_then(|code| code.parse().ok()).unwrap_or(0),
        "env" => env::vars().for_each(|(key, value)| println!("{key}={value}")),
        "args" => env::args().for_each(|argument| println!("<{argument}>")),
        "memory-routines" => memory_routines(),
        "heap" => heap(),
        "clock" => clock(),
        "random" => random_numbers(),
        "lines" => (0..args.next().and_then(|n| n.parse().ok()).unwrap_or(1000u32))
            .for_each(|n| println!("line {n}")),
        "streams" => streams(),
        "error-lines" => (0..args.next().and_then(|n| n.parse().ok()).unwrap_or(1000u32))
            .for_each(|n| eprintln!("line {n}")),
        "hypercalls" => return hypercalls(args.next().and_then(|n| n.parse().ok()).unwrap_or(1000)),
        "doorbells" => doorbells(args.next().and_then(|n| n.parse().ok()).unwrap_or(1000)),
        "tasks" => tasks(),
        "disks" => disks(),
        "disk-errors" => disk_errors(),
        "disk-log" => disk_log(),
        "files" => files(),
        "net-get" | "net-udp" | "net-echo" | "net-resolve" | "net-follow" | "net-longest" => {
            return network(what, &args.collect::<Vec<_>>());
        }
        _ => {
            println!("no such probe: {what}");
            return 2;
        }
    }
    0
}

/// Tasks that wait, each for something else; one that has ended, and one that has not begun.
fn tasks() {
    block_on(async {
        hv_guest::spawn(async {});
        hv_guest::spawn(hv_guest::shutdown());
        hv_guest::spawn(embassy_time::Timer::after_secs(100_000));
        hv_guest::executor::yield_now().await;
        hv_guest::spawn(core::future::pending());
        println!("waiting");
        // The last one runs when this one has to wait.
        core::future::pending::<()>().await;
    });
}

/// Copies, fills and compares of every length and overlap against loops by the byte.
fn memory_routines() {
    const LEN: usize = 700;
    let pattern: Vec<u8> = (0..2 * LEN).map(|n| (n * 7 + n / 256) as u8).collect();
    for len in (0..LEN).filter(|len| *len < 80 || len % 17 == 0) {
        for (from, to) in [(0, 0), (0, 1), (1, 0), (0, 13), (13, 0), (3, 67), (67, 3), (0, 600), (600, 0)] {
            let mut ours = pattern.clone();
            ours.copy_within(from..from + len, to);
            for at in 0..ours.len() {
                let expected =
                    if (to..to + len).contains(&at) { pattern[at - to + from] } else { pattern[at] };
                assert_eq!(ours[at], expected, "move of {len} from {from} to {to}, byte {at}");
            }
        }
        for start in [0, 1, 5, 16] {
            let mut ours = pattern.clone();
            ours[start..start + len].fill(0xa5);
            for at in 0..ours.len() {
                let expected = if (start..start + len).contains(&at) { 0xa5 } else { pattern[at] };
                assert_eq!(ours[at], expected, "fill of {len} at {start}, byte {at}");
            }
            let mut other = pattern.clone();
            assert_eq!(other[start..start + len], pattern[start..start + len]);
            for at in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|&at| at < len) {
                other[start + at] ^= 0x81;
                let expected = other[start + at].cmp(&pattern[start + at]);
                assert_eq!(other[start..start + len].cmp(&pattern[start..start + len]), expected);
                other[start + at] ^= 0x81;
            }
        }
    }
    println!("memory routines agree");
}

/// Allocates, checks and frees in an irregular order.
fn heap() {
    let mut blocks: Vec<(usize, Vec<u8>)> = Vec::new();
    for round in 0..2000usize {
        let len = (round * 7919) % 9000;
        blocks.push((round, vec![round as u8; len]));
        if blocks.len() > 200 {
            let (tag, block) = blocks.swap_remove((round * 31) % 200);
            assert!(block.iter().all(|&byte| byte == tag as u8));
        }
    }
    println!("heap holds");
}

/// A little of everything on both streams, and a text that no call of the host takes at once.
fn streams() {
    hv_guest::ready();
    println!("data");
    eprintln!("error");
    log::info!("information");
    log::debug!("detail");
    eprintln!("{}", "long ".repeat(2000));
    eprintln!();
    println!("more data");
}

fn clock() {
    let (start, wall) = (time::Instant::now(), time::wall_nanos());
    let mut last = start;
    // A host that refines its measurement of the counter's frequency does so meanwhile.
    while start.elapsed() < time::Duration::from_millis(30) {
        let now = time::Instant::now();
        assert!(now >= last);
        last = now;
    }
    time::sleep(time::Duration::from_millis(50));
    let slept = last.elapsed();
    assert!(slept >= time::Duration::from_millis(50), "slept {slept:?}");
    let host = hypercall::wall_clock();
    let guest = time::wall_nanos();
    println!("wall {guest} host {host} passed {} written {}", guest - wall, clock_version() / 2);
}

/// The number in the page of shared-info that grows by 2 whenever the host writes the clock.
fn clock_version() -> u32 {
    let address = start_info().shared_info.0 as usize + offset_of!(SharedInfo, clock);
    // SAFETY: the host mapped the page for good; the word is aligned.
    unsafe { core::ptr::read_volatile(address as *const u32) }
}

fn random_numbers() {
    let mut bytes = [0; 32];
    random::fill(&mut bytes);
    bytes.iter().for_each(|byte| print!("{byte:02x}"));
    random::reseed();
    random::fill(&mut bytes);
    bytes.iter().for_each(|byte| print!("{byte:02x}"));
    println!();
}

/// Times synchronous hypercalls; prints nanoseconds each.
fn hypercalls(count: u64) -> u8 {
    let start = time::now_nanos();
    (0..count).for_each(|_| hypercall::nop());
    println!("{}", (time::now_nanos() - start) / count.max(1));
    0
}

/// Times doorbells of the console; prints nanoseconds each.
fn doorbells(count: u64) {
    // A doorbell is bound, and cheap, once it has been rung some times.
    (0..64).for_each(|_| hypercall::event_send(hv_guest::abi::event::FIRST_DEVICE));
    let start = time::now_nanos();
    (0..count).for_each(|_| hypercall::event_send(hv_guest::abi::event::FIRST_DEVICE));
    println!("{}", (time::now_nanos() - start) / count.max(1));
}

/// Says what the disks are, and how each begins.
fn disks() {
    for (n, disk) in block::disks().enumerate() {
        let mut bytes = vec![0; disk.sector_size()];
        disk.read_blocking(0, &mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let access = if disk.read_only() { "ro" } else { "rw" };
        let start = text.split(['\0', '\n']).next().unwrap_or_default();
        println!("{n}: {} x {} {access} {start}", disk.sectors(), disk.sector_size());
    }
}

/// Says what the first disk answers to requests that it may refuse.
fn disk_errors() {
    let disk = block::disk(0).unwrap();
    let size = disk.sector_size();
    let mut sector = vec![0xee; size];
    let say = |what: &str, result: Result<(), _>| match result {
        Ok(()) => println!("{what}: done"),
        Err(errno) => println!("{what}: {errno:?}"),
    };
    say("write", disk.write_blocking(0, &sector));
    say("write-zeroes", disk.write_zeroes_blocking(0, 1));
    say("discard", disk.discard_blocking(0, 1));
    say("flush", disk.flush_blocking());
    say("read", disk.read_blocking(0, &mut sector));
    say("read at the end", disk.read_blocking(disk.sectors(), &mut sector));
    say("read far behind", disk.read_blocking(u64::MAX, &mut sector));
    say("write at the end", disk.write_blocking(disk.sectors(), &sector));
    say("read of half a sector", disk.read_blocking(0, &mut sector[..size / 2]));
    say("write-zeroes across the end", disk.write_zeroes_blocking(disk.sectors() - 1, 2));
}

/// Bytes of a record of [`disk_log`].
const RECORD: usize = 4096;

/// Writes record after record to every disk, one disk after the other, and
/// says so when one is safe on all of them.
fn disk_log() {
    let disks: Vec<Disk> = block::disks().collect();
    let room = disks.iter().map(|disk| disk.size() / RECORD as u64).min().unwrap_or(0);
    let mut record = vec![0; RECORD];
    for n in 0..room {
        for (number, disk) in disks.iter().enumerate() {
            for (at, word) in (0..).zip(record.chunks_exact_mut(8)) {
                word.copy_from_slice(&((n + 1) << 32 | at << 8 | number as u64).to_le_bytes());
            }
            disk.write_blocking(n * (RECORD / disk.sector_size()) as u64, &record).unwrap();
            disk.flush_blocking().unwrap();
        }
        println!("{n}");
    }
}

/// FNV-1a of some bytes.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Lists all files of the first disk, with length and hash.
fn files() {
    let root = fs::open_root(block::disk(0).unwrap()).unwrap();
    println!("{}", root.kind());
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in root.read_dir(&folder).unwrap() {
            let path = format!("{folder}/{}", entry.name);
            if entry.metadata.is_dir {
                println!("{path}/");
                folders.push(path);
            } else {
                let bytes = block_on(root.read(&path)).unwrap();
                println!("{path} {} {:016x}", bytes.len(), hash(&bytes));
            }
        }
    }
}

/// Talks to a server: its address or name, its port, and what else there is to say.
fn network(what: &str, arguments: &[&str]) -> u8 {
    let [host, port, rest @ ..] = arguments else { return 2 };
    let port: u16 = port.parse().unwrap();
    let rest = rest.first().copied().unwrap_or_default();
    let talk = async {
        let stack = net::up(hv_guest::executor::spawner()).await.map_err(|error| error.to_string())?;
        println!("address {}", stack.config_v4().ok_or("no address")?.address);
        let found = net::resolve(stack, host).await.map_err(|error| format!("{host}: {error}"))?;
        let server = IpEndpoint::new(found[0].into(), port);
        match what {
            "net-get" => get(stack, server).await.map_err(|error| format!("{error:?}")),
            "net-udp" => udp(stack, server, rest.as_bytes()).await,
            "net-longest" => longest(stack, server).await,
            "net-resolve" => {
                println!("{} addresses, the last is {}", found.len(), found[found.len() - 1]);
                Ok(())
            }
            "net-follow" => follow(stack, host, rest.parse().unwrap_or(1)).await,
            _ => echo(stack, server, rest.parse().unwrap_or(1)).await,
        }
    };
    match block_on(talk) {
        Ok(()) => 0,
        Err(error) => {
            println!("error: {error}");
            1
        }
    }
}

/// Asks for a name again and again, and prints each other answer, until there were so many.
async fn follow(stack: Stack<'static>, host: &str, answers: usize) -> Result<(), String> {
    let mut last = None;
    let mut left = answers;
    while left > 0 {
        let found = net::resolve(stack, host).await.map_err(|error| error.to_string())?.pop();
        if found != last {
            println!("{host} is {}", found.ok_or("no address")?);
            (last, left) = (found, left - 1);
        }
        hv_guest::embassy_time::Timer::after_millis(50).await;
    }
    Ok(())
}

/// Prints what a web server says.
async fn get(stack: Stack<'static>, server: IpEndpoint) -> Result<(), net::TcpError> {
    let (mut receive, mut send) = (vec![0; 16 << 10], vec![0; 4 << 10]);
    let mut socket = TcpSocket::new(stack, &mut receive, &mut send);
    if let Err(error) = socket.connect(server).await {
        println!("connect: {error:?}");
        return Err(net::TcpError::ConnectionReset);
    }
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut bytes = vec![0; 4096];
    loop {
        match socket.read(&mut bytes).await? {
            0 => return Ok(()),
            count => print!("{}", String::from_utf8_lossy(&bytes[..count])),
        }
    }
}

/// Sends a datagram until it is answered, and prints the answer.
async fn udp(stack: Stack<'static>, server: IpEndpoint, text: &[u8]) -> Result<(), String> {
    let socket = net::udp(stack, 5000, 4096, 4).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; 2048];
    loop {
        socket.send_to(text, server).await.map_err(|error| format!("{error:?}"))?;
        let answer = hv_guest::embassy_time::with_timeout(
            hv_guest::embassy_time::Duration::from_secs(1),
            socket.recv_from(&mut bytes),
        );
        if let Ok(Ok((count, from))) = answer.await {
            println!("{} from {}", String::from_utf8_lossy(&bytes[..count]), from.endpoint);
            return Ok(());
        }
    }
}

/// Sends a datagram that is too long, and then the longest there is.
async fn longest(stack: Stack<'static>, server: IpEndpoint) -> Result<(), String> {
    let socket = net::udp(stack, 5000, 64 << 10, 4).map_err(|error| error.to_string())?;
    let bytes = vec![7; socket.max_payload() + 1];
    println!("{} bytes: {:?}", bytes.len(), socket.send_to(&bytes, server).await);
    println!("{} bytes: {:?}", bytes.len() - 1, socket.send_to(&bytes[1..], server).await);
    let mut answer = [0; 16];
    let (count, _) = socket.recv_from(&mut answer).await.map_err(|error| format!("{error:?}"))?;
    println!("the server had {}", String::from_utf8_lossy(&answer[..count]));
    Ok(())
}

/// Sends so many MiB to a server that returns them, and compares.
async fn echo(stack: Stack<'static>, server: IpEndpoint, mib: usize) -> Result<(), String> {
    let (mut receive, mut send) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut socket = TcpSocket::new(stack, &mut receive, &mut send);
    socket.connect(server).await.map_err(|error| format!("connect: {error:?}"))?;
    let pattern = |at: usize| (at * 7 + at / 251 + at / 65_521) as u8;
    let (mut reader, mut writer) = socket.split();
    let len = mib << 20;
    let sent = async {
        let mut bytes = vec![0; 10_007];
        for start in (0..len).step_by(bytes.len()) {
            let count = bytes.len().min(len - start);
            (start..).zip(&mut bytes[..count]).for_each(|(at, byte)| *byte = pattern(at));
            writer.write_all(&bytes[..count]).await?;
        }
        writer.flush().await
    };
    let received = async {
        let (mut bytes, mut at) = (vec![0; 32 << 10], 0);
        while at < len {
            let count = reader.read(&mut bytes).await?;
            if count == 0 {
                break;
            }
            for byte in &bytes[..count] {
                assert_eq!(*byte, pattern(at), "byte {at}");
                at += 1;
            }
        }
        Ok(at)
    };
    let (sent, received) = join(sent, received).await;
    sent.map_err(|error: net::TcpError| format!("send: {error:?}"))?;
    println!("{} bytes returned", received.map_err(|error: net::TcpError| format!("receive: {error:?}"))?);
    Ok(())
}
