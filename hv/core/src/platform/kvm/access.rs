//! ⚠ Accesses to emulated hardware, as KVM reports them in its `kvm_run` page.
#![allow(unsafe_code, reason = "port and MMIO accesses in `kvm_run`")]

use crate::platform::{BusAccess, Space};
use kvm_bindings::{KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO, kvm_run};
use kvm_ioctls::VcpuFd;

/// An access to a page without memory. KVM reports 1 to 8 bytes.
pub(super) fn of_memory(address: u64, data: &[u8], write: bool) -> BusAccess {
    let value = write.then(|| number(data));
    BusAccess { space: Space::Memory, address, size: data.len() as u8, value }
}

fn number(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(bytes)
}

/// The bytes of the port access that caused the last exit, and how to read the rest of it. `None` for another exit, and
/// for a string instruction that moves several elements at once.
fn port_access(run: &mut kvm_run) -> Option<(u16, bool, &mut [u8])> {
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: the exit's reason says which member of the union the kernel filled.
    let io = unsafe { run.__bindgen_anon_1.io };
    if io.count != 1 || !matches!(io.size, 1 | 2 | 4) {
        return None;
    }
    // SAFETY: the kernel says where in the mapping that begins with `kvm_run` it
    // keeps the data of a port access; it is a page, mapped as long as the virtual
    // CPU's descriptor, whose exclusive borrow `run` comes from.
    let data = unsafe {
        let start = std::ptr::from_mut(run).cast::<u8>().add(io.data_offset as usize);
        std::slice::from_raw_parts_mut(start, io.size.into())
    };
    Some((io.port, u32::from(io.direction) == KVM_EXIT_IO_OUT, data))
}

/// The port access that caused the last exit.
pub(super) fn of_port(vcpu: &mut VcpuFd) -> Option<BusAccess> {
    let (port, write, data) = port_access(vcpu.get_kvm_run())?;
    let value = write.then(|| number(data));
    Some(BusAccess { space: Space::Port, address: port.into(), size: data.len() as u8, value })
}

/// Gives the value to the read that caused the last exit.
pub(super) fn answer(vcpu: &mut VcpuFd, value: u64) {
    let run = vcpu.get_kvm_run();
    if run.exit_reason == KVM_EXIT_MMIO {
        run.__bindgen_anon_1.mmio.data = value.to_le_bytes();
    } else if let Some((_, _, data)) = port_access(run) {
        data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
}
