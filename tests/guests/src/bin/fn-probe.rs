//! ⚠ A function whose path says what it does: it answers, it dies, it hides and seeks.
#![no_std]
#![no_main]

use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_guest::abi::Errno;
use hv_guest::abi::device::{FUNCTION, RingInfo};
use hv_guest::abi::io::function::{BODY_MAX, FrameHeader, HEAD_MAX};
use hv_guest::abi::ring::REQUEST_SLOTS;
use hv_guest::embassy_time::Timer;
use hv_guest::function::{self, CloseCode, Error, IntoResponse, Message, Request, Response, ServeError};
use hv_guest::prelude::*;
use hv_guest::{block, devices, hypercall, random, time};

#[path = "../hide.rs"]
mod hide;

use hide::{Registers, Secret, hide, seek};

/// Requests that this instance has been given.
static COUNT: AtomicU64 = AtomicU64::new(0);

#[hv_guest::entry]
async fn main() -> Result<(), ServeError> {
    println!("fn-probe: up");
    function::serve(async |request: Request<'_>| {
        let registers = Registers::read();
        COUNT.fetch_add(1, Ordering::Relaxed);
        answer(request, &registers).await
    })
    .await
}

/// Reads the first sector of a disk, and writes it if that may be.
fn disk(n: usize) -> String {
    let Some(disk) = hv_guest::block::disk(n) else { return "none\n".into() };
    let mut sector = vec![0; disk.sector_size()];
    let read = disk.read_blocking(0, &mut sector);
    let first = sector[0];
    sector[0] = 0xee;
    let written = if disk.read_only() { Ok(()) } else { disk.write_blocking(0, &sector) };
    format!("{read:?} {first} {written:?}\n")
}

/// A path without that of the tenant before it.
fn without_tenant(path: &str) -> &str {
    let inner = ["/shop", "/blog"].iter().find_map(|tenant| path.strip_prefix(tenant));
    inner.filter(|inner| inner.starts_with('/')).unwrap_or(path)
}

