//! From an image and some wishes to a running guest.

use super::devices::{Backend, ConnectError, Connected, Devices};
use super::layout::{Layout, Needs};
use super::{BootPhases, Counters, Cpu, Domain, Guest, Order, Outcome, Stop};
use crate::clock;
use crate::device::block::{Disk, EngineKind};
use crate::device::console::{Console, Input, Output};
use crate::device::net::{Capture, Network};
use crate::device::stdio::Buffer;
use crate::engine::Engine;
use crate::event::{Hub, Owner};
use crate::hypercall;
use crate::loader::Image;
use crate::memory::{GuestMemory, MapError};
use crate::platform::{PlatformError, Start};
use hv_abi::device::DeviceInfo;
use hv_abi::shared_info::{EVENT_WORDS, SharedInfo};
use hv_abi::start_info::{CpuFeatures, MAGIC, StartInfo};
use hv_abi::{ABI_VERSION, GuestAddr, PAGE_SIZE, ring};
use std::io;
use std::mem::offset_of;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::Instant;
use zerocopy::IntoBytes;

/// Memory of a guest that nobody gave a size: 16 MiB.
pub const DEFAULT_MEMORY: u64 = 16 << 20;

/// Most memory of a guest: 64 GiB.
pub const MAX_MEMORY: u64 = 64 << 30;

/// Most bytes of arguments and of environment, each.
pub const MAX_STRINGS: usize = 128 << 10;

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The memory is too small for the image.
    #[error(
        "{name}: {given} KiB of memory are too little: the image, its stack and its rings need {needed} KiB (--memory {needed}K)"
    )]
    MemoryTooSmall {
        /// The guest.
        name: String,
        /// What was given, in KiB.
        given: u64,
        /// What is needed, in KiB.
        needed: u64,
    },
    /// The size is no number of pages, or beyond [`MAX_MEMORY`].
    #[error("a memory size of {0} bytes is not a multiple of 4096 up to 64 GiB")]
    MemorySize(u64),
    /// Arguments or environment are too long.
    #[error("the {what} are {len} bytes long; at most {MAX_STRINGS} fit")]
    TooLong {
        /// Which of them.
        what: &'static str,
        /// Their length.
        len: usize,
    },
    /// A NUL byte in an argument or variable.
    #[error("the {0} contain a NUL byte")]
    Nul(&'static str),
    /// No memory.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The platform refused.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A device could not be started.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No random numbers.
    #[error("cannot read random numbers: {0}")]
    Random(io::Error),
}

/// Describes a guest, then starts it.
///
/// ```no_run
/// use hv::{Builder, Engine, Image, KvmPlatform, Outcome, device::stdio::Buffer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new(KvmPlatform::new()?, 0)?;
/// let image = Image::open("target/guest/hello".as_ref())?;
/// let output = Buffer::default();
/// let guest = Builder::new(image)
///     .memory(8 << 20)
///     .argument("world")
///     .output(output.clone())
///     .spawn(&engine)?;
/// match guest.wait() {
///     Outcome::Exited(code) => println!("{} (exit code {code})", output.text()),
///     Outcome::Crashed(report) => eprintln!("{report}"),
///     Outcome::Stopped(reason) => eprintln!("stopped: {reason:?}"),
/// }
/// # Ok(()) }
/// ```
pub struct Builder {
    image: Arc<Image>,
    name: String,
    memory: u64,
    arguments: Vec<u8>,
    environment: Vec<u8>,
    output: Box<dyn Output>,
    input: Option<Box<dyn Input>>,
    devices: Vec<Backend>,
}

impl Builder {
    /// A guest of this image, with [`DEFAULT_MEMORY`], no arguments, and output that is dropped.
    pub fn new(image: impl Into<Arc<Image>>) -> Self {
        Builder {
            image: image.into(),
            name: "guest".into(),
            memory: DEFAULT_MEMORY,
            arguments: Vec::new(),
            environment: Vec::new(),
            output: Box::new(Buffer::new(0)),
            input: None,
            devices: Vec::new(),
        }
    }

