//! ⚠ A guest for the platform `process` that does to its process and to the stub whatever it
//! can; the arguments say what, numbers in decimal or after `0x`.
#![no_std]
#![no_main]

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};
use hv_guest::prelude::*;
use hv_guest::{hypercall, start_info};

/// The handoff page, and offsets of its fields (`hv/stub/src/lib.rs`).
const PAGE: u64 = 0x2000_0000;
const KIND: u64 = 4;
const NUMBER: u64 = 8;
const ARGUMENTS: u64 = 16;
/// Values of the page's first word, which says who has control, while the guest has it.
const GUEST: u32 = 1;
const GUEST_HOST_SLEEPS: u32 = 2;

#[hv_guest::entry]
fn main() -> u8 {
    let mut args = env::args().skip(1);
    let what = args.next().unwrap_or("");
    let mut n = [0; 7];
    for (n, text) in n.iter_mut().zip(args) {
        *n = number(text);
    }
    match what {
        "call" => println!("returned {}", call(n[0], [n[1], n[2], n[3], n[4], n[5], n[6]])),
        "call-with-memory" => println!("returned {}", call_with_memory(n[0])),
        "calls" => loop {
            call(n[0], [n[1], n[2], n[3], n[4], n[5], n[6]]);
        },
        "int80" => int80(n[0]),
        "sysenter" => sysenter(n[0]),
        "vsyscall" => vsyscall(n[0]),
        "spin" => spin(),
        "sleep" => {
            println!("{:#x}", start_info().memory_base.0 + start_info().memory_size - 4096);
            loop {
                hypercall::block(u64::MAX);
            }
        }
        "look" => look(n[0]),
        "segments" => {
            let [text, data] = segments();
            println!("{} {} {} {}", text.0, text.1, data.0, data.1);
        }
        "page" => page(n[0]),
        "turn" => turn(n[0] as u32, n[1] as u32, n[2] as u32, n[3]),
        "toggle" => toggle(),
        "scribble" => scribble(n[0], n[1], n[2]),
        "jump" => jump(n[0], n[1]),
        "stack" => stack(n[0]),
        "deaf" => deaf(),
        "doze" => doze(),
        _ => {
            println!("no such thing: {what}");
            return 2;
        }
    }
    0
}

fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.expect("the test gives numbers")
}

/// `syscall`, which only the filter keeps from doing anything.
#[inline(never)]
fn call(number: u64, arguments: [u64; 6]) -> i64 {
    let result: i64;
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: there is none; that is what is tested.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// The system call, with addresses of memory that is there and zero.
fn call_with_memory(number: u64) -> i64 {
    let memory = vec![0u64; 1024];
    let address = memory.as_ptr() as u64;
    call(number, [address, address, 8, address, 8, 0])
}

fn int80(number: u64) {
    // SAFETY: as in `call`.
    unsafe { asm!("int 0x80", inlateout("rax") number => _) };
}

fn sysenter(number: u64) {
    // SAFETY: as in `call`. It comes back elsewhere, or not at all.
    unsafe { asm!("sysenter", inlateout("rax") number => _, lateout("rcx") _, lateout("rdx") _) };
}

/// One of the three functions of the page that old programs call.
fn vsyscall(n: u64) {
    // SAFETY: as in `call`.
    unsafe {
        asm!("call {0}", in(reg) 0xffff_ffff_ff60_0000 + 1024 * n, out("rax") _, in("rdi") 0, in("rsi") 0)
    };
}

fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

fn peek(address: u64) -> u8 {
    // SAFETY: where nothing is mapped this ends the guest, as it should.
    unsafe { read_volatile(address as *const u8) }
}

fn word(address: u64) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|n| peek(address + n as u64)))
}

fn look(address: u64) {
    println!("there is {}", peek(address));
}

fn poke32(address: u64, value: u32) {
    // SAFETY: the page, or what the test names; nothing of Rust's lies there.
    unsafe { write_volatile(address as *mut u32, value) };
}

/// Where the stub's code and its data start and end: what the headers of its program say.
fn segments() -> [(u64, u64); 2] {
    // `mov $number, %ecx; mov $entry, %eax` in the hypercall page.
    let entry = word(start_info().hypercall_page.0 + 6) & 0xffff_ffff;
    let mut start = entry & !0xfff;
    while word(start) & 0xffff_ffff != u64::from(u32::from_le_bytes(*b"\x7fELF")) {
        start -= 4096;
    }
    let (headers, count) = (start + word(start + 32), word(start + 56) & 0xffff);
    let mut segments = [(0, 0); 2];
    for header in (0..count).map(|n| headers + 56 * n) {
        let (kind, flags) = (word(header) & 0xffff_ffff, word(header) >> 32);
        let found = (word(header + 16), word(header + 16) + word(header + 40));
        match (kind, flags & 7) {
            (1, 5) => segments[0] = found,
            (1, 6) => segments[1] = found,
            _ => {}
        }
    }
    segments
}

