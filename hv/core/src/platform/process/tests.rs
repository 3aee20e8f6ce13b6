//! A process that serves one guest after the other.

mod demand;

use super::vcpu::ProcessVcpu;
use super::*;
use crate::memory::{Access, Template};
use crate::platform::{CpuState, Exit, Fault, StartVcpu, Vcpu};
use hv_abi::GuestAddr;
use hv_stub::{PAGE, PART, field, owner};
use rustix::process::{Pid, Signal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BASE: u64 = 1 << 30;
const RESULTS: u64 = 2 * PAGE_SIZE;
const HYPERCALLS: u64 = 3 * PAGE_SIZE;
const TAINTS: u64 = 4 * PAGE_SIZE;
const LOOKS: u64 = TAINTS + PAGE_SIZE / 2;
const SLEEPS: u64 = 5 * PAGE_SIZE;
const STACK: u64 = 6 * PAGE_SIZE;
const SIZE: u64 = 16 * PAGE_SIZE;

/// What the first guest leaves wherever it can.
const TRACE: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// Machine code: REX.W, and the low half of a register's number in a place of ModRM.
fn register(number: u8) -> (u8, u8) {
    (0x48 | number >> 3, number & 7)
}

/// `mov $stub, %ecx; call *%rcx`
fn call() -> Vec<u8> {
    let stub = (BASE + HYPERCALLS) as u32;
    [&[0xb9], &stub.to_le_bytes()[..], &[0xff, 0xd1]].concat()
}

/// Fills everything with [`TRACE`], and makes a call.
fn taints() -> Vec<u8> {
    // mov $TRACE, %rax
    let mut code = [&[0x48, 0xb8], &TRACE.to_le_bytes()[..]].concat();
    let data = [symbol("hv_data"), symbol("hv_data_end")];
    for (start, end) in [(data[0], data[1]), (PAGE as u32 + field::FILTER as u32, PAGE as u32 + 4096)] {
        // mov $start, %edi; mov $words, %ecx; rep stosq
        code.extend([&[0xbf], &start.to_le_bytes()[..]].concat());
        code.extend([&[0xb9], &((end - start) / 8).to_le_bytes()[..]].concat());
        code.extend([0xf3, 0x48, 0xab]);
    }
    for number in (0..16).filter(|number| ![0, 1, 4].contains(number)) {
        // mov %rax, %register; movq %rax, %xmm
        let (rex, low) = register(number);
        code.extend([rex, 0x89, 0xc0 | low]);
        code.extend([0x66, 0x48 | (number >> 3) << 2, 0x0f, 0x6e, 0xc0 | low << 3]);
    }
    if rustix::param::linux_hwcap().1 & 2 != 0 {
        // xor %edx, %edx; mov $0x5ec2, %dx; wrfsbase %rdx; wrgsbase %rdx
        code.extend([0x31, 0xd2, 0x66, 0xba, 0xc2, 0x5e]);
        code.extend([0xf3, 0x48, 0x0f, 0xae, 0xd2, 0xf3, 0x48, 0x0f, 0xae, 0xda]);
    }
    // The flag AC: pushfq; orl $0x40000, (%rsp); popfq
    code.extend([0x9c, 0x81, 0x0c, 0x24, 0, 0, 4, 0, 0x9d]);
    [code, call()].concat()
}

/// Writes down the bases of FS and GS, and makes calls for ever.
fn looks() -> Vec<u8> {
    let mut code = Vec::new();
    if rustix::param::linux_hwcap().1 & 2 != 0 {
        // rdfsbase %rax; rdgsbase %rdx; mov $RESULTS, %ecx; mov %rax, (%rcx); mov %rdx, 8(%rcx)
        code.extend([0xf3, 0x48, 0x0f, 0xae, 0xc0, 0xf3, 0x48, 0x0f, 0xae, 0xca]);
        code.extend([&[0xb9], &((BASE + RESULTS) as u32).to_le_bytes()[..]].concat());
        code.extend([0x48, 0x89, 0x01, 0x48, 0x89, 0x51, 0x08]);
    }
    let call = call();
    let back = -(call.len() as i8 + 2);
    [code, call, vec![0xeb, back as u8]].concat()
}

/// Waits until hv sleeps; then sleeps as if it had given control back, and does not wake hv.
fn sleeps() -> Vec<u8> {
    let word = (PAGE + field::OWNER) as u32;
    let asleep = owner::HOST_GUEST_SLEEPS.to_le_bytes();
    // mov $word, %edi; 1: cmpl $waits, (%rdi); jne 1b
    let mut code = [&[0xbf], &word.to_le_bytes()[..], &[0x83, 0x3f, owner::GUEST_HOST_SLEEPS as u8]].concat();
    code.extend([0x75, 0xfb]);
    // movl $asleep, (%rdi)
    code.extend([&[0xc7, 0x07], &asleep[..]].concat());
    // mov $futex, %eax; xor %esi, %esi; mov $asleep, %edx; xor %r10d, %r10d; syscall
    code.extend(
        [&[0xb8], &(libc::SYS_futex as u32).to_le_bytes()[..], &[0x31, 0xf6, 0xba], &asleep].concat(),
    );
    code.extend([0x45, 0x31, 0xd2, 0x0f, 0x05]);
    [code, call()].concat()
}

fn platform() -> Option<ProcessPlatform> {
    let skip = |error: &PlatformError| hv_skip::skip(format_args!("needs the platform process: {error}"));
    ProcessPlatform::new().inspect_err(skip).ok()
}

/// A virtual CPU in the state after its first call, which it makes after [`taints`].
fn tainted() -> Option<(ProcessVcpu, Arc<GuestMemory>)> {
    let platform = platform()?;
    let mut made = Template::make(GuestAddr(BASE), SIZE).unwrap();
    made.allow(RESULTS..HYPERCALLS, Access::READ | Access::WRITE);
    made.allow(HYPERCALLS..STACK, Access::READ | Access::EXECUTE);
    made.allow(STACK..SIZE, Access::READ | Access::WRITE);
    made.host_write(TAINTS, &taints());
    made.host_write(LOOKS, &looks());
    made.host_write(SLEEPS, &sleeps());
    let page = HypercallPage::all(HYPERCALLS, 1).next().unwrap();
    platform.prepare(&made, &[page]).unwrap();
    let template = Arc::new(Template::seal(made).unwrap());
    let memory = Arc::new(GuestMemory::shared_of_template(&template).unwrap());
    let start = StartVcpu { page, state: &state(TAINTS) };
    let bells: machine::Bells = Arc::new([]);
    let page = page::Page::new(memory.clone(), 0);
    let mut vcpu = ProcessVcpu::new(platform.zygote, bells, page, &memory, &start).unwrap();
    assert!(calls(&mut vcpu));
    Some((vcpu, memory))
}

fn state(code: u64) -> CpuState {
    CpuState::at_entry(BASE + code, BASE + SIZE, 0)
}

/// Whether it reaches its next call.
fn calls(vcpu: &mut ProcessVcpu) -> bool {
    loop {
        match vcpu.run() {
            Exit::Interrupted => {}
            Exit::Hypercall { .. } => return true,
            other => panic!("{other:?}"),
        }
    }
}

/// Starts the next guest.
fn next(vcpu: &mut ProcessVcpu, memory: &GuestMemory) {
    vcpu.halt();
    memory.reset();
    vcpu.reset(&state(LOOKS)).unwrap();
}

fn traces(memory: &GuestMemory) -> Vec<u64> {
    let mut bytes = vec![0; (SIZE + PART) as usize];
    memory.host_read(0, &mut bytes);
    let trace = TRACE.to_le_bytes();
    let found = bytes.windows(8).enumerate().filter(|(_, window)| *window == trace);
    // The code that leaves them has it, too.
    found.map(|(at, _)| at as u64).filter(|at| !(TAINTS..LOOKS).contains(at)).collect()
}

#[test]
fn nothing_of_a_guest_is_left_for_the_next_one_in_its_process() {
    let Some((mut vcpu, memory)) = tainted() else { return };
    assert!(traces(&memory).len() > 1000, "of the first");
    // A busy host may make hv replace the process: not always.
    let in_place = (0..100).any(|_| {
        let before = vcpu.process();
        next(&mut vcpu, &memory);
        assert!(calls(&mut vcpu));
        let mut bases = [0; 16];
        memory.host_read(RESULTS, &mut bases);
        assert_eq!(bases, [0; 16], "FS and GS");
        assert_eq!(traces(&memory), Vec::<u64>::new());
        let is_same = vcpu.process() == before;
        // The first one again.
        vcpu.halt();
        memory.reset();
        vcpu.reset(&state(TAINTS)).unwrap();
        assert!(calls(&mut vcpu));
        is_same
    });
    assert!(in_place, "the process was replaced each time");
}

#[test]
fn kicks_at_any_time_are_neither_lost_nor_seen_by_the_wrong_guest() {
    let Some((mut vcpu, memory)) = tainted() else { return };
    let (kicker, done) = (vcpu.kicker(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = 1u64;
            while !done.load(Ordering::SeqCst) {
                kicker.kick();
                pause = pause.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                std::thread::sleep(Duration::from_nanos(pause >> 47));
            }
        });
        for _ in 0..500 {
            next(&mut vcpu, &memory);
            // A lost one would end the guest: it would not answer.
            assert!(calls(&mut vcpu) && calls(&mut vcpu));
            assert_eq!(traces(&memory), Vec::<u64>::new());
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_guest_that_sleeps_while_it_has_control_is_charged_for_that() {
    let Some((mut vcpu, memory)) = tainted() else { return };
    let kicker = vcpu.kicker();
    for is_kicked in [false, true] {
        let before = kicker.slept();
        // A kick may come before it runs.
        let is_charged = (0..100).any(|_| {
            vcpu.halt();
            memory.reset();
            vcpu.reset(&state(SLEEPS)).unwrap();
            std::thread::scope(|scope| {
                if is_kicked {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(5));
                        kicker.kick();
                    });
                }
                vcpu.run();
            });
            kicker.slept() > before
        });
        assert!(is_charged, "kicked: {is_kicked}");
    }
}

