//! ⚠ The floor: a ring-3 guest from nothing but KVM calls.
//!
//! What any monitor with this guest model has to do at least: make a VM, give
//! it memory, make a virtual CPU, set its CPUID and registers, and run. The
//! guest is a few instructions that write to a port.
#![allow(unsafe_code, reason = "the memory slot of a VM of bare KVM calls, whose guest is hv's own")]

use hv_core::platform::kvm::{create_vm, task_type};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use vmm_sys_util::eventfd::EventFd;

/// Port of an exit to user space.
const EXIT_PORT: u8 = 0xe0;
/// Port of a doorbell.
const BELL_PORT: u8 = 0xe4;

/// Bytes of a large page.
const LARGE: usize = 2 << 20;

// Guest-physical places: three page tables, the TSS, the code, the stack's end.
const TOP: u64 = 0x1000;
const POINTERS: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const TASK: u64 = 0x4000;
const CODE: u64 = 0x5000;
const STACK: u64 = 0x8000;

/// Memory of the floor's guest unless another size is asked for: what `hv run` gives.
pub const MEMORY: usize = 16 << 20;

/// Why the bare calls failed.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// A call of KVM.
    #[error(transparent)]
    Kvm(#[from] kvm_ioctls::Error),
    /// No memory for the guest.
    #[error("cannot map the floor's memory: {0}")]
    Memory(#[from] vm_memory::mmap::MmapRegionError),
    /// The guest left in another way than its program does.
    #[error("the floor's guest exited with {0}")]
    Exit(String),
}

/// What is made once per process.
pub struct Floor {
    kvm: Kvm,
    cpuid: CpuId,
}

/// A running floor guest.
pub struct FloorVm {
    vcpu: VcpuFd,
    _others: Vec<VcpuFd>,
    _vm: VmFd,
    _memory: MmapRegion,
}

/// What the floor's guest does.
#[derive(Clone, Copy, Debug)]
pub enum FloorProgram {
    /// Exits to user space for ever.
    Exits,
    /// The same by a store to an address that no memory backs.
    Stores,
    /// Rings the doorbell `n` times, exits to user space, and so on.
    Bells(u32),
}

impl FloorProgram {
    fn code(self) -> Vec<u8> {
        match self {
            // xor %eax, %eax; 1: out %eax, $EXIT; jmp 1b
            FloorProgram::Exits => vec![0x31, 0xc0, 0xe7, EXIT_PORT, 0xeb, 0xfc],
            // mov $MEMORY, %ebx; 1: mov %eax, (%rbx); jmp 1b
            FloorProgram::Stores => {
                let at = (MEMORY as u32).to_le_bytes();
                vec![0xbb, at[0], at[1], at[2], at[3], 0x89, 0x03, 0xeb, 0xfc]
            }
            FloorProgram::Bells(n) => {
                let n = n.to_le_bytes();
                // 1: mov $n, %ecx; mov $2, %eax
                let mut code = vec![0xb9, n[0], n[1], n[2], n[3], 0xb8, 2, 0, 0, 0];
                // 2: out %eax, $BELL; dec %ecx; jnz 2b
                code.extend([0xe7, BELL_PORT, 0xff, 0xc9, 0x75, 0xfa]);
                // out %eax, $EXIT; jmp 1b
                code.extend([0xe7, EXIT_PORT, 0xeb, 0xec]);
                code
            }
        }
    }
}

impl Floor {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn new() -> Result<Floor, FloorError> {
        let kvm = Kvm::new()?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        Ok(Floor { kvm, cpuid })
    }

    /// The bare sequence, up to the point where the guest can run.
    ///
    /// # Errors
    ///
    /// What the host's kernel refuses.
    pub fn start(&self, program: FloorProgram, bell: Option<&EventFd>) -> Result<FloorVm, FloorError> {
        self.start_with(program, bell, 1)
    }

    /// The same with so many virtual CPUs, at least one. The others have the same registers, and are not run.
    ///
    /// # Errors
    ///
    /// What the host's kernel refuses.
    pub fn start_with(
        &self,
        program: FloorProgram,
        bell: Option<&EventFd>,
        vcpus: usize,
    ) -> Result<FloorVm, FloorError> {
        let memory = MmapRegion::new(MEMORY)?;
        // Where the host gives huge pages unasked, it would clear 2 MiB for these few bytes. An
        // error says that it has none.
        // SAFETY: the range is this mapping's, of private memory without a name; which size its
        // pages have changes nothing that is in them.
        let _ = unsafe { libc::madvise(memory.as_ptr().cast(), MEMORY, libc::MADV_NOHUGEPAGE) };
        let bytes = memory.as_volatile_slice();
        let put = |at: u64, value: u64| bytes.write_obj(value, at as usize).expect("inside");
        // Present, writable, user; large pages in the directory.
        put(TOP, POINTERS | 7);
        put(POINTERS, DIRECTORY | 7);
        // One large page more than there is memory: stores there are MMIO.
        for n in 0..=(MEMORY / LARGE) as u64 {
            put(DIRECTORY + 8 * n, n << 21 | 0xe7);
        }
        // The I/O bitmap behind the TSS: ports 0xe0 to 0xe7 are open.
        put(TASK + 96, 104 << 48);
        for n in 0..4 {
            put(TASK + 104 + 8 * n, u64::MAX);
        }
        bytes.write_obj(0u8, TASK as usize + 104 + 0xe0 / 8).expect("inside");
        bytes.write_slice(&program.code(), CODE as usize).expect("inside");

        let vm = create_vm(&self.kvm)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.as_ptr() as u64,
        };
        // SAFETY: the mapping lives as long as the VM: `FloorVm` drops it last.
        unsafe { vm.set_user_memory_region(region) }?;
        if let Some(bell) = bell {
            vm.register_ioevent(bell, &IoEventAddress::Pio(u64::from(BELL_PORT)), 2u32)?;
        }
        let make = |number: usize| {
            let vcpu = vm.create_vcpu(number as u64)?;
            vcpu.set_cpuid2(&self.cpuid)?;
            vcpu.set_sregs(&sregs())?;
            vcpu.set_regs(&kvm_regs { rip: CODE, rsp: STACK, rflags: 0x202, ..kvm_regs::default() })?;
            Ok::<_, FloorError>(vcpu)
        };
        let vcpu = make(0)?;
        let others = (1..vcpus).map(make).collect::<Result<_, _>>()?;
        Ok(FloorVm { vcpu, _others: others, _vm: vm, _memory: memory })
    }
}