/// A cheap sequence of numbers that look random.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Garbage all over the handoff page but for its first word, with ordinary calls in between.
fn page(seed: u64) {
    let mut state = seed | 1;
    for _ in 0..200 {
        for offset in (4..4096).step_by(4) {
            // Half of it zero: nothing but garbage ends most guests at once.
            let value = match random(&mut state) {
                n if n % 2 == 0 => 0,
                n => n as u32,
            };
            poke32(PAGE + offset, value);
        }
        hypercall::nop();
        hypercall::event_send(hv_guest::abi::EventPort(random(&mut state) as u32 % 2048));
    }
    println!("survived");
}

/// Ends its turn by hand, with any number, and goes on in spite of it.
fn turn(turn: u32, kind: u32, number: u32, argument: u64) -> ! {
    println!("goes on");
    poke32(PAGE + KIND, kind);
    poke32(PAGE + NUMBER, number);
    poke32(PAGE + ARGUMENTS, argument as u32);
    poke32(PAGE + ARGUMENTS + 4, (argument >> 32) as u32);
    poke32(PAGE, turn);
    const FUTEX: u64 = 202;
    const WAKE: u64 = 1;
    call(FUTEX, [PAGE, WAKE, 1, 0, 0, 0]);
    spin()
}

/// Wakes hv in its turn, again and again, and tells it alternately to spin and to sleep.
fn toggle() -> ! {
    const FUTEX: u64 = 202;
    const WAKE: u64 = 1;
    loop {
        poke32(PAGE, GUEST);
        call(FUTEX, [PAGE, WAKE, 1, 0, 0, 0]);
        poke32(PAGE, GUEST_HOST_SLEEPS);
        call(FUTEX, [PAGE, WAKE, 1, 0, 0, 0]);
    }
}

/// Ends its turn and sleeps, without waking hv's thread, which sleeps as well.
fn doze() -> ! {
    const FUTEX: u64 = 202;
    const WAIT: u64 = 0;
    const HOST_GUEST_SLEEPS: u32 = 3;
    const HYPERCALL: u32 = 1;
    println!("dozing");
    loop {
        poke32(PAGE + KIND, HYPERCALL);
        poke32(PAGE + NUMBER, hv_guest::abi::Hypercall::Nop as u32);
        poke32(PAGE, HOST_GUEST_SLEEPS);
        call(FUTEX, [PAGE, WAIT, HOST_GUEST_SLEEPS.into(), 0, 0, 0]);
    }
}

/// Overwrites memory of the stub, and goes on with calls.
fn scribble(start: u64, end: u64, seed: u64) {
    let mut state = seed | 1;
    for address in (start..end).step_by(4) {
        poke32(address, random(&mut state) as u32);
    }
    for _ in 0..100 {
        hypercall::nop();
        hypercall::yield_now();
    }
    println!("survived");
}

/// Jumps into the stub, with the same number in all registers.
fn jump(address: u64, value: u64) {
    // SAFETY: whatever happens, happens to this guest.
    unsafe {
        asm!("mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax", "mov r8, rax", "mov r9, rax",
            "mov r10, rax", "mov r12, rax", "mov r13, rax", "mov r14, rax", "mov r15, rax", "jmp r11",
            in("r11") address, in("rax") value, options(noreturn));
    }
}

/// Spins with its stack pointer there.
fn stack(address: u64) {
    // SAFETY: nothing else happens on that stack but signals.
    unsafe { asm!("mov rsp, {0}", "2: pause", "jmp 2b", in(reg) address, options(noreturn)) };
}

/// Runs inside of the stub for ever, where it only notes hv's signals: the last instructions of
/// `hv_leave_signal`, which go back to themselves.
fn deaf() {
    // `mov rsp, rdi; pop r8`
    const WAY_BACK: [u8; 5] = [0x48, 0x89, 0xfc, 0x41, 0x58];
    let [(start, end), _] = segments();
    let code: Vec<u8> = (start..end).map(peek).collect();
    let at = code.windows(5).position(|bytes| bytes == WAY_BACK).expect("it is in the stub");
    let (cs, ss): (u64, u64);
    // SAFETY: reads two registers.
    unsafe { asm!("mov {0:e}, cs", "mov {1:e}, ss", out(reg) cs, out(reg) ss) };
    // 15 registers, RDI the ninth of them; RIP, CS, RFLAGS, RSP, SS.
    let mut frame = [0u64; 20];
    let address = frame.as_mut_ptr() as u64;
    (frame[8], frame[15], frame[16], frame[17]) = (address, start + at as u64, cs, 0x202);
    (frame[18], frame[19]) = (address, ss);
    println!("deaf");
    // SAFETY: the frame stays, as nothing ever returns.
    unsafe {
        asm!("jmp {0}", in(reg) start + at as u64, in("rdi") address, in("rsi") frame.as_ptr(), options(noreturn))
    };
}
