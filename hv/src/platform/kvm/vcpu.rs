//! ⚠ One virtual machine with one virtual CPU.
//!
//! # Invariants that the `unsafe` blocks rely on
//!
//! 1. The memory slots' user-space mappings outlive the VM: both are owned
//!    by [`KvmVcpu`], which drops them after the descriptors.
//! 2. `kvm_run` is mapped as long as the `VcpuFd`.

use super::kick::Kicker;
use super::{DOORBELL_PORT, EXCEPTION_PORT, HYPERCALL_PORT, KvmPlatform, area, failed};
use crate::memory::GuestMemory;
use crate::platform::{Exit, Fault, Kick, PlatformError, Registers, Start, Vcpu};
use hv_abi::PAGE_SIZE;
use hv_abi::hypercall::{Hypercall, STUB_SIZE};
use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr, kvm_regs, kvm_segment, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, SyncReg, VcpuExit, VcpuFd, VmFd};
use std::sync::Arc;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;
use x86_64::registers::control::{Cr0Flags, Cr4Flags, EferFlags};
use x86_64::registers::rflags::RFlags;
use zerocopy::FromBytes;

// kvm-ioctls has this call for other processors only.
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

// Memory slots.
const GUEST_SLOT: u32 = 0;
const AREA_SLOT: u32 = 1;

/// Registers that a new virtual CPU starts from besides the guest's own.
const FLAGS: RFlags = RFlags::INTERRUPT_FLAG;

pub(super) struct KvmVcpu {
    // The order of the fields is the order of dropping (invariant 1).
    vcpu: VcpuFd,
    _vm: VmFd,
    area: MmapRegion,
    _memory: Arc<GuestMemory>,
    kicker: Arc<Kicker>,
    /// Set when the last exit was an exception: its vector.
    exception: Option<u8>,
}

impl KvmVcpu {
    pub(super) fn new(platform: &KvmPlatform, start: &Start<'_>) -> Result<Self, PlatformError> {
        let memory = start.memory;
        if memory.size() > area::PHYSICAL {
            return Err(PlatformError::TooLarge(memory.size()));
        }
        let vm = platform.kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;

        let content = area::build(memory, platform.tss);
        let area =
            MmapRegion::new(content.len()).map_err(|_| PlatformError::TooLarge(content.len() as u64))?;
        area.as_volatile_slice().write_slice(&content, 0).expect("the area has the content's size");

        let guest = (GUEST_SLOT, 0, memory.size(), memory.host_address());
        let host = (AREA_SLOT, area::PHYSICAL, content.len() as u64, area.as_ptr() as u64);
        for (slot, guest_phys_addr, memory_size, userspace_addr) in [guest, host] {
            let region =
                kvm_userspace_memory_region { slot, flags: 0, guest_phys_addr, memory_size, userspace_addr };
            // SAFETY: the mapping outlives the VM (invariant 1).
            unsafe { vm.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        for (port, doorbell) in start.doorbells {
            vm.register_ioevent(doorbell, &IoEventAddress::Pio(u64::from(DOORBELL_PORT)), port.0)
                .map_err(failed("KVM_IOEVENTFD"))?;
        }
        memory.host_write(start.hypercall_page, &stubs());

        let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&platform.cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        align_tsc(&vcpu);
        vcpu.set_sregs(&special_registers(platform.tss)).map_err(failed("KVM_SET_SREGS"))?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.sync_regs_mut().regs = kvm_regs {
            rip: start.entry.0,
            rsp: start.stack_top.0,
            rdi: start.argument.0,
            rflags: FLAGS.bits() | 2,
            ..kvm_regs::default()
        };
        vcpu.set_sync_dirty_reg(SyncReg::Register);
        Ok(KvmVcpu { vcpu, _vm: vm, area, _memory: memory.clone(), kicker: Arc::default(), exception: None })
    }

    /// The frame that the processor pushed for an exception.
    fn frame(&self, vector: u8) -> area::Frame {
        let mut bytes = [0; size_of::<area::Frame>()];
        let all = self.area.as_volatile_slice();
        all.read_slice(&mut bytes, area::frame_offset() as usize).expect("the area holds the stack");
        let mut frame = area::Frame::read_from_bytes(&bytes).expect("the sizes are equal");
        if !area::has_error_code(vector) {
            frame.error = 0;
        }
        frame
    }
}

/// The hypercall page: one stub per call, `STUB_SIZE` apart.
fn stubs() -> [u8; PAGE_SIZE as usize] {
    let mut page = [0xcc; PAGE_SIZE as usize];
    for (number, stub) in page.chunks_exact_mut(STUB_SIZE as usize).enumerate() {
        let n = (number as u32).to_le_bytes();
        if number as u32 == Hypercall::EventSend as u32 {
            // mov %edi, %eax; out %eax, $port; ret
            stub[..5].copy_from_slice(&[0x89, 0xf8, 0xe7, DOORBELL_PORT, 0xc3]);
        } else {
            // mov $number, %eax; out %eax, $port; ret. Numbers without a call
            // get a stub too, so that a newer guest is told that there is none.
            stub[..8].copy_from_slice(&[0xb8, n[0], n[1], n[2], n[3], 0xe7, HYPERCALL_PORT, 0xc3]);
        }
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

fn special_registers(tss: area::TssType) -> kvm_sregs {
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
            base: area::TASK.base,
            limit: u32::from(area::TASK.limit),
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
        cr3: area::TOP_TABLE,
        cr4: (Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE).bits(),
        // SYSTEM_CALL_EXTENSIONS stays off: `syscall` is an invalid opcode then.
        efer: (EferFlags::LONG_MODE_ENABLE | EferFlags::LONG_MODE_ACTIVE | EferFlags::NO_EXECUTE_ENABLE)
            .bits(),
        ..kvm_sregs::default()
    };
    sregs.ldt.unusable = 1;
    sregs.gdt.base = area::GDT.base;
    sregs.gdt.limit = area::GDT.limit;
    sregs.idt.base = area::IDT.base;
    sregs.idt.limit = area::IDT.limit;
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
                let regs = self.vcpu.sync_regs().regs;
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
                Exit::Fault(Fault::Exception { vector, error: self.frame(vector).error, address })
            }
            _ => Exit::Fault(Fault::Port(port)),
        }
    }

    fn set_result(&mut self, value: i64) {
        self.vcpu.sync_regs_mut().regs.rax = value as u64;
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
    }

    fn registers(&mut self) -> Registers {
        let regs = self.vcpu.sync_regs().regs;
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
            let frame = self.frame(vector);
            (registers.rip, registers.rsp, registers.rflags) = (frame.rip, frame.rsp, frame.rflags);
        }
        registers
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicker.clone()
    }
}