impl FloorVm {
    /// Runs to the next exit, which has to be the program's.
    ///
    /// # Errors
    ///
    /// When KVM fails, or the guest exits in another way.
    pub fn run(&mut self) -> Result<(), FloorError> {
        loop {
            return match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) if port == u16::from(EXIT_PORT) => Ok(()),
                Ok(VcpuExit::MmioWrite(address, _)) if address == MEMORY as u64 => Ok(()),
                Ok(other) => Err(FloorError::Exit(format!("{other:?}"))),
                // A kick for a guest of hv that this thread ran before.
                Err(error) if error.errno() == libc::EINTR => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}

fn sregs() -> kvm_sregs {
    let segment = |selector: u16, type_: u8, code: bool| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..kvm_segment::default()
    };
    let data = segment(0x1b, 3, false);
    let mut sregs = kvm_sregs {
        cs: segment(0x23, 11, true),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment {
            base: TASK,
            limit: 104 + 0xe8 / 8,
            selector: 0x28,
            type_: task_type(),
            present: 1,
            ..kvm_segment::default()
        },
        cr0: 0x8001_0033,
        cr3: TOP,
        cr4: 0x620,
        efer: 0xd00,
        ..kvm_sregs::default()
    };
    sregs.ldt.unusable = 1;
    sregs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

    /// What upcalls rely on. QEMU 10's emulated SVM fails this with two processors: registers
    /// of the host's kernel come back as the guest's.
    #[test]
    fn a_guest_that_is_interrupted_keeps_its_registers() {
        let Ok(floor) = Floor::new() else {
            hv_skip::skip("needs the platform kvm");
            return;
        };
        let kicks: u32 = std::env::var("HV_KICKS").ok().and_then(|kicks| kicks.parse().ok()).unwrap_or(1000);
        let signal = SIGRTMIN() + 1;
        register_signal_handler(signal, nothing).unwrap();
        let start = || {
            let mut vm = floor.start(FloorProgram::Exits, None).unwrap();
            std::thread::spawn(move || {
                let vm = &mut vm; // The whole, its memory included.
                for kick in 0..kicks {
                    let error = loop {
                        match vm.vcpu.run() {
                            Ok(exit) => assert!(matches!(exit, VcpuExit::IoOut(..)), "{exit:?}"),
                            Err(error) => break error.errno(),
                        }
                    };
                    assert_eq!(error, libc::EINTR);
                    let registers = vm.vcpu.get_regs().unwrap();
                    assert!((CODE..CODE + 6).contains(&registers.rip), "kick {kick}: {registers:x?}");
                    assert_eq!((registers.rsp, registers.rax), (STACK, 0), "kick {kick}: {registers:x?}");
                }
            })
        };
        let guests = [start(), start()];
        let mut round = 0;
        while guests.iter().any(|guest| !guest.is_finished()) {
            for guest in guests.iter().filter(|guest| !guest.is_finished()) {
                guest.kill(signal).unwrap();
            }
            // At all distances from the exits.
            round += 1;
            std::thread::sleep(Duration::from_micros(round * 7 % 200));
        }
        for guest in guests {
            guest.join().unwrap();
        }
    }
}
