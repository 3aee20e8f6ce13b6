//! The KVM platform: ring-3 guests over a small host-owned supervisor area.

mod access;
mod area;
mod kick;
mod machine;
mod paging;
mod permission;
mod registers;
mod stubs;
mod vcpu;

use super::{HypercallPage, Platform, PlatformError, Start, Started, Vcpu};
use crate::memory::GuestMemory;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::sync::{Mutex, MutexGuard};

/// Port of synchronous hypercalls: 4-byte writes of the call's number.
const HYPERCALL_PORT: u8 = 0xe0;
/// Port of doorbells: 4-byte writes of the event port.
const DOORBELL_PORT: u8 = 0xe4;
/// Ports that only the supervisor stubs may write: base plus exception vector.
const EXCEPTION_PORT: u8 = 0x80;

/// Guests on `/dev/kvm`.
pub struct KvmPlatform {
    kvm: Kvm,
    cpuid: CpuId,
    /// See [`area::TssType`].
    tss: area::TssType,
    /// Empty virtual machines, made in advance.
    ///
    /// To make one, the kernel takes a lock of every mapping of the process (`mm_take_all_locks`). With ten thousand
    /// guests and their mappings this takes milliseconds; before there are guests, a tenth of a millisecond.
    reserve: Mutex<Vec<VmFd>>,
    /// A machine with its first virtual CPU, ready for a guest.
    spare: Mutex<Option<Empty>>,
}

/// A virtual machine with its first virtual CPU and no memory.
struct Empty {
    // The order of the fields is the order of dropping: closing the last of the two closes the machine.
    vcpu: VcpuFd,
    vm: VmFd,
}

fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> PlatformError {
    move |error| PlatformError::Kvm { what, source: std::io::Error::from_raw_os_error(error.errno()) }
}

impl KvmPlatform {
    /// Opens `/dev/kvm` and checks what it offers.
    ///
    /// # Errors
    ///
    /// [`PlatformError::NoKvm`] if the device does not exist, [`PlatformError::NotPermitted`] if this user may not open
    /// it, [`PlatformError::Lacks`] if the kernel is too old.
    pub fn new() -> Result<Self, PlatformError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => PlatformError::NoKvm,
            libc::EACCES | libc::EPERM => PlatformError::NotPermitted(permission::remedy()),
            _ => failed("opening /dev/kvm")(error),
        })?;
        for (cap, name) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(PlatformError::Lacks(name));
            }
        }
        // Since Linux 4.17, with all three kinds of state.
        let kinds = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
        if kvm.check_extension_int(Cap::SyncRegs) & kinds as i32 != kinds as i32 {
            return Err(PlatformError::Lacks("KVM_CAP_SYNC_REGS for SREGS and EVENTS"));
        }
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        kick::install();
        let cpuid = guest_cpuid(&supported);
        Ok(KvmPlatform {
            kvm,
            cpuid,
            tss: area::TssType::of_host(),
            reserve: Mutex::default(),
            spare: Mutex::default(),
        })
    }
}

