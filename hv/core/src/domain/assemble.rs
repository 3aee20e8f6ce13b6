//! From a configuration to a running guest: validate, lay out, load, start, connect.

use super::devices::Devices;
use super::fresh::{Fresh, MAX_MEMORY, MAX_VCPUS, MIN_STACK, Strings};
use super::launch::Launch;
use super::layout::{Layout, Needs};
use super::resources::Resources;
use super::{Guest, Offsets, StartError, TargetError};
use crate::device::console::Console;
use crate::engine::Engine;
use crate::event::vcpu_info;
use crate::hypercall;
use crate::memory::GuestMemory;
use crate::platform::CpuState;
use hv_abi::device::DeviceInfo;
use hv_abi::shared_info::{EVENT_WORDS, SharedInfo};
use hv_abi::start_info::{CpuFeatures, MAGIC, StartInfo};
use hv_abi::vcpu::VcpuInfo;
use hv_abi::{ABI_VERSION, GuestAddr, PAGE_SIZE, ring};
use std::mem::offset_of;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use zerocopy::IntoBytes;

/// Starts the guest that was described.
pub(super) fn spawn(config: Fresh, resources: Resources, engine: &Engine) -> Result<Guest, StartError> {
    let begin = Instant::now();
    let strings = config.strings()?;
    let promise = resources.promise(&engine.inner.budget, config.memory, config.memory)?;
    let console = Console::new(resources.output, resources.input);
    let mut devices = Devices::new(console.clone(), resources.back_ends);
    let layout = lay_out(&config, &strings, &devices)?;
    let shared = engine.inner.platform.shares_memory();
    let memory = load(&config, &strings, &mut devices, &layout, shared)?;
    if resources.share_equal_pages {
        memory.share_equal_pages()?;
    }
    let at = |offset: u64| memory.base().0 + offset;
    let first = CpuState::at_entry(
        at(layout.image + config.image.entry()),
        at(layout.stack.end),
        at(layout.start_info),
    );
    let places = Offsets {
        image: layout.image,
        stack: layout.stack.start,
        devices: layout.devices,
        device_count: devices.count() as u64,
        hypercall_page: layout.hypercall_page,
        shared_info: layout.shared_info,
        upcall: 0,
        free_map: layout.free_map,
        heap: layout.heap.start,
    };
    engine.inner.platform.prepare(&memory, &places.hypercall_pages(config.vcpus))?;
    let mut cpus = vec![CpuState::stopped(); config.vcpus];
    cpus[0] = first;
    Launch {
        cpus,
        places,
        name: config.name,
        image: config.image,
        memory,
        devices,
        bus: config.bus,
        console,
        errors: resources.errors,
        share: resources.share,
        group: resources.group,
        promise,
        pause_at_ready: config.pause_at_ready,
        resumed: None,
        hook: None,
        load: begin.elapsed(),
    }
    .start(engine)
}

/// Lays out the memory. If it is too small, the error says how much is needed.
fn lay_out(config: &Fresh, strings: &Strings, devices: &Devices) -> Result<Layout, StartError> {
    if !config.memory.is_multiple_of(PAGE_SIZE) || config.memory > MAX_MEMORY {
        return Err(StartError::MemorySize(config.memory));
    }
    if let Some(stack) = config.stack
        && (!stack.is_multiple_of(PAGE_SIZE) || !(MIN_STACK..=MAX_MEMORY).contains(&stack))
    {
        return Err(StartError::StackSize(stack));
    }
    if !(1..=MAX_VCPUS).contains(&config.vcpus) {
        return Err(StartError::Vcpus(config.vcpus));
    }
    if let Some(target) = config.vcpus_target {
        TargetError::check_vcpus(target, config.vcpus)?;
    }
    let note = config.image.note();
    let too_small = |needed: u64| StartError::MemoryTooSmall {
        name: config.name.clone(),
        given: config.memory >> 10,
        needed: needed.div_ceil(1024),
    };
    if config.memory < note.min_memory {
        return Err(too_small(note.min_memory.next_multiple_of(PAGE_SIZE)));
    }
    Layout::new(&Needs {
        memory_size: config.memory,
        vcpus: config.vcpus,
        devices: devices.count(),
        arguments: strings.arguments.len(),
        environment: strings.environment.len(),
        rings: &devices.ring_sizes(),
        image_size: config.image.size(),
        image_alignment: config.image.alignment(),
        segments: config.image.segments(),
        stack_size: config.stack.unwrap_or_else(|| note.stack_size.into()),
    })
    .map_err(|error| too_small(error.needed))
}

