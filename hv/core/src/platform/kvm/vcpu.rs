//! ⚠ A virtual CPU.
//!
//! Its descriptor keeps the VM alive, so it also keeps the memory (see `machine`).
#![allow(unsafe_code, reason = "the floating-point state, one ioctl")]

use super::area::{Area, ExceptionFrame};
use super::kick::KvmKicker;
use super::stubs::{self, Progress};
use super::{DOORBELL_PORT, EXCEPTION_PORT, HYPERCALL_PORT, access, failed, registers};
use crate::memory::GuestMemory;
use crate::platform::{
    CpuState, Exit, Fault, HypercallPage, Kick, PlatformError, Registers, Vcpu, push_return,
};
use hv_abi::{GuestAddr, PAGE_SIZE};
use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr, kvm_regs, kvm_sregs};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;
use zerocopy::FromBytes;

// kvm-ioctls has this call only for other architectures.
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

pub(super) struct KvmVcpu {
    // The order of the fields is the order of dropping: the memory outlives the VM.
    vcpu: VcpuFd,
    place: VcpuPlaces,
    memory: Arc<GuestMemory>,
    kicker: Arc<KvmKicker>,
    /// Segments, tables and control registers, as they were at the start.
    special: kvm_sregs,
    /// The result of the last hypercall, as it was written for the guest.
    result: i64,
    /// The vector of the exception, if the last exit was one.
    exception: Option<u8>,
    /// Whether KVM may still have to complete the last exit. Then the guest's instruction pointer may be before an
    /// instruction that was carried out already.
    incomplete: bool,
}

/// Where in a guest's memory the parts of a virtual CPU are.
#[derive(Clone, Copy)]
pub(super) struct VcpuPlaces {
    pub(super) area: Area,
    /// The number of the virtual CPU, counted from 0.
    pub(super) number: usize,
    pub(super) calls: HypercallPage,
}

impl KvmVcpu {
    /// A virtual CPU that begins with this state, and with these segments and tables.
    pub(super) fn new(
        vcpu: VcpuFd,
        memory: Arc<GuestMemory>,
        place: VcpuPlaces,
        special: kvm_sregs,
        state: &CpuState,
    ) -> Result<Self, PlatformError> {
        vcpu.set_sregs(&special).map_err(failed("KVM_SET_SREGS"))?;
        let mut vcpu = KvmVcpu {
            vcpu,
            place,
            memory,
            kicker: Arc::default(),
            special,
            result: 0,
            exception: None,
            incomplete: false,
        };
        vcpu.vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_general(state);
        let entry = CpuState::at_entry(0, 0, 0);
        if state.fpu != entry.fpu {
            vcpu.set_fpu(state)?;
        }
        Ok(vcpu)
    }

    /// What the processor pushed for an exception.
    fn frame(&self, vector: u8) -> ExceptionFrame {
        self.place.area.page(self.place.number).frame(&self.memory, vector)
    }

    /// Sets the general registers. They are loaded at the next entry.
    fn set_general(&mut self, state: &CpuState) {
        self.vcpu.sync_regs_mut().regs = registers::general(state);
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
    }

    fn set_fpu(&self, state: &CpuState) -> Result<(), PlatformError> {
        // SAFETY: the area is as large as the call reads: it has no component beyond the first two, and hv enables none of dynamic size.
        unsafe { self.vcpu.set_xsave(&registers::xsave(&state.fpu)) }.map_err(failed("KVM_SET_XSAVE"))
    }

    /// Lets KVM complete the port access of the last exit. Without that, some kinds of KVM leave the instruction pointer before the access.
    fn complete(&mut self) -> Result<(), PlatformError> {
        self.vcpu.set_kvm_immediate_exit(1);
        let completed = self.vcpu.run();
        let failure = match completed {
            Err(error) if error.errno() == libc::EINTR => None,
            Err(error) => Some(error),
            Ok(_) => None,
        };
        self.vcpu.set_kvm_immediate_exit(0);
        self.incomplete = false;
        failure.map_or(Ok(()), |error| Err(failed("KVM_RUN")(error)))
    }

    /// If the guest is in a stub of the hypercall page, moves it back to its own code.
    fn leave_stub(&self, regs: &mut kvm_regs) -> Result<(), PlatformError> {
        let page = self.memory.base().0 + self.place.calls.stubs;
        let Some(offset) = regs.rip.checked_sub(page).filter(|&offset| offset < PAGE_SIZE) else {
            return Ok(());
        };
        match stubs::progress(offset) {
            Progress::NotMade(stub) => {
                regs.rip = page + stub;
                return Ok(());
            }
            Progress::Made => regs.rax = self.result as u64,
            Progress::Returning => {}
        }
        let mut address = [0; 8];
        let stack = GuestAddr(regs.rsp);
        self.memory.read(stack, &mut address).map_err(|_| PlatformError::LostStack(regs.rsp))?;
        regs.rip = u64::from_le_bytes(address);
        regs.rsp += 8;
        Ok(())
    }
}