    /// Its name: argument 0, and what reports call it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Its memory, in bytes: a multiple of 4096.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// One more argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.extend_from_slice(argument.as_bytes());
        self.arguments.push(0);
        self
    }

    /// One more environment variable.
    pub fn variable(mut self, key: &str, value: &str) -> Self {
        self.environment.extend_from_slice(format!("{key}={value}\0").as_bytes());
        self
    }

    /// Where its console's output goes.
    pub fn output(mut self, output: impl Output + 'static) -> Self {
        self.output = Box::new(output);
        self
    }

    /// Where its console's input comes from. Without one, the input is at its end.
    pub fn input(mut self, input: impl Input + 'static) -> Self {
        self.input = Some(Box::new(input));
        self
    }

    /// One more disk. The guest counts its disks from 0, in this order.
    pub fn disk(self, disk: Disk) -> Self {
        self.disk_on(disk, EngineKind::Auto)
    }

    /// One more disk, worked on in this way.
    pub fn disk_on(mut self, disk: Disk, engine: EngineKind) -> Self {
        self.devices.push(Backend::Block(disk, engine));
        self
    }

    /// One more network, whose frames are also written to `capture`.
    pub fn network(mut self, network: Box<dyn Network>, capture: Option<Capture>) -> Self {
        self.devices.push(Backend::Net(network, capture));
        self
    }

    /// Starts the guest.
    pub fn spawn(self, engine: &Engine) -> Result<Guest, StartError> {
        let begin = Instant::now();
        let mut arguments = self.name.clone().into_bytes();
        arguments.push(0);
        arguments.extend_from_slice(&self.arguments);
        for (what, bytes) in [("arguments", &arguments), ("environment variables", &self.environment)] {
            if bytes.len() > MAX_STRINGS {
                return Err(StartError::TooLong { what, len: bytes.len() });
            }
        }
        if !self.memory.is_multiple_of(PAGE_SIZE) || self.memory > MAX_MEMORY {
            return Err(StartError::MemorySize(self.memory));
        }
        let note = self.image.note();
        let too_small = |needed: u64| StartError::MemoryTooSmall {
            name: self.name.clone(),
            given: self.memory >> 10,
            needed: needed.div_ceil(1024),
        };
        let mut devices = Devices::new(self.devices);
        let needs = Needs {
            memory_size: self.memory,
            devices: devices.0.len(),
            arguments: arguments.len(),
            environment: self.environment.len(),
            rings: &devices.ring_sizes(),
            image_size: self.image.size(),
            image_alignment: self.image.alignment(),
            segments: self.image.segments(),
            stack_size: u64::from(note.stack_size),
        };
        let layout = Layout::new(&needs).map_err(|error| too_small(error.needed))?;
        if self.memory < note.min_memory {
            return Err(too_small(note.min_memory.next_multiple_of(PAGE_SIZE)));
        }

        let mut random = [0; 40];
        hypercall::random(&mut random).map_err(StartError::Random)?;
        let (place, seed) = random.split_first_chunk::<8>().expect("40 is more than 8");
        let mut memory = GuestMemory::new(random_base(u64::from_le_bytes(*place), self.memory), self.memory)?;
        for (range, access) in &layout.access {
            memory.allow(range.clone(), *access);
        }
        let memory = Arc::new(memory);
        let base = memory.base().0;
        let at = |offset: u64| GuestAddr(base + offset);

        for range in layout.boot_pages() {
            memory.populate(range);
        }
        self.image
            .load(base + layout.image, &mut |offset, bytes| memory.host_write(layout.image + offset, bytes));

        devices.place(memory.base(), &layout.rings);
        let table = devices.table();

        let start_info = StartInfo {
            magic: MAGIC,
            abi_major: ABI_VERSION.major,
            abi_minor: ABI_VERSION.minor,
            size: size_of::<StartInfo>() as u32,
            cpu_features: cpu_features().bits(),
            vcpus: 1,
            memory_base: memory.base(),
            memory_size: self.memory,
            image_base: at(layout.image),
            heap_base: at(layout.heap.start),
            heap_size: layout.heap.end - layout.heap.start,
            stack_base: at(layout.stack.start),
            stack_size: layout.stack.end - layout.stack.start,
            hypercall_page: at(layout.hypercall_page),
            shared_info: at(layout.shared_info),
            arguments: at(layout.arguments),
            environment: at(layout.environment),
            arguments_size: arguments.len() as u32,
            environment_size: self.environment.len() as u32,
            devices: at(layout.devices),
            device_count: table.len() as u32,
            device_stride: size_of::<DeviceInfo>() as u32,
            seed: *seed.first_chunk().expect("32 bytes are left"),
        };
        memory.host_write(layout.start_info, start_info.as_bytes());
        memory.host_write(layout.devices, table.as_bytes());
        memory.host_write(layout.arguments, &arguments);
        memory.host_write(layout.environment, &self.environment);
        let shared = layout.shared_info;
        memory.host_write(shared + offset_of!(SharedInfo, mask) as u64, [u64::MAX; EVENT_WORDS].as_bytes());

        let hub = Hub::new(memory.clone(), shared);
        let load = begin.elapsed();
        let begin = Instant::now();
        let vcpu = engine.inner.platform.start(&Start {
            memory: &memory,
            hypercall_page: layout.hypercall_page,
            entry: at(layout.image + self.image.entry()),
            stack_top: at(layout.stack.end),
            argument: at(layout.start_info),
        })?;
        let clock = clock::start(vcpu.tsc_khz());
        memory.host_write(shared + offset_of!(SharedInfo, clock) as u64, clock.as_bytes());
        let phases = BootPhases { load, platform: begin.elapsed(), ..BootPhases::default() };

        let mut console_ring = devices.0.remove(0).rings;
        let console_ring = console_ring.pop().expect("a console has a ring");
        let mut sources = Vec::with_capacity(devices.0.len());
        let mut bells = Vec::with_capacity(devices.0.len());
        for device in devices.0 {
            let Connected { source, bells: own } = device.connect(&memory, &hub)?;
            sources.push(source);
            bells.extend(own);
        }
        let domain = Arc::new_cyclic(|domain: &Weak<Domain>| {
            let closed = domain.clone();
            let console = Console::new(
                console_ring.memory(&memory),
                &console_ring.layout,
                hub.channel(console_ring.event()),
                self.output,
                self.input,
                Box::new(move || {
                    if let Some(domain) = closed.upgrade() {
                        domain.order(Order::Stop(Stop::OutputClosed));
                    }
                }),
            );
            Domain {
                name: self.name,
                image: self.image,
                image_base: base + layout.image,
                stack: base + layout.stack.start,
                memory: memory.clone(),
                hub: hub.clone(),
                clock,
                kicker: vcpu.kicker(),
                cpu: Mutex::new(Cpu {
                    vcpu,
                    bells,
                    console_rings: 0,
                    blocked: None,
                    first_entry: None,
                    called: false,
                }),
                engine: Arc::downgrade(&engine.inner),
                sources: Mutex::new(Vec::new()),
                console_port: console_ring.event(),
                entity: OnceLock::new(),
                console,
                ordered: AtomicBool::new(false),
                order: Mutex::new(None),
                abandon: AtomicBool::new(false),
                outcome: Mutex::new(None::<Outcome>),
                ended: Condvar::new(),
                counters: Counters::default(),
                phases: Mutex::new(phases),
            }
        });
        let owner: Arc<dyn Owner> = domain.clone();
        hub.set_owner(Arc::downgrade(&owner));
        let entity = engine.inner.scheduler.add(domain.clone());
        let _ = domain.entity.set(Arc::downgrade(&entity));
        let sources = sources.into_iter().map(|source| engine.inner.reactor.add(source)).collect();
        *domain.sources.lock().expect("nobody else has it yet") = sources;
        entity.wake();
        Ok(Guest { domain, _entity: entity, engine: engine.clone() })
    }
}

/// Where a guest of this size is put: at a random multiple of 2 MiB (so that
/// large pages can be used) in the lower half of the address space, above its
/// first 512 GiB, within one region of 512 GiB (so that one table of each
/// upper level is enough).
fn random_base(random: u64, size: u64) -> GuestAddr {
    const ALIGN: u64 = 2 << 20;
    const REGION: u64 = 512 << 30;
    const REGIONS: u64 = 254;
    let region = 1 + random % REGIONS;
    let places = (REGION - size) / ALIGN;
    GuestAddr(region * REGION + (random / REGIONS) % places * ALIGN)
}

/// What this host's processor has of the features that guests may use (Intel
/// SDM volume 2, CPUID: leaf 1, and leaf 80000007H).
fn cpu_features() -> CpuFeatures {
    use std::arch::x86_64::__cpuid;
    // Asked once: below another hypervisor each CPUID takes a microsecond or more.
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
            }
        }
    }
}
