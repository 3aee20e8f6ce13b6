//! Behaviour that all platforms share, with several virtual CPUs.

use super::kvm::KvmPlatform;
use super::process::ProcessPlatform;
use super::{CpuState, Exit, HypercallPage, Platform, Start, StartVcpu, Started, Vcpu, reserved};
use crate::memory::{Access, GuestMemory};
use hv_abi::hypercall::Hypercall;
use hv_abi::{EventPort, GuestAddr, PAGE_SIZE};
use std::sync::Arc;

const VCPUS: usize = 3;
const BASE: u64 = 1 << 30;
/// A page for results, a hypercall page and a page of code for each virtual CPU, and their stacks.
const RESULTS: u64 = reserved(VCPUS);
const HYPERCALLS: u64 = RESULTS + PAGE_SIZE;
const CODE: u64 = HYPERCALLS + VCPUS as u64 * PAGE_SIZE;
const STACKS: u64 = CODE + VCPUS as u64 * PAGE_SIZE;
const END: u64 = STACKS + VCPUS as u64 * PAGE_SIZE;

fn platforms() -> Vec<Box<dyn Platform>> {
    let mut platforms: Vec<Box<dyn Platform>> = Vec::new();
    match KvmPlatform::new() {
        Ok(platform) => platforms.push(Box::new(platform)),
        Err(error) => hv_skip::skip(format_args!("needs the platform kvm: {error}")),
    }
    match ProcessPlatform::new() {
        Ok(platform) => platforms.push(Box::new(platform)),
        Err(error) => hv_skip::skip(format_args!("needs the platform process: {error}")),
    }
    platforms
}

/// A guest whose virtual CPUs make the call of their own page again and again, with the previous result as the argument,
/// or ring doorbell 0.
fn start(platform: &dyn Platform, call: Hypercall) -> Started {
    let (base, size) = (GuestAddr(BASE), END.next_multiple_of(64 << 10));
    let mut memory = match platform.shares_memory() {
        true => GuestMemory::new_shared(base, size).unwrap(),
        false => GuestMemory::new(base, size).unwrap(),
    };
    memory.allow(RESULTS..HYPERCALLS, Access::READ);
    memory.allow(HYPERCALLS..STACKS, Access::READ | Access::EXECUTE);
    memory.allow(STACKS..END, Access::READ | Access::WRITE);
    let pages: Vec<_> = HypercallPage::all(HYPERCALLS, VCPUS).collect();
    for (number, page) in pages.iter().enumerate() {
        // 1: mov $stub, %ecx; call *%rcx; mov %rax, %rdi; jmp 1b. A doorbell has no result: xor %edi, %edi; nop.
        let [a, b, c, d] = ((BASE + page.stubs + call.stub_offset()) as u32).to_le_bytes();
        let [e, f, g] = if call == Hypercall::EventSend { [0x31, 0xff, 0x90] } else { [0x48, 0x89, 0xc7] };
        let code = [0xb9, a, b, c, d, 0xff, 0xd1, e, f, g, 0xeb, 0xf4];
        memory.host_write(CODE + number as u64 * PAGE_SIZE, &code);
    }
    platform.prepare(&memory, &pages).unwrap();
    let memory = Arc::new(memory);
    let states: Vec<_> = (0..VCPUS as u64)
        .map(|number| {
            let stack = STACKS + (number + 1) * PAGE_SIZE;
            CpuState::at_entry(BASE + CODE + number * PAGE_SIZE, BASE + stack, 0)
        })
        .collect();
    let vcpus: Vec<_> =
        pages.iter().zip(&states).map(|(page, state)| StartVcpu { page: *page, state }).collect();
    let started =
        platform.start(&Start { memory: &memory, vcpus: &vcpus, doorbells: 1, opening: None }).unwrap();
    assert_eq!(started.vcpus.len(), VCPUS);
    started
}

/// The argument of its next call.
fn argument(vcpu: &mut dyn Vcpu) -> u64 {
    loop {
        match vcpu.run() {
            Exit::Hypercall { arguments: [argument, ..], .. } => return argument,
            Exit::Interrupted => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn virtual_cpus_run_at_the_same_time_and_each_gets_its_own_results() {
    for platform in platforms() {
        let Started { vcpus, machine: _machine } = start(&*platform, Hypercall::Nop);
        std::thread::scope(|scope| {
            for (number, mut vcpu) in vcpus.into_iter().enumerate() {
                scope.spawn(move || {
                    argument(&mut *vcpu);
                    for call in 0..200u64 {
                        let result = number as u64 * 1000 + call;
                        vcpu.set_result(result as i64);
                        assert_eq!(argument(&mut *vcpu), result, "virtual CPU {number}");
                    }
                });
            }
        });
    }
}

#[test]
fn each_virtual_cpu_is_saved_and_reset_by_itself() {
    for platform in platforms() {
        let Started { mut vcpus, machine: _machine } = start(&*platform, Hypercall::Nop);
        for (number, vcpu) in vcpus.iter_mut().enumerate() {
            argument(&mut **vcpu);
            vcpu.set_result(number as i64 + 7);
        }
        let states: Vec<_> = vcpus.iter_mut().map(|vcpu| vcpu.save().unwrap()).collect();
        for (number, (vcpu, state)) in vcpus.iter_mut().zip(&states).enumerate() {
            assert_eq!(state.rax, number as u64 + 7, "the result of its call");
            vcpu.halt();
            vcpu.reset(state).unwrap();
            assert_eq!(argument(&mut **vcpu), number as u64 + 7, "{}, virtual CPU {number}", platform.name());
        }
    }
}

#[test]
fn a_doorbell_that_is_bound_is_bound_for_all_virtual_cpus() {
    for platform in platforms() {
        let Started { mut vcpus, mut machine } = start(&*platform, Hypercall::EventSend);
        let bell = machine.doorbell(EventPort(0)).unwrap();
        machine.bind_doorbell(EventPort(0), &bell).unwrap();
        for (number, vcpu) in vcpus.iter_mut().enumerate() {
            let kicker = vcpu.kicker();
            std::thread::scope(|scope| {
                // It rings without end, and never returns control by itself.
                scope.spawn(|| assert_eq!(vcpu.run(), Exit::Interrupted, "virtual CPU {number}"));
                while bell.read().is_err() {
                    std::thread::yield_now();
                }
                kicker.kick();
            });
            while bell.read().is_ok() {}
        }
    }
}
