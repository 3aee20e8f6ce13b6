//! ⚠ One virtual machine with one virtual CPU.
//!
//! # Invariants that the `unsafe` blocks rely on
//!
//! 1. The memory slot's user-space mapping outlives the VM: [`KvmVcpu`] owns
//!    both, and drops the memory after the descriptors.
//! 2. `kvm_run` is mapped as long as the `VcpuFd`.

use super::area::{self, Area};
use super::kick::Kicker;
use super::{DOORBELL_PORT, EXCEPTION_PORT, HYPERCALL_PORT, KvmPlatform, failed};
use crate::memory::GuestMemory;
use crate::platform::{Exit, Fault, Kick, PlatformError, Registers, Start, Vcpu};
use hv_abi::hypercall::{Hypercall, STUB_SIZE};
use hv_abi::{EventPort, PAGE_SIZE};
use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr, kvm_regs, kvm_segment, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, SyncReg, VcpuExit, VcpuFd, VmFd};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;
use x86_64::registers::control::{Cr0Flags, Cr4Flags, EferFlags};
use x86_64::registers::rflags::RFlags;
use zerocopy::FromBytes;

// kvm-ioctls has this call for other processors only.
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

/// RFLAGS of a new virtual CPU. Nothing interrupts a guest yet; ring 3 runs with interrupts on all the same.
const FLAGS: RFlags = RFlags::INTERRUPT_FLAG;

/// Bytes of the word before the hypercall page.
const RESULT_SIZE: u64 = 8;

pub(super) struct KvmVcpu {
    // The order of the fields is the order of dropping (invariant 1).
    vcpu: VcpuFd,
    vm: VmFd,
    area: Area,
    /// Where the stubs load a call's result from: an offset in the memory.
    result: u64,
    memory: Arc<GuestMemory>,
    kicker: Arc<Kicker>,
    /// Set when the last exit was an exception: its vector.
    exception: Option<u8>,
}

impl KvmVcpu {
    pub(super) fn new(platform: &KvmPlatform, start: &Start<'_>) -> Result<Self, PlatformError> {
        let memory = start.memory;
        let vm = platform.kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;

        let area = Area::of(memory);
        area.build(memory, platform.tss)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.size() + memory.tail(),
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the mapping outlives the VM (invariant 1).
        unsafe { vm.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        memory.host_write(start.hypercall_page, &stubs());

        let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&platform.cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        align_tsc(&vcpu);
        vcpu.set_sregs(&special_registers(area, platform.tss)).map_err(failed("KVM_SET_SREGS"))?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.sync_regs_mut().regs = kvm_regs {
            rip: start.entry.0,
            rsp: start.stack_top.0,
            rdi: start.argument.0,
            rflags: FLAGS.bits() | 2,
            ..kvm_regs::default()
        };
        vcpu.set_sync_dirty_reg(SyncReg::Register);
        Ok(KvmVcpu {
            vcpu,
            vm,
            area,
            result: start.hypercall_page - RESULT_SIZE,
            memory: memory.clone(),
            kicker: Arc::default(),
            exception: None,
        })
    }
}

/// The hypercall page: one stub per call, `STUB_SIZE` apart.
///
/// A result comes back in the word before the page, which a stub loads into
/// RAX: writing the register itself would have KVM look for pending events at
/// the next entry, which costs more than the rest of the call on hv's side.
fn stubs() -> [u8; PAGE_SIZE as usize] {
    let mut page = [0xcc; PAGE_SIZE as usize];
    for (number, stub) in page.chunks_exact_mut(STUB_SIZE as usize).enumerate() {
        let n = (number as u32).to_le_bytes();
        if number as u32 == Hypercall::EventSend as u32 {
            // mov %edi, %eax; out %eax, $port; ret
            stub[..5].copy_from_slice(&[0x89, 0xf8, 0xe7, DOORBELL_PORT, 0xc3]);
            continue;
        }
        // mov $number, %eax; out %eax, $port; mov result(%rip), %rax; ret.
        // Numbers without a call get a stub too, so that a newer guest is
        // told that there is none.
        stub[..7].copy_from_slice(&[0xb8, n[0], n[1], n[2], n[3], 0xe7, HYPERCALL_PORT]);
        stub[7..10].copy_from_slice(&[0x48, 0x8b, 0x05]);
        let next = (number as u64 * STUB_SIZE + 14) as i32;
        stub[10..14].copy_from_slice(&(-(RESULT_SIZE as i32) - next).to_le_bytes());
        stub[14] = 0xc3;
    }
    page
}

/// Makes the guest's TSC the host's. Where ring 3 reads the host's counter
/// natively there is nothing to set, and an older kernel that cannot set it
/// fails here: both are fine, since the guest's clock only starts from it.
fn align_tsc(vcpu: &VcpuFd) {
    let zero = 0u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: &raw const zero as u64,
        flags: 0,
    };
    // SAFETY: the attribute and the value that it points to live until the
    // call returns; the kernel only reads them.
    if unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) } != 0 {
        tracing::debug!("KVM_VCPU_TSC_OFFSET is not supported");
    }
}

