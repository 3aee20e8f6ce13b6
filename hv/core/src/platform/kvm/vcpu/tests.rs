//! A virtual CPU that is reset: no state of the previous guest remains.

use super::*;
use crate::memory::Access;
use crate::platform::Platform;
use crate::platform::kvm::machine::KvmMachine;
use crate::platform::kvm::{Empty, KvmPlatform};
use hv_abi::hypercall::Hypercall;
use kvm_bindings::{KVM_VCPUEVENT_VALID_SHADOW, kvm_segment, kvm_vcpu_events};

const BASE: u64 = 1 << 30;
const HYPERCALLS: u64 = 3 * PAGE_SIZE;
const CODE: u64 = 4 * PAGE_SIZE;
const STACK: u64 = 5 * PAGE_SIZE;

/// A guest that makes the hypercall that does nothing, for ever, and the address where it begins.
fn caller() -> Option<(KvmVcpu, CpuState)> {
    let platform = match KvmPlatform::new() {
        Ok(platform) => platform,
        Err(error) => {
            hv_skip::skip(format_args!("needs the platform kvm: {error}"));
            return None;
        }
    };
    let mut memory = GuestMemory::new(GuestAddr(BASE), 16 * PAGE_SIZE).unwrap();
    memory.allow(HYPERCALLS - PAGE_SIZE..HYPERCALLS, Access::READ);
    memory.allow(HYPERCALLS..STACK, Access::READ | Access::EXECUTE);
    memory.allow(STACK..STACK + PAGE_SIZE, Access::READ | Access::WRITE);
    // 1: mov $stub, %eax; call *%rax; jmp 1b. The stub of call 0 is the page's first.
    let [a, b, c, d] = ((BASE + HYPERCALLS) as u32).to_le_bytes();
    memory.host_write(CODE, &[0xb8, a, b, c, d, 0xff, 0xd0, 0xeb, 0xf7]);
    let memory = Arc::new(memory);
    let page = HypercallPage::all(HYPERCALLS, 1).next().unwrap();
    platform.prepare(&memory, &[page]).unwrap();
    let cpu = CpuState::at_entry(BASE + CODE, BASE + STACK + PAGE_SIZE, 0);
    let area = Area::of(&memory, 1);
    let place = VcpuPlaces { area, number: 0, calls: page };
    let special = registers::special(area, area.page(0), platform.tss);
    let Empty { vcpu, vm } = platform.take_machine().unwrap();
    let _machine = KvmMachine::new(vm, &memory, 0, false).unwrap();
    let mut vcpu = KvmVcpu::new(vcpu, memory, place, special, &cpu).unwrap();
    assert!(calls(&mut vcpu));
    Some((vcpu, cpu))
}

/// Whether it reaches its next call.
fn calls(vcpu: &mut KvmVcpu) -> bool {
    loop {
        match vcpu.run() {
            Exit::Interrupted => {}
            exit => {
                return matches!(exit, Exit::Hypercall { number, .. } if number == Hypercall::Nop as u32);
            }
        }
    }
}

/// Leaves the virtual CPU as a guest can leave it that is stopped on its way to an exception handler: with a general
/// protection fault to be delivered, and segments of its own.
fn spoil(vcpu: &mut KvmVcpu) {
    vcpu.complete().unwrap();
    let mut sregs = vcpu.special;
    (sregs.ds, sregs.cr2) = (kvm_segment { unusable: 1, ..kvm_segment::default() }, 0xdead_b000);
    vcpu.vcpu.set_sregs(&sregs).unwrap();
    let mut events = kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SHADOW, ..kvm_vcpu_events::default() };
    (events.exception.injected, events.exception.nr, events.exception.has_error_code) = (1, 13, 1);
    events.interrupt.shadow = 1;
    vcpu.vcpu.set_vcpu_events(&events).unwrap();
}

#[test]
fn no_exception_and_no_segment_of_the_guest_before_is_left() {
    let Some((mut vcpu, cpu)) = caller() else { return };
    let before = vcpu.vcpu.get_sregs().unwrap();
    for _ in 0..3 {
        spoil(&mut vcpu);
        vcpu.reset(&cpu).unwrap();
        assert!(calls(&mut vcpu));
        let events = vcpu.vcpu.get_vcpu_events().unwrap();
        assert_eq!((events.exception.injected, events.exception.pending), (0, 0));
        let after = vcpu.vcpu.get_sregs().unwrap();
        assert_eq!((after.cr2, after.cs, after.ds, after.ss), (0, before.cs, before.ds, before.ss));
    }
    // Without a reset, the guest ends.
    spoil(&mut vcpu);
    assert!(!calls(&mut vcpu));
}