/// Makes the guest's memory and fills in everything except what the platform adds.
fn load(
    config: &Fresh,
    strings: &Strings,
    devices: &mut Devices,
    layout: &Layout,
    shared: bool,
) -> Result<Arc<GuestMemory>, StartError> {
    let mut place = [0; 8];
    let mut seed = [0; 32];
    hypercall::random(&mut place).map_err(StartError::Random)?;
    hypercall::random(&mut seed).map_err(StartError::Random)?;
    let base = random_base(u64::from_le_bytes(place), config.memory);
    let mut memory = match shared {
        true => GuestMemory::new_shared(base, config.memory)?,
        false => GuestMemory::new(base, config.memory)?,
    };
    for (range, access) in &layout.access {
        memory.allow(range.clone(), *access);
    }
    let memory = Arc::new(memory);
    for range in layout.boot_pages() {
        memory.populate(range);
    }
    let at = |offset: u64| GuestAddr(memory.base().0 + offset);
    let image = &config.image;
    image.load(at(layout.image).0, &mut |offset, bytes| memory.host_write(layout.image + offset, bytes));
    devices.place(memory.base(), &layout.rings);
    let table = devices.table();
    let start_info = StartInfo {
        magic: MAGIC,
        abi_major: ABI_VERSION.major,
        abi_minor: ABI_VERSION.minor,
        size: size_of::<StartInfo>() as u32,
        cpu_features: cpu_features().bits(),
        vcpus: config.vcpus as u32,
        memory_base: memory.base(),
        memory_size: memory.size(),
        image_base: at(layout.image),
        heap_base: at(layout.heap.start),
        heap_size: layout.heap.end - layout.heap.start,
        stack_base: at(layout.stack.start),
        stack_size: layout.stack.end - layout.stack.start,
        hypercall_page: at(layout.hypercall_page),
        shared_info: at(layout.shared_info),
        arguments: at(layout.arguments),
        environment: at(layout.environment),
        arguments_size: strings.arguments.len() as u32,
        environment_size: strings.environment.len() as u32,
        devices: at(layout.devices),
        device_count: table.len() as u32,
        device_stride: size_of::<DeviceInfo>() as u32,
        seed,
        vcpu_info: match config.vcpus {
            1 => GuestAddr(0),
            _ => at(vcpu_info(layout.shared_info, 1).start),
        },
        free_map: at(layout.free_map),
    };
    memory.host_write(layout.start_info, start_info.as_bytes());
    memory.host_write(layout.devices, table.as_bytes());
    memory.host_write(layout.arguments, &strings.arguments);
    memory.host_write(layout.environment, &strings.environment);
    let mask = layout.shared_info + offset_of!(SharedInfo, mask) as u64;
    memory.host_write(mask, [u64::MAX; EVENT_WORDS].as_bytes());
    let target = layout.shared_info + offset_of!(SharedInfo, vcpus_target) as u64;
    memory.host_write(target, (config.vcpus_target.unwrap_or(config.vcpus) as u32).as_bytes());
    for place in vcpu_info(layout.shared_info, config.vcpus).step_by(size_of::<VcpuInfo>()) {
        memory.host_write(place, VcpuInfo::START.as_bytes());
    }
    Ok(memory)
}

/// Where a guest of this size is put: at a random multiple of 2 MiB (so that
/// large pages can be used) in the lower half of the address space, above its
/// first 512 GiB, within one region of 512 GiB (so that one table of each
/// upper level is enough).
fn random_base(random: u64, size: u64) -> GuestAddr {
    let region = 1 + random % REGIONS;
    let places = (REGION - size) / ALIGN;
    GuestAddr(region * REGION + (random / REGIONS) % places * ALIGN)
}

const ALIGN: u64 = 2 << 20;
const REGION: u64 = 512 << 30;
const REGIONS: u64 = 254;

/// Whether a guest of this size may have been put here.
pub(crate) fn is_base(base: u64, size: u64) -> bool {
    let region = base / REGION;
    let size_is_right = (1..=MAX_MEMORY).contains(&size) && size.is_multiple_of(PAGE_SIZE);
    size_is_right
        && base.is_multiple_of(ALIGN)
        && (1..=REGIONS).contains(&region)
        && base % REGION <= REGION - size
}

/// The features of this host's processor that guests may use (Intel SDM volume 2, CPUID: leaf 1, and leaf 80000007H).
fn cpu_features() -> CpuFeatures {
    use std::arch::x86_64::__cpuid;
    // Read once: under another hypervisor each CPUID takes a microsecond or more.
    static FEATURES: OnceLock<CpuFeatures> = OnceLock::new();
    *FEATURES.get_or_init(|| {
        let mut features = CpuFeatures::empty();
        features.set(CpuFeatures::RDRAND, __cpuid(1).ecx & 1 << 30 != 0);
        let power = __cpuid(0x8000_0000).eax >= 0x8000_0007;
        features.set(CpuFeatures::INVARIANT_TSC, power && __cpuid(0x8000_0007).edx & 1 << 8 != 0);
        features
    })
}

const _: () = assert!(ring::ALIGNMENT as u64 <= PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_fits_where_it_is_put() {
        for size in [16 << 20, 1 << 30, MAX_MEMORY] {
            for random in [0, 1, 12345, u64::MAX, u64::MAX - 1, 0x5555_5555_5555_5555] {
                let base = random_base(random, size).0;
                assert!(base >= 512 << 30 && base + size <= 1 << 47);
                assert_eq!(base >> 39, (base + size - 1) >> 39);
                assert!(is_base(base, size));
                assert!(!is_base(base + PAGE_SIZE, size) && !is_base(base, size + 1));
            }
        }
    }
}
