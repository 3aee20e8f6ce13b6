//! The page that tells a guest where everything is.
//!
//! Written by the host before the guest starts, read-only to the guest. RDI
//! holds its address at the entry point. The image is already relocated, RSP
//! is the top of a stack with a guard page below it, and nothing else about
//! the registers is promised.

use crate::{GuestAddr, layout::layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of start-info.
pub const MAGIC: [u8; 8] = *b"hv-start";

bitflags::bitflags! {
    /// Processor features that the guest may use beyond SSE2. CPUID may show more
    /// than the platform lets a guest use; these bits are the truth.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CpuFeatures: u32 {
        /// The host runs the clock page on an invariant TSC.
        const INVARIANT_TSC = 1 << 0;
        /// `rdrand` works.
        const RDRAND = 1 << 1;
    }
}

/// See the module's text. Addresses are the guest's; sizes are bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Major version of the host's ABI.
    pub abi_major: u16,
    /// Minor version of the host's ABI.
    pub abi_minor: u16,
    /// Bytes of this struct as the host knows it. Fields beyond it are absent.
    pub size: u32,
    /// [`CpuFeatures`] bits.
    pub cpu_features: u32,
    /// Virtual CPUs of this guest, running or not: 1 to [`crate::vcpu::MAX`].
    pub vcpus: u32,
    /// Start of the guest's memory.
    pub memory_base: GuestAddr,
    /// Size of the guest's memory, all told.
    pub memory_size: u64,
    /// Where the image's address 0 was loaded.
    pub image_base: GuestAddr,
    /// Start of the free memory, the guest's heap; page-aligned.
    pub heap_base: GuestAddr,
    /// Size of the free memory.
    pub heap_size: u64,
    /// Lowest usable byte of the stack; the page below is not mapped.
    pub stack_base: GuestAddr,
    /// Size of the stack.
    pub stack_size: u64,
    /// The hypercall page, see [`crate::hypercall`].
    pub hypercall_page: GuestAddr,
    /// The shared-info page, see [`crate::shared_info`].
    pub shared_info: GuestAddr,
    /// Arguments, each ended by a NUL byte; the first is the guest's name.
    pub arguments: GuestAddr,
    /// Environment, `KEY=VALUE` each, each ended by a NUL byte.
    pub environment: GuestAddr,
    /// Bytes of the arguments, NULs included.
    pub arguments_size: u32,
    /// Bytes of the environment, NULs included.
    pub environment_size: u32,
    /// The device table: [`crate::device::DeviceInfo`] entries.
    pub devices: GuestAddr,
    /// Number of entries in the device table.
    pub device_count: u32,
    /// Bytes from one entry of the device table to the next.
    pub device_stride: u32,
    /// Random bytes, different for every guest that is started.
    pub seed: [u8; 32],
    /// What virtual CPUs from 1 on have of their own: an array of [`crate::vcpu::VcpuInfo`], one for each; 0 in a guest
    /// that has none (ABI 1.4).
    pub vcpu_info: GuestAddr,
    /// The [free map](crate::free_map) of the heap (ABI 1.5).
    pub free_map: GuestAddr,
}

layout!(StartInfo: 184 {
    magic @ 0, abi_major @ 8, abi_minor @ 10, size @ 12, cpu_features @ 16, vcpus @ 20,
    memory_base @ 24, memory_size @ 32, image_base @ 40, heap_base @ 48, heap_size @ 56,
    stack_base @ 64, stack_size @ 72, hypercall_page @ 80, shared_info @ 88,
    arguments @ 96, environment @ 104, arguments_size @ 112, environment_size @ 116,
    devices @ 120, device_count @ 128, device_stride @ 132, seed @ 136, vcpu_info @ 168,
    free_map @ 176,
});