fn special_registers(area: Area, tss: area::TssType) -> kvm_sregs {
    let segment = |selector: u16, type_: u8, code: bool| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: (selector & 3) as u8,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..kvm_segment::default()
    };
    // Accessed code (11) and data (3) segments of ring 3.
    let code = segment(area::USER_CODE, 11, true);
    let data = segment(area::USER_DATA, 3, false);
    let mut sregs = kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment {
            base: area.tss().base,
            limit: u32::from(area.tss().limit),
            selector: area::TSS,
            type_: tss.descriptor_type(),
            present: 1,
            ..kvm_segment::default()
        },
        cr0: (Cr0Flags::PROTECTED_MODE_ENABLE
            | Cr0Flags::MONITOR_COPROCESSOR
            | Cr0Flags::EXTENSION_TYPE
            | Cr0Flags::NUMERIC_ERROR
            | Cr0Flags::WRITE_PROTECT
            | Cr0Flags::PAGING)
            .bits(),
        cr3: area.top_table(),
        cr4: (Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE).bits(),
        // SYSTEM_CALL_EXTENSIONS stays off: `syscall` is an invalid opcode then.
        efer: (EferFlags::LONG_MODE_ENABLE | EferFlags::LONG_MODE_ACTIVE | EferFlags::NO_EXECUTE_ENABLE)
            .bits(),
        ..kvm_sregs::default()
    };
    sregs.ldt.unusable = 1;
    sregs.gdt.base = area.gdt().base;
    sregs.gdt.limit = area.gdt().limit;
    sregs.idt.base = area.idt().base;
    sregs.idt.limit = area.idt().limit;
    sregs
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Exit {
        let run: *mut _ = self.vcpu.get_kvm_run();
        let vcpu = &mut self.vcpu;
        let exit = self.kicker.running(run, || match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => Some(Ok((port, u32::read_from_bytes(data).ok()))),
            Ok(VcpuExit::IoIn(port, _)) => Some(Ok((port, None))),
            Ok(VcpuExit::Shutdown) => Some(Err(Exit::Fault(Fault::Shutdown))),
            Ok(VcpuExit::Intr) => None,
            Ok(other) => Some(Err(Exit::Failed(format!("KVM exit {other:?}")))),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => None,
            Err(error) => Some(Err(Exit::Failed(format!("KVM_RUN: {error}")))),
        });
        self.exception = None;
        let (port, value) = match exit.flatten() {
            Some(Ok(io)) => io,
            Some(Err(exit)) => return exit,
            None => {
                self.vcpu.set_kvm_immediate_exit(0);
                return Exit::Interrupted;
            }
        };
        match (port as u8, value) {
            (HYPERCALL_PORT, Some(number)) if port < 256 => {
                let regs = &self.vcpu.sync_regs_mut().regs;
                Exit::Hypercall { number, arguments: [regs.rdi, regs.rsi, regs.rdx] }
            }
            (DOORBELL_PORT, Some(value)) if port < 256 => Exit::Doorbell(value),
            (vector, _) if port < 256 && (EXCEPTION_PORT..EXCEPTION_PORT + 32).contains(&vector) => {
                let vector = vector - EXCEPTION_PORT;
                self.exception = Some(vector);
                let address = match vector {
                    14 => self.vcpu.get_sregs().map_or(0, |sregs| sregs.cr2),
                    _ => 0,
                };
                Exit::Fault(Fault::Exception {
                    vector,
                    error: self.area.frame(&self.memory, vector).error,
                    address,
                })
            }
            _ => Exit::Fault(Fault::Port(port)),
        }
    }

    fn bind_doorbell(&mut self, port: EventPort, descriptor: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Pio(u64::from(DOORBELL_PORT));
        self.vm
            .register_ioevent(descriptor, &address, port.0)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    fn set_result(&mut self, value: i64) {
        self.memory.atomic_u64(self.result).store(value as u64, Ordering::Relaxed);
    }

    fn registers(&mut self) -> Registers {
        let regs = self.vcpu.sync_regs_mut().regs;
        let mut registers = Registers {
            rax: regs.rax,
            rbx: regs.rbx,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rsi: regs.rsi,
            rdi: regs.rdi,
            rbp: regs.rbp,
            rsp: regs.rsp,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rip: regs.rip,
            rflags: regs.rflags,
            ..Registers::default()
        };
        if let Some(vector) = self.exception {
            let frame = self.area.frame(&self.memory, vector);
            (registers.rip, registers.rsp, registers.rflags) = (frame.rip, frame.rsp, frame.rflags);
        }
        registers
    }

    fn tsc_khz(&self) -> u32 {
        self.vcpu.get_tsc_khz().unwrap_or_else(|_| crate::clock::tsc_khz())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicker.clone()
    }
}
