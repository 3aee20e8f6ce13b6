//! ⚠ Accesses to emulated hardware, as KVM reports them in its `kvm_run` page.
#![allow(unsafe_code, reason = "port and MMIO accesses in `kvm_run`")]

use crate::platform::{BusAccess, Space};
use hv_abi::PAGE_SIZE;
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

/// The port access that caused the last exit: the port, the size of an element, whether it writes, and the bytes of all elements, of which a
/// string instruction may move many at once. `None` for another exit.
fn port_access(run: &mut kvm_run) -> Option<(u16, u8, bool, &mut [u8])> {
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: the exit's reason says which member of the union the kernel filled.
    let io = unsafe { run.__bindgen_anon_1.io };
    let bytes = usize::from(io.size).checked_mul(io.count as usize)?;
    if !matches!(io.size, 1 | 2 | 4) || bytes > PAGE_SIZE as usize {
        return None;
    }
    // SAFETY: the kernel says where in the mapping that begins with `kvm_run` it
    // keeps the data of a port access; it is a page, mapped as long as the virtual
    // CPU's descriptor, whose exclusive borrow `run` comes from.
    let data = unsafe {
        let start = std::ptr::from_mut(run).cast::<u8>().add(io.data_offset as usize);
        std::slice::from_raw_parts_mut(start, bytes)
    };
    Some((io.port, io.size, u32::from(io.direction) == KVM_EXIT_IO_OUT, data))
}

/// The port access that caused the last exit: its first element.
pub(super) fn of_port(vcpu: &mut VcpuFd) -> Option<BusAccess> {
    let (port, size, write, data) = port_access(vcpu.get_kvm_run())?;
    let value = write.then(|| number(data.get(..size.into()).unwrap_or_default()));
    Some(BusAccess { space: Space::Port, address: port.into(), size, value })
}

/// The bytes of the access that caused the last exit: what is written, or where KVM looks for what is read.
pub(super) fn data(vcpu: &mut VcpuFd) -> &mut [u8] {
    let run = vcpu.get_kvm_run();
    if run.exit_reason == KVM_EXIT_MMIO {
        // SAFETY: the exit's reason says which member of the union the kernel filled; any bytes are a value of it.
        let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
        let len = (mmio.len as usize).min(mmio.data.len());
        return &mut mmio.data[..len];
    }
    port_access(run).map_or(&mut [], |(.., data)| data)
}
