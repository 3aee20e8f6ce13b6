//! ⚠ Hides a word wherever a guest can write, and seeks it wherever one can read.

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};
use hv_guest::abi::device::{CONSOLE, FUNCTION};
use hv_guest::abi::ring::{Layout, REQUEST_SLOTS};
use hv_guest::prelude::*;
use hv_guest::{devices, start_info};

/// A word to be hidden. Who seeks it never has it: it knows a word by what it becomes.
pub(crate) struct Secret {
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
    /// The word of this number.
    pub(crate) fn new(n: u64) -> Self {
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
            // SAFETY: the callers name memory that is theirs or unused.
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
    devices().filter(|device| device.kind == FUNCTION || device.kind == CONSOLE).flat_map(|device| {
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
    let page = start_info().shared_info.0 as usize;
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
pub(crate) fn hide(secret: &Secret) -> String {
    let mut report = String::new();
    let mut taken: Vec<Vec<u64>> = Vec::with_capacity(64);
    let (mut heap, mut words) = (0, start_info().heap_size as usize / 8);
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
    let stack = secret.write(start_info().stack_base.0 as usize, below());
    report += &format!("stack {stack}\n");
    report += &format!("data {}\n", secret.write(bss().0, bss().1));
    report +=
        &format!("rings {}\n", unused_slots().map(|(start, end)| secret.write(start, end)).sum::<usize>());
    report += &format!("shared-info {}\n", secret.write(shared_spare().0, shared_spare().1));
    Registers::write(secret.word());
    report
}

/// Looks everywhere for a word, what is in use included. Prints where it is how often.
pub(crate) fn seek(secret: &Secret, registers: &Registers) -> String {
    let info = start_info();
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
pub(crate) struct Registers {
    xmm: [u64; 32],
    mm: [u64; 8],
}

impl Registers {
    /// Reads them all.
    #[inline(always)]
    pub(crate) fn read() -> Self {
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