/// Makes KVM create the kernel thread that it creates for each machine at its first entry (for the recovery of huge
/// pages). If a limit of processes forbids that thread, the start must fail, instead of a guest that waits for ever.
pub(super) fn make_thread(vcpu: &mut VcpuFd) -> Result<(), PlatformError> {
    vcpu.set_kvm_immediate_exit(1);
    let entered = vcpu.run().map(drop);
    vcpu.set_kvm_immediate_exit(0);
    match entered {
        Err(error) if error.errno() == libc::EAGAIN => Err(PlatformError::NoThread),
        Err(error) if error.errno() != libc::EINTR => Err(failed("KVM_RUN")(error)),
        _ => Ok(()),
    }
}

/// Sets the guest's TSC to the host's. Where ring 3 reads the host's counter natively there is nothing to set, and an
/// older kernel that cannot set it fails here. Both are fine, since the guest's clock only starts from it.
pub(super) fn align_tsc(vcpu: &VcpuFd) {
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

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Exit {
        let run: *mut _ = self.vcpu.get_kvm_run();
        let (vcpu, incomplete) = (&mut self.vcpu, &mut self.incomplete);
        let exit = self.kicker.running(run, || {
            let exit = match vcpu.run() {
                Ok(VcpuExit::IoOut(port, data)) => Some(Ok((port, u32::read_from_bytes(data).ok()))),
                Ok(VcpuExit::IoIn(port, _)) => Some(Ok((port, None))),
                Ok(VcpuExit::MmioRead(address, data)) => {
                    Some(Err(Exit::Access(access::of_memory(address, data, false))))
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    Some(Err(Exit::Access(access::of_memory(address, data, true))))
                }
                Ok(VcpuExit::Shutdown) => Some(Err(Exit::Fault(Fault::Shutdown))),
                Ok(VcpuExit::Intr) => None,
                Ok(other) => Some(Err(Exit::Failed(format!("KVM exit {other:?}")))),
                Err(error) if error.errno() == libc::EINTR => None,
                Err(error) => Some(Err(Exit::Failed(format!("KVM_RUN: {error}")))),
            };
            // A kick before KVM is entered completes nothing.
            *incomplete = exit.is_some();
            exit
        });
        self.exception = None;
        let (port, value) = match exit {
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
                Exit::Fault(Fault::Exception { vector, error: self.frame(vector).error, address })
            }
            _ if port >= 256 => {
                access::of_port(&mut self.vcpu).map_or(Exit::Fault(Fault::Port(port)), Exit::Access)
            }
            _ => Exit::Fault(Fault::Port(port)),
        }
    }

    fn access_data(&mut self) -> &mut [u8] {
        access::data(&mut self.vcpu)
    }

    fn set_result(&mut self, value: i64) {
        self.result = value;
        self.memory.atomic_u64(self.place.calls.result).store(value as u64, Ordering::Relaxed);
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
            let frame = self.frame(vector);
            (registers.rip, registers.rsp, registers.rflags) = (frame.rip, frame.rsp, frame.rflags);
        }
        registers
    }

    fn save(&mut self) -> Result<CpuState, PlatformError> {
        self.complete()?;
        let mut general = self.vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?;
        let xsave = self.vcpu.get_xsave().map_err(failed("KVM_GET_XSAVE"))?;
        self.leave_stub(&mut general)?;
        Ok(registers::state(&general, &xsave))
    }

    fn redirect(&mut self, handler: GuestAddr) -> Result<(), PlatformError> {
        // After a kick there is usually nothing to complete, and this costs a quarter of an exit.
        if self.incomplete {
            self.complete()?;
        }
        let mut regs = self.vcpu.sync_regs_mut().regs;
        if self.place.area.contains(regs.rip) {
            // The virtual CPU is in an exception stub, in ring 0, where the guest's code must not continue. Or the guest
            // jumped there, and its fault has not been delivered yet.
            return Ok(());
        }
        self.leave_stub(&mut regs)?;
        regs.rsp = push_return(&self.memory, regs.rsp, regs.rip)?;
        regs.rip = handler.0;
        self.vcpu.sync_regs_mut().regs = regs;
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        Ok(())
    }

    fn reset(&mut self, state: &CpuState) -> Result<(), PlatformError> {
        // A port access of the last exit is not completed first: KVM drops it when the instruction pointer has changed,
        // and no saved state is at such an instruction.
        (self.exception, self.incomplete) = (None, false);
        self.set_fpu(state)?;
        // What else ring 3 can leave behind: segments, CR2, ring 0 in an exception stub, and an exception that was not
        // delivered because of a kick. The next entry takes the new values over without extra calls. What only ring 0 can
        // write needs no reset: debug registers, XCR0 (CR4.OSXSAVE is off), MSRs. Without an interrupt controller a
        // virtual CPU is always runnable, and has no interrupts and NMIs pending.
        let sync = self.vcpu.sync_regs_mut();
        (sync.sregs, sync.events) = (self.special, registers::no_events());
        self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        self.vcpu.set_sync_dirty_reg(SyncReg::VcpuEvents);
        self.set_general(state);
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicker.clone()
    }
}

#[cfg(test)]
mod tests;
