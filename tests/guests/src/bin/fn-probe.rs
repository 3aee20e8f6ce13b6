//! ⚠ A function whose path says what it does: it answers, it dies, it hides and seeks.
#![no_std]
#![no_main]

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_guest::abi::device::{DeviceInfo, FUNCTION, RingInfo};
use hv_guest::abi::io::function::{BODY_MAX, FrameHeader, HEAD_MAX};
use hv_guest::abi::ring::{Layout, REQUEST_SLOTS};
use hv_guest::embassy_time::Timer;
use hv_guest::function::{self, Error, IntoResponse, Request, Response, ServeError};
use hv_guest::prelude::*;
use hv_guest::{hypercall, random, rt, time};

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

async fn answer(mut request: Request<'_>, registers: &Registers) -> Result<Response, Error> {
    let number = |name: &str, default: u64| {
        request.param(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(default)
    };
    Ok(match request.path() {
        "/" | "/ok" => "ok\n".into_response(),
        "/method" => format!("{}\n", request.method()).into_response(),
        "/headers" => headers(&request).into_response(),
        "/echo" => return echo(request).await,
        "/length" => format!("{}\n", request.read_to_vec(1 << 30).await?.len()).into_response(),
        "/big" => {
            let count = number("n", 1 << 20);
            return big(request, count).await;
        }
        "/slow" => {
            let (every, count) = (number("ms", 10), number("n", 10));
            return slow(request, every, count).await;
        }
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
            println!("{}", request.param("text").as_deref().unwrap_or("printed"));
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
        "/touch" => touch(number("pages", 1) as usize).into_response(),
        "/secret" => {
            let secret = Secret::new(number("n", 1));
            hide(&secret).into_response()
        }
        "/find" => {
            let secret = Secret::new(number("n", 1));
            seek(&secret, registers).into_response()
        }
        _ => Response::status(404),
    })
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

fn devices() -> impl Iterator<Item = &'static DeviceInfo> {
    let info = rt::start_info();
    (0..u64::from(info.device_count)).map(move |n| {
        let address = info.devices.0 + n * u64::from(info.device_stride);
        // SAFETY: the host's device table, mapped for good.
        unsafe { &*(address as *const DeviceInfo) }
    })
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
    // The host ends the guest, or waits for the rest until its patience does.
    loop {
        hypercall::block(u64::MAX);
    }
}

fn function_ring() -> &'static RingInfo {
    &devices().find(|device| device.kind == FUNCTION).expect("a function has its device").rings[0]
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

/// A word to be hidden. Who seeks it never has it: it knows a word by what it becomes.
struct Secret {
    image: u64,
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// `FACTOR * INVERSE == 1`, modulo 2^64.
const INVERSE: u64 = {
    let mut inverse = 1u64;
    let mut round = 0;
    // Newton's iteration: each round doubles the bits that are right.
    while round < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(FACTOR.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
};

impl Secret {
    fn new(n: u64) -> Self {
        // SplitMix64's finaliser.
        let n = (n ^ n >> 30).wrapping_add(FACTOR).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Secret { image: core::hint::black_box(n ^ n >> 31) }
    }

    fn word(&self) -> u64 {
        self.image.wrapping_mul(INVERSE)
    }

    fn is(&self, word: u64) -> bool {
        core::hint::black_box(word.wrapping_mul(FACTOR)) == self.image
    }

    /// Writes it over and over. Returns the bytes written.
    fn write(&self, start: usize, end: usize) -> usize {
        let word = self.word();
        for address in (start.next_multiple_of(8)..end & !7).step_by(8) {
            // SAFETY: the callers name memory that is theirs or nobody's.
            unsafe { write_volatile(address as *mut u64, word) };
        }
        end.saturating_sub(start)
    }

    fn count(&self, start: usize, end: usize) -> usize {
        (start.next_multiple_of(8)..end & !7)
            .step_by(8)
            // SAFETY: the callers name memory that is mapped for good.
            .filter(|address| self.is(unsafe { read_volatile(*address as *const u64) }))
            .count()
    }
}

/// A part of the image that is all zero at the start.
static mut BSS: [u64; 8192] = [0; 8192];

fn bss() -> (usize, usize) {
    let start = (&raw mut BSS) as usize;
    (start, start + size_of::<[u64; 8192]>())
}

/// Slots of rings that nothing has used yet: those behind the first 8 KiB of long queues.
fn unused_slots() -> impl Iterator<Item = (usize, usize)> {
    const USED: usize = 8 << 10;
    devices().filter(|device| device.kind == FUNCTION || device.kind == 1).flat_map(|device| {
        let ring = &device.rings[0];
        let start = ring.address.0 as usize;
        let layout = Layout::new::<u8, u8>(ring.requests, ring.responses).expect("the host's ring");
        let used = |index: usize| {
            // SAFETY: an index of the ring.
            (unsafe { read_volatile((start + index) as *const u32) }) as usize > USED
        };
        let requests = (start + REQUEST_SLOTS + USED, start + REQUEST_SLOTS + ring.requests as usize);
        let responses = (start + layout.response_slots() + USED, start + layout.size());
        [(used(0), requests), (used(64), responses)]
            .into_iter()
            .filter(|(used, (start, end))| !used && start < end)
            .map(|(_, range)| range)
    })
}

fn shared_spare() -> (usize, usize) {
    let page = rt::start_info().shared_info.0 as usize;
    (page + 368, page + 4096)
}

/// Some address of the stack's unused part, near its end.
#[inline(never)]
fn below() -> usize {
    let here = 0u8;
    (core::hint::black_box(&raw const here) as usize) - 4096
}

/// Hides a word everywhere: free heap, unused stack, zeroed data, unused slots
/// of rings, the rest of shared-info, vector registers.
fn hide(secret: &Secret) -> String {
    let mut report = String::new();
    let mut taken: Vec<Vec<u64>> = Vec::with_capacity(64);
    let (mut heap, mut words) = (0, rt::start_info().heap_size as usize / 8);
    while words >= 8 && taken.len() < taken.capacity() {
        let mut memory = Vec::<u64>::new();
        if memory.try_reserve_exact(words).is_ok() {
            let start = memory.as_mut_ptr() as usize;
            heap += secret.write(start, start + words * 8);
            taken.push(memory);
        } else {
            words /= 2;
        }
    }
    drop(taken);
    report += &format!("heap {heap}\n");
    let stack = secret.write(rt::start_info().stack_base.0 as usize, below());
    report += &format!("stack {stack}\n");
    report += &format!("data {}\n", secret.write(bss().0, bss().1));
    report +=
        &format!("rings {}\n", unused_slots().map(|(start, end)| secret.write(start, end)).sum::<usize>());
    report += &format!("shared-info {}\n", secret.write(shared_spare().0, shared_spare().1));
    Registers::write(secret.word());
    report
}

/// Looks everywhere for a word, what is in use included. Prints where it is how often.
fn seek(secret: &Secret, registers: &Registers) -> String {
    let info = rt::start_info();
    let range = |start: u64, len: u64| secret.count(start as usize, (start + len) as usize);
    let found = [
        ("heap", range(info.heap_base.0, info.heap_size)),
        ("stack", range(info.stack_base.0, info.stack_size)),
        ("data", secret.count(bss().0, bss().1)),
        (
            "rings",
            devices()
                .flat_map(|device| device.rings)
                .filter(|ring| ring.address.0 != 0)
                .filter_map(|ring| {
                    Some((ring.address.0, Layout::new::<u8, u8>(ring.requests, ring.responses)?))
                })
                .map(|(start, layout)| range(start, layout.size() as u64))
                .sum(),
        ),
        ("shared-info", range(info.shared_info.0, 4096)),
        ("registers", registers.words().filter(|word| secret.is(*word)).count()),
    ];
    found.iter().map(|(place, count)| format!("{place} {count}\n")).collect()
}

/// The vector and floating-point registers: XMM0 to 15, MM0 to 7.
struct Registers {
    xmm: [u64; 32],
    mm: [u64; 8],
}

impl Registers {
    #[inline(always)]
    fn read() -> Self {
        let mut registers = Registers { xmm: [0; 32], mm: [0; 8] };
        // SAFETY: writes the two arrays; EMMS leaves the x87 registers empty, as they have to be.
        unsafe {
            asm!(
                "movups [{x}], xmm0", "movups [{x} + 16], xmm1", "movups [{x} + 32], xmm2",
                "movups [{x} + 48], xmm3", "movups [{x} + 64], xmm4", "movups [{x} + 80], xmm5",
                "movups [{x} + 96], xmm6", "movups [{x} + 112], xmm7", "movups [{x} + 128], xmm8",
                "movups [{x} + 144], xmm9", "movups [{x} + 160], xmm10", "movups [{x} + 176], xmm11",
                "movups [{x} + 192], xmm12", "movups [{x} + 208], xmm13", "movups [{x} + 224], xmm14",
                "movups [{x} + 240], xmm15",
                "movq [{m}], mm0", "movq [{m} + 8], mm1", "movq [{m} + 16], mm2", "movq [{m} + 24], mm3",
                "movq [{m} + 32], mm4", "movq [{m} + 40], mm5", "movq [{m} + 48], mm6", "movq [{m} + 56], mm7",
                "emms",
                x = in(reg) &raw mut registers.xmm,
                m = in(reg) &raw mut registers.mm,
                out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
                out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
                options(nostack),
            );
        }
        registers
    }

    /// Writes them. What the compiler uses afterwards is lost again, the rest stays.
    #[inline(always)]
    fn write(word: u64) {
        // SAFETY: every register that changes is named.
        unsafe {
            asm!(
                "movq xmm0, {w}", "punpcklqdq xmm0, xmm0",
                "movaps xmm1, xmm0", "movaps xmm2, xmm0", "movaps xmm3, xmm0", "movaps xmm4, xmm0",
                "movaps xmm5, xmm0", "movaps xmm6, xmm0", "movaps xmm7, xmm0", "movaps xmm8, xmm0",
                "movaps xmm9, xmm0", "movaps xmm10, xmm0", "movaps xmm11, xmm0", "movaps xmm12, xmm0",
                "movaps xmm13, xmm0", "movaps xmm14, xmm0", "movaps xmm15, xmm0",
                "movq mm0, {w}", "movq mm1, {w}", "movq mm2, {w}", "movq mm3, {w}",
                "movq mm4, {w}", "movq mm5, {w}", "movq mm6, {w}", "movq mm7, {w}",
                "emms",
                w = in(reg) word,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
                out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
                options(nomem, nostack),
            );
        }
    }

    fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.xmm.iter().chain(&self.mm).copied()
    }
}