async fn answer(mut request: Request<'_>, registers: &Registers) -> Result<Response, Error> {
    let number = |name: &str, default: u64| {
        request.param(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(default)
    };
    Ok(match without_tenant(request.path()) {
        "/" | "/ok" => "ok\n".into_response(),
        "/method" => format!("{}\n", request.method()).into_response(),
        "/headers" => headers(&request).into_response(),
        "/echo" => return echo(request).await,
        "/length" => format!("{}\n", request.read_to_vec(1 << 30).await?.len()).into_response(),
        "/big" => {
            let count = number("n", 1 << 20);
            return big(request, count).await;
        }
        // A stream that declares one length and may have another.
        "/declared" => {
            let (declared, sent) = (number("n", 10), number("sent", 10));
            return declares(request, declared, sent).await;
        }
        "/trailers" => {
            let mut stream = request.stream(Response::new(200).header("Trailer", "X-Sum"));
            stream.write_all(b"part").await?;
            stream.flush().await?;
            stream.write_all(b" and part").await?;
            stream.finish().trailer("X-Sum", "7")
        }
        "/websocket" => return websocket(request).await,
        // A message of gRPC back, and its status behind it.
        "/probe.Probe/Echo" => return grpc(request).await,
        // A complete answer of so many bytes.
        "/whole" => vec![b'w'; number("n", 10) as usize].into_response(),
        "/slow" => {
            let (every, count) = (number("ms", 10), number("n", 10));
            return slow(request, every, count).await;
        }
        path if path.ends_with("/work") => format!("{}\n", work(number("n", 1_000_000))).into_response(),
        path if path.ends_with("/nap") => {
            Timer::after_millis(number("ms", 100)).await;
            "napped\n".into_response()
        }
        path if path.ends_with("/disk") => disk(number("n", 0) as usize).into_response(),
        "/status" => Response::status(number("code", 200) as u16),
        // The body is not looked at; the host has to bear it.
        "/early" => "early\n".into_response(),
        "/half" => return half(request).await,
        "/fail" => return Err(Error::NoMemory),
        "/crash" => {
            // SAFETY: none: address 0 is not mapped, and the guest is to die of it.
            unsafe { write_volatile(core::ptr::without_provenance_mut::<u8>(core::hint::black_box(0)), 1) };
            "survived\n".into_response()
        }
        "/panic" => panic!("asked to"),
        // Where its code lies.
        "/address" => format!("{:#x}\n", (hex as fn(&[u8]) -> String) as usize).into_response(),
        "/hang" => loop {
            core::hint::spin_loop();
        },
        "/sleep" => {
            Timer::after_millis(number("ms", 100)).await;
            "slept\n".into_response()
        }
        "/garbage" => {
            let kind = request.param("kind").unwrap_or_default().into_owned();
            garbage(&kind)
        }
        "/oom" => oom(),
        "/exit" => hv_guest::exit(number("code", 0) as u8),
        "/print" => {
            for _ in 0..number("n", 1) {
                println!("{}", request.param("text").as_deref().unwrap_or("printed"));
            }
            print!("{}", request.param("open").as_deref().unwrap_or_default());
            "printed\n".into_response()
        }
        "/random" => {
            let mut bytes = [0; 32];
            random::fill(&mut bytes);
            hex(&bytes).into_response()
        }
        "/generation" => hex(&hv_guest::generation()).into_response(),
        "/time" => format!("{} {}\n", time::wall_nanos(), time::now_nanos()).into_response(),
        "/count" => format!("{}\n", COUNT.load(Ordering::Relaxed)).into_response(),
        "/env" => {
            env::vars().map(|(key, value)| format!("{key}={value}\n")).collect::<String>().into_response()
        }
        path if path.ends_with("/touch") => touch(number("pages", 1) as usize).into_response(),
        "/segments" => {
            spoil_segments();
            "spoiled\n".into_response()
        }
        "/secret" => {
            let secret = Secret::new(number("n", 1));
            hide(&secret).into_response()
        }
        // Shows that what is hidden can be found at all.
        "/hide-and-seek" => {
            let secret = Secret::new(number("n", 1));
            hide(&secret);
            seek(&secret, &Registers::read()).into_response()
        }
        "/find" => {
            let secret = Secret::new(number("n", 1));
            seek(&secret, registers).into_response()
        }
        // May keep its disk for a while after that.
        "/read" => match read(number("at", 0)).await {
            Ok(byte) => {
                Timer::after_millis(number("ms", 0)).await;
                format!("{byte}\n").into_response()
            }
            Err(errno) => (500, format!("{errno:?}\n")).into_response(),
        },
        // Answers before the disk does.
        "/read-on" => {
            let at = number("at", 0);
            hv_guest::spawn(async move {
                let _ = read(at).await;
            });
            Timer::after_millis(1).await;
            "reading\n".into_response()
        }
        _ => Response::status(404),
    })
}

/// Computes so many steps.
fn work(steps: u64) -> u64 {
    let mut state = core::hint::black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    core::hint::black_box(state)
}

/// Loads what ring 3 may load into the data segments: nothing.
fn spoil_segments() {
    // SAFETY: in 64-bit mode nothing is addressed by these but thread-local storage, which guests have none of.
    unsafe {
        core::arch::asm!("mov ds, {0:e}", "mov es, {0:e}", "mov fs, {0:e}", "mov gs, {0:e}", in(reg) 0, options(nostack));
    }
}

/// The first byte of 4096 that are read from the first disk, at the place of this number.
async fn read(place: u64) -> Result<u8, Errno> {
    let disk = block::disk(0).ok_or(Errno::NotSupported)?;
    let sectors = 4096 / disk.sector_size() as u64;
    let mut bytes = vec![1; 4096];
    disk.read(place % (disk.size() / 4096) * sectors, &mut bytes[..]).await?;
    Ok(bytes[0])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n"
}

fn headers(request: &Request<'_>) -> String {
    let line = |(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value));
    format!("{} {}\n", request.method(), request.target()) + &request.headers().map(line).collect::<String>()
}

