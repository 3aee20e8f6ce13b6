//! ⚠ What the virtual CPUs of a guest share: the VM.
//!
//! # Invariant that the `unsafe` block relies on
//!
//! The memory slot's user-space mapping outlives the VM, which lives as long as one of its descriptors. [`KvmMachine`]
//! and each `KvmVcpu` have such a descriptor. They also own the memory, and drop it after the descriptor.
#![allow(unsafe_code, reason = "the memory slot")]

use super::{DOORBELL_PORT, failed};
use crate::memory::GuestMemory;
use crate::platform::{Machine, PlatformError};
use hv_abi::EventPort;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

pub(super) struct KvmMachine {
    // The order of the fields is the order of dropping (invariant).
    /// Kept only if doorbells may be bound. The virtual CPUs keep the VM alive in any case.
    vm: Option<VmFd>,
    _memory: Arc<GuestMemory>,
    tsc_khz: u32,
}

impl KvmMachine {
    /// The machine of a VM that has its virtual CPUs and gets its memory now.
    pub(super) fn new(
        vm: VmFd,
        memory: &Arc<GuestMemory>,
        tsc_khz: u32,
        doorbells: bool,
    ) -> Result<Self, PlatformError> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.size() + memory.tail(),
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the mapping outlives the VM (invariant).
        unsafe { vm.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        Ok(KvmMachine { vm: doorbells.then_some(vm), _memory: memory.clone(), tsc_khz })
    }

    fn bind(&self, address: &IoEventAddress, value: Option<u32>, bell: &EventFd) -> io::Result<()> {
        let vm = self.vm.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        match value {
            Some(value) => vm.register_ioevent(bell, address, value),
            None => vm.register_ioevent(bell, address, NoDatamatch),
        }
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

impl Machine for KvmMachine {
    fn bind_doorbell(&mut self, port: EventPort, descriptor: &EventFd) -> io::Result<()> {
        self.bind(&IoEventAddress::Pio(u64::from(DOORBELL_PORT)), Some(port.0), descriptor)
    }

    fn bind_address(&mut self, address: u64, descriptor: &EventFd) -> io::Result<()> {
        self.bind(&IoEventAddress::Mmio(address), None, descriptor)
    }

    fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }
}