impl KvmPlatform {
    fn reserved(&self) -> MutexGuard<'_, Vec<VmFd>> {
        self.reserve.lock().expect("no panic while held")
    }

    fn spare(&self) -> MutexGuard<'_, Option<Empty>> {
        self.spare.lock().expect("no panic while held")
    }

    /// Makes an empty virtual machine.
    fn make_vm(&self) -> Result<VmFd, PlatformError> {
        create_vm(&self.kvm).map_err(|error| match error.errno() {
            libc::EBUSY => PlatformError::Busy,
            _ => failed("KVM_CREATE_VM")(error),
        })
    }

    /// Makes what the machines of all guests have in common.
    fn make_machine(&self) -> Result<Empty, PlatformError> {
        let reserved = self.reserved().pop();
        let vm = reserved.map_or_else(|| self.make_vm(), Ok)?;
        let mut vcpu = self.make_vcpu(&vm, 0)?;
        vcpu::make_thread(&mut vcpu)?;
        Ok(Empty { vcpu, vm })
    }

    fn make_vcpu(&self, vm: &VmFd, number: usize) -> Result<VcpuFd, PlatformError> {
        let vcpu = vm.create_vcpu(number as u64).map_err(failed("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&self.cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        vcpu::align_tsc(&vcpu);
        Ok(vcpu)
    }

    /// A machine without a guest, made in advance or now.
    fn take_machine(&self) -> Result<Empty, PlatformError> {
        let spare = self.spare().take();
        spare.map_or_else(|| self.make_machine(), Ok)
    }
}

/// The type of TSS that the processors of this host require in TR.
pub fn task_type() -> u8 {
    area::TssType::of_host().descriptor_type()
}

/// Makes a VM. The kernel returns EINTR when it has something pending for this thread, such as the end of an io_uring of
/// an earlier guest. That is no failure, and the next try succeeds.
///
/// # Errors
///
/// The error from KVM, except EINTR.
pub fn create_vm(kvm: &Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}

/// The CPUID of guests where the platform can filter it: that of the processor without KVM's own leaves (a guest talks to
/// hv, not to KVM), without features that ring 3 cannot use, and without AVX, whose state guests do not have.
fn guest_cpuid(supported: &CpuId) -> CpuId {
    const X2APIC: u32 = 1 << 21;
    const TSC_DEADLINE: u32 = 1 << 24;
    const XSAVE: u32 = 1 << 26;
    const OSXSAVE: u32 = 1 << 27;
    const AVX: u32 = 1 << 28;
    const F16C: u32 = 1 << 29;
    const FMA: u32 = 1 << 12;
    const AVX2: u32 = 1 << 5;
    const AVX512_AND_RELATED: u32 = 0xdc23_0000;
    const HYPERVISOR_LEAVES: std::ops::Range<u32> = 0x4000_0000..0x5000_0000;
    let entries: Vec<_> = supported
        .as_slice()
        .iter()
        .filter(|entry| !HYPERVISOR_LEAVES.contains(&entry.function) && entry.function != 0xd)
        .map(|entry| {
            let mut entry = *entry;
            match (entry.function, entry.index) {
                (1, _) => entry.ecx &= !(X2APIC | TSC_DEADLINE | XSAVE | OSXSAVE | AVX | F16C | FMA),
                (7, 0) => {
                    entry.ebx &= !(AVX2 | AVX512_AND_RELATED);
                    // VAES, VPCLMULQDQ and the later AVX-512 parts.
                    entry.ecx &= !0x0000_5f42;
                }
                _ => {}
            }
            entry
        })
        .collect();
    CpuId::from_entries(&entries).expect("no more entries than KVM gave")
}

impl Platform for KvmPlatform {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn kind(&self) -> crate::platform::PlatformKind {
        crate::platform::PlatformKind::Kvm
    }

    fn prepare(&self, memory: &GuestMemory, pages: &[HypercallPage]) -> Result<(), PlatformError> {
        area::Area::of(memory, pages.len()).build(memory, self.tss)?;
        for page in pages {
            memory.host_write(page.stubs, &stubs::page(page.stubs - page.result));
        }
        Ok(())
    }

    fn reserve(&self, machines: usize) -> usize {
        let mut reserve = self.reserved();
        while reserve.len() < machines {
            match self.make_vm() {
                Ok(machine) => reserve.push(machine),
                Err(error) => {
                    tracing::debug!("reserving virtual machines: {error}");
                    break;
                }
            }
        }
        reserve.len()
    }

    fn prepare_machine(&self) -> Result<(), PlatformError> {
        if self.spare().is_none() {
            // Without the lock, so that a start need not wait for this.
            let machine = self.make_machine()?;
            *self.spare() = Some(machine);
        }
        Ok(())
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, PlatformError> {
        let Empty { vcpu, vm } = self.take_machine()?;
        let more = (1..start.vcpus.len()).map(|number| self.make_vcpu(&vm, number));
        let fds = std::iter::once(Ok(vcpu)).chain(more).collect::<Result<Vec<_>, _>>()?;
        let tsc_khz = fds[0].get_tsc_khz().unwrap_or_else(|_| hv_host::clock::tsc_khz());
        let machine = machine::KvmMachine::new(vm, start.memory, tsc_khz, start.doorbells > 0)?;
        let area = area::Area::of(start.memory, start.vcpus.len());
        // What is opened is opened to all virtual CPUs.
        let limit = start.opening.map(|opening| area.open(start.memory, opening, self.tss)).transpose()?;
        let vcpus = fds.into_iter().zip(start.vcpus).enumerate().map(|(number, (fd, vcpu))| {
            let mut special = registers::special(area, area.page(number), self.tss);
            if let Some(limit) = limit {
                special.tr.limit = limit.into();
            }
            let place = vcpu::VcpuPlaces { area, number, calls: vcpu.page };
            let vcpu = vcpu::KvmVcpu::new(fd, start.memory.clone(), place, special, vcpu.state)?;
            Ok(Box::new(vcpu) as Box<dyn Vcpu>)
        });
        Ok(Started { vcpus: vcpus.collect::<Result<_, PlatformError>>()?, machine: Box::new(machine) })
    }
}