/// Streams the body back as it comes.
async fn echo(mut request: Request<'_>) -> Result<Response, Error> {
    let content_type = request.header("content-type").unwrap_or("application/octet-stream");
    let mut stream = request.stream(Response::new(200).header("Content-Type", content_type));
    let mut bytes = vec![0; 16 << 10];
    while let count @ 1.. = stream.read(&mut bytes).await? {
        stream.write_all(&bytes[..count]).await?;
    }
    Ok(stream.finish())
}

/// Streams bytes whose values tell their places.
async fn big(mut request: Request<'_>, count: u64) -> Result<Response, Error> {
    let mut stream = request.stream(Response::new(200));
    let mut bytes = vec![0; 32 << 10];
    let mut at = 0;
    while at < count {
        let piece = &mut bytes[..(count - at).min(32 << 10) as usize];
        (at..).zip(&mut *piece).for_each(|(at, byte)| *byte = (at * 7 + at / 251 + at / 65_521) as u8);
        stream.write_all(piece).await?;
        at += piece.len() as u64;
    }
    Ok(stream.finish())
}

/// Streams so many bytes behind a head that declares others, slowly enough for the host to look in between.
async fn declares(mut request: Request<'_>, declared: u64, sent: u64) -> Result<Response, Error> {
    let head = Response::new(200).header("Content-Length", &declared.to_string());
    let mut stream = request.stream(head);
    for _ in 0..sent {
        stream.write_all(b"d").await?;
        stream.flush().await?;
    }
    Ok(stream.finish())
}

/// Says back what it hears, until it hears what it is to do.
async fn websocket(mut request: Request<'_>) -> Result<Response, Error> {
    let Some(mut socket) = request.websocket(64 << 10) else { return Ok(Response::status(426)) };
    while let Some(message) = socket.receive().await? {
        match &message {
            Message::Text(text) if text == "close" => socket.close(CloseCode::NORMAL).await?,
            Message::Text(text) if text == "panic" => panic!("asked to"),
            Message::Text(text) if text == "flood" => {
                for _ in 0..1000 {
                    socket.send_binary(&[7; 4096]).await?;
                }
            }
            _ => socket.send(&message).await?,
        }
    }
    Ok(socket.finish())
}

/// Streams each message of gRPC back as it comes: what is sent is what was received.
async fn grpc(mut request: Request<'_>) -> Result<Response, Error> {
    let mut stream = request.stream(Response::new(200).header("Content-Type", "application/grpc"));
    let mut bytes = vec![0; 4096];
    let mut failing = false;
    while let count @ 1.. = stream.read(&mut bytes).await? {
        failing |= bytes[..count].windows(4).any(|part| part == b"fail");
        stream.write_all(&bytes[..count]).await?;
        stream.flush().await?;
    }
    let status = if failing { ("9", "asked to") } else { ("0", "") };
    Ok(stream.finish().trailer("grpc-status", status.0).trailer("grpc-message", status.1))
}

/// Streams a line every few milliseconds.
async fn slow(mut request: Request<'_>, every: u64, count: u64) -> Result<Response, Error> {
    let mut stream = request.stream(Response::new(200).header("Content-Type", "text/plain"));
    for n in 0..count {
        stream.write_all(format!("line {n}\n").as_bytes()).await?;
        Timer::after_millis(every).await;
    }
    Ok(stream.finish())
}

/// Gives up in the middle of an answer.
async fn half(mut request: Request<'_>) -> Result<Response, Error> {
    let mut stream = request.stream(Response::new(200));
    stream.write_all(b"half of it").await?;
    Err(Error::NoMemory)
}

fn oom() -> Response {
    let mut taken = Vec::new();
    loop {
        taken.push(Box::new([core::hint::black_box(1u8); 4096]));
    }
}

fn touch(pages: usize) -> String {
    let mut memory = Vec::<u8>::with_capacity(pages * 4096);
    let start = memory.spare_capacity_mut();
    for page in start.chunks_mut(4096) {
        page[0].write(1);
        core::hint::black_box(page);
    }
    format!("{pages}\n")
}