#[test]
fn a_process_that_others_have_interrupted_between_guests_is_not_used() {
    let Some((mut vcpu, memory)) = tainted() else { return };
    interrupt(&mut vcpu, &memory);
    loop {
        match vcpu.run() {
            Exit::Interrupted => {}
            exit => return assert_eq!(exit, Exit::Fault(Fault::Unparked)),
        }
    }
}

#[test]
fn a_process_that_others_have_interrupted_between_guests_is_replaced() {
    let Some((mut vcpu, memory)) = tainted() else { return };
    next(&mut vcpu, &memory);
    // Looking changes nothing.
    assert!((0..3).all(|_| vcpu.is_undisturbed()) && calls(&mut vcpu));
    for _ in 0..3 {
        let before = interrupt(&mut vcpu, &memory);
        assert!(!vcpu.is_undisturbed());
        next(&mut vcpu, &memory);
        assert!(vcpu.is_undisturbed() && vcpu.process() != before && calls(&mut vcpu));
        assert_eq!(traces(&memory), Vec::<u64>::new());
    }
}

/// Starts the next guest in the same process, and interrupts that before the guest runs. Returns its number.
fn interrupt(vcpu: &mut ProcessVcpu, memory: &GuestMemory) -> i32 {
    // A busy host may make hv replace the process: not always.
    let in_place = (0..100).find_map(|_| {
        let before = vcpu.process();
        next(vcpu, memory);
        let is_same = vcpu.process() == before;
        assert!(is_same || calls(vcpu));
        is_same.then_some(before)
    });
    let process = in_place.expect("not replaced each time");
    let pid = Pid::from_raw(process).unwrap();
    let is_in = |wanted: char| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with(wanted)
    };
    for (signal, state) in [(Signal::STOP, 'T'), (Signal::CONT, 'S')] {
        rustix::process::kill_process(pid, signal).unwrap();
        while !is_in(state) {
            std::thread::yield_now();
        }
    }
    process
}