/// Breaks the protocol of frames, behind the SDK's back.
fn garbage(kind: &str) -> Response {
    let frame = |kind: u32, len: u32, bytes: &[u8]| {
        let mut frame = Vec::new();
        frame.extend(FrameHeader { kind, len }.kind.to_le_bytes());
        frame.extend(len.to_le_bytes());
        frame.extend(bytes);
        frame
    };
    let head = frame(1, 19, b"HTTP/1.1 200 OK\r\n\r\n");
    let bytes = match kind {
        "kind" => frame(9, 0, b""),
        "zero" => vec![0; 64],
        "ones" => vec![0xff; 64],
        "empty-head" => frame(1, 0, b""),
        "long-head" => frame(1, HEAD_MAX + 1, b"HTTP/1.1"),
        "no-http" => frame(1, 8, b"nonsense"),
        "bare-head" => frame(1, 17, b"HTTP/1.1 200 OK\r\n"),
        "status" => frame(1, 19, b"HTTP/1.1 9zz OK\r\n\r\n"),
        "interim" => frame(1, 25, b"HTTP/1.1 100 Continue\r\n\r\n"),
        "binary-head" => frame(1, 26, b"HTTP/1.1 200 OK\r\nA: \x00\x01\r\n\r\n"),
        "body-first" => frame(2, 4, b"body"),
        "end-first" => frame(3, 0, b""),
        "cancel" => [&head[..], &frame(4, 0, b"")].concat(),
        "two-heads" => [&head[..], &head].concat(),
        "empty-body" => [&head[..], &frame(2, 0, b"")].concat(),
        "long-body" => [&head[..], &frame(2, BODY_MAX + 1, b"body")].concat(),
        "long-end" => [&head[..], &frame(3, 4, b"more")].concat(),
        "after-end" => [&head[..], &frame(3, 0, b""), &frame(2, 4, b"more")].concat(),
        "trailers-first" => frame(5, 6, b"a: b\r\n"),
        "no-trailers" => [&head[..], &frame(5, 4, b"none")].concat(),
        "two-trailers" => [&head[..], &frame(5, 6, b"a: b\r\n"), &frame(5, 6, b"a: b\r\n")].concat(),
        "body-behind" => [&head[..], &frame(5, 6, b"a: b\r\n"), &frame(2, 4, b"more")].concat(),
        "half-frame" => [&head[..], &frame(2, 1000, b"that is all")].concat(),
        "half-header" => head[..3].to_vec(),
        "index" => {
            publish(1 << 30);
            Vec::new()
        }
        "back" => {
            publish(u32::MAX);
            Vec::new()
        }
        _ => return (400, "no such garbage\n").into_response(),
    };
    push(&bytes);
    // The host ends the guest, or waits for the rest until its time limit.
    loop {
        hypercall::block(u64::MAX);
    }
}

fn function_ring() -> RingInfo {
    devices().find(|device| device.kind == FUNCTION).expect("a function has its device").rings[0]
}

/// Adds to the index of what was published, and rings.
fn publish(more: u32) {
    let ring = function_ring();
    let index = ring.address.0 as *mut u32;
    // SAFETY: the first word of the ring, which is this guest's to write.
    unsafe { write_volatile(index, read_volatile(index).wrapping_add(more)) };
    hypercall::event_send(ring.event);
}

/// Writes bytes into the ring of the function device and publishes them.
fn push(bytes: &[u8]) {
    let ring = function_ring();
    let start = ring.address.0 as usize;
    // SAFETY: inside the ring; the SDK is not touching it meanwhile.
    unsafe {
        let index = read_volatile(start as *const u32) as usize;
        for (n, byte) in bytes.iter().enumerate() {
            let slot = (index + n) % ring.requests as usize;
            write_volatile((start + REQUEST_SLOTS + slot) as *mut u8, *byte);
        }
    }
    publish(bytes.len() as u32);
}
