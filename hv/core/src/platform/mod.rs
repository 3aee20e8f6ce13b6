//! What runs guests: one trait, and its implementations.
//!
//! A platform turns prepared guest memory into a [`Machine`] with [`Vcpu`]s. Each of them runs until it exits with a
//! value. A platform knows nothing of devices, hypercall semantics or scheduling. The rest of hv knows nothing of KVM.

mod access;
mod choose;
pub mod fake;
pub mod kvm;
pub mod process;
mod state;
mod upcall;

pub use crate::crash::Registers;
use crate::memory::GuestMemory;
pub use access::{BusAccess, Opening, Space};
pub use choose::{Choice, Preference, choose};
use hv_abi::{EventPort, GuestAddr, PAGE_SIZE};
pub use state::{CpuState, Fpu};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use upcall::push_return;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Everything that a platform needs to start a guest.
pub struct Start<'a> {
    /// The guest's memory, loaded and [prepared](Platform::prepare) for this number of virtual CPUs.
    pub memory: &'a Arc<GuestMemory>,
    /// Its virtual CPUs: at least one.
    pub vcpus: &'a [StartVcpu<'a>],
    /// How many event ports [`Machine::bind_doorbell`] may be called for; 0 saves descriptors.
    pub doorbells: usize,
    /// The emulated hardware that the guest may access. Usually `None`.
    pub opening: Option<&'a Opening>,
}

/// Where the hypercall page of one virtual CPU is: offsets in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HypercallPage {
    /// The page with the stubs of the calls, which the guest executes.
    pub stubs: u64,
    /// 8 bytes that belong to the platform as well, for the result of a call. The guest can read them.
    pub result: u64,
}

impl HypercallPage {
    /// Bytes of a [result](Self::result).
    pub const RESULT_SIZE: u64 = 8;

    /// The pages of a guest with `count` virtual CPUs: one after the other from `first` on, their results before the first one.
    pub fn all(first: u64, count: usize) -> impl Iterator<Item = Self> {
        (0..count as u64).map(move |number| HypercallPage {
            stubs: first + number * PAGE_SIZE,
            result: first - (number + 1) * Self::RESULT_SIZE,
        })
    }
}

/// Bytes at the start of a guest's window that a platform reserves for itself, for a guest with `count` virtual CPUs.
pub const fn reserved(count: usize) -> u64 {
    (count as u64 + 1) * PAGE_SIZE
}

/// A virtual CPU to start with.
#[derive(Clone, Copy, Debug)]
pub struct StartVcpu<'a> {
    /// Its hypercall page.
    pub page: HypercallPage,
    /// Its initial state.
    pub state: &'a CpuState,
}

/// A virtual machine that is ready to run.
pub struct Started {
    /// What its virtual CPUs share.
    pub machine: Box<dyn Machine>,
    /// Its virtual CPUs, as many as were requested.
    pub vcpus: Vec<Box<dyn Vcpu>>,
}

/// What a guest is on a platform. Code that treats platforms differently checks this, not the properties that follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformKind {
    /// A virtual machine of KVM.
    Kvm,
    /// A process.
    Process,
    /// Something else, in a program that embeds hv.
    Other,
}

/// A way to run guests.
pub trait Platform: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What its guests are.
    fn kind(&self) -> PlatformKind {
        PlatformKind::Other
    }

    /// Whether guest memory has to be mappable by other processes.
    fn shares_memory(&self) -> bool {
        false
    }

    /// Writes what the platform needs into a guest's memory: its own tables into the tail, and the stubs of calls into
    /// the page of each virtual CPU.
    ///
    /// The memory may become a template. Then each of its clones is prepared as well.
    ///
    /// # Errors
    ///
    /// [`PlatformError::TooLarge`] if there is not enough space for the platform's tables.
    fn prepare(&self, memory: &GuestMemory, pages: &[HypercallPage]) -> Result<(), PlatformError>;

    /// Makes this many empty virtual machines in advance, for the next calls of [`start`](Self::start). Returns how many
    /// there are then: fewer if the host refuses more.
    fn reserve(&self, machines: usize) -> usize {
        let _ = machines;
        0
    }

    /// Makes what the machine of any guest begins with, for the next [`start`](Self::start), unless that exists already.
    /// Meant to be called when there is time before a guest is requested.
    ///
    /// # Errors
    ///
    /// If the host refuses it. The next [`start`](Self::start) tries again.
    fn prepare_machine(&self) -> Result<(), PlatformError> {
        Ok(())
    }

    /// Makes a virtual machine that is ready to run.
    ///
    /// # Errors
    ///
    /// If the host refuses it, or the platform cannot run such a guest.
    fn start(&self, start: &Start<'_>) -> Result<Started, PlatformError>;
}

impl Platform for Box<dyn Platform> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn kind(&self) -> PlatformKind {
        (**self).kind()
    }

    fn shares_memory(&self) -> bool {
        (**self).shares_memory()
    }

    fn prepare(&self, memory: &GuestMemory, pages: &[HypercallPage]) -> Result<(), PlatformError> {
        (**self).prepare(memory, pages)
    }

    fn reserve(&self, machines: usize) -> usize {
        (**self).reserve(machines)
    }

    fn prepare_machine(&self) -> Result<(), PlatformError> {
        (**self).prepare_machine()
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, PlatformError> {
        (**self).start(start)
    }
}

/// What the virtual CPUs of a guest share besides its memory: the descriptors that their doorbells signal.
pub trait Machine: Send {
    /// A descriptor that [`bind_doorbell`](Self::bind_doorbell) can bind to this port.
    ///
    /// # Errors
    ///
    /// If the host has no more descriptors.
    fn doorbell(&mut self, port: EventPort) -> std::io::Result<EventFd> {
        let _ = port;
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
    }

    /// From now on, an [`EventSend`](hv_abi::Hypercall::EventSend) of the guest to this port signals the descriptor
    /// instead of ending [`Vcpu::run`] with [`Exit::Doorbell`]. [`doorbell`](Self::doorbell) made the descriptor for this port.
    ///
    /// This makes each ring several times cheaper. On KVM, it makes closing the VM some 15 ms more expensive.
    ///
    /// # Errors
    ///
    /// If the host refuses it, or the machine was started [without doorbells](Start::doorbells). Rings continue to arrive as exits.
    fn bind_doorbell(&mut self, port: EventPort, descriptor: &EventFd) -> std::io::Result<()>;

    /// From now on, 4-byte writes to this guest-physical address, which is one
    /// of an [`Opening`], signal the descriptor instead of ending [`Vcpu::run`].
    ///
    /// # Errors
    ///
    /// If the host refuses it, or the platform has no such addresses.
    fn bind_address(&mut self, address: u64, descriptor: &EventFd) -> std::io::Result<()> {
        let _ = (address, descriptor);
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Frequency of the time-stamp counter that the guest reads, in kHz.
    fn tsc_khz(&self) -> u32;

    /// When [`tsc_khz`](Self::tsc_khz) will be known better, at the earliest. `None` if it will not.
    fn tsc_refined_at(&self) -> Option<Instant> {
        None
    }
}

/// A virtual CPU. Runs on whichever thread calls it.
pub trait Vcpu: Send {
    /// Runs the guest until it exits.
    fn run(&mut self) -> Exit;

    /// Tells the virtual CPU whether threads wait for processors. Then it should sleep instead of spinning.
    fn set_crowded(&mut self, crowded: bool) {
        let _ = crowded;
    }

    /// Sets what the hypercall of the last exit returns when the guest continues.
    fn set_result(&mut self, value: i64);

    /// The registers at the last exit.
    fn registers(&mut self) -> Registers;

    /// The state at the last exit. A hypercall that was made and has its [result](Self::set_result) is completed in it.
    ///
    /// # Errors
    ///
    /// If the platform does not give the state, or the state cannot be represented: [`PlatformError::LostStack`].
    fn save(&mut self) -> Result<CpuState, PlatformError>;

    /// Returns once no instruction of the guest can run any more on this virtual CPU, whatever the guest has done.
    /// Afterwards the memory is reset, its tail included, and then the virtual CPU, by [`reset`](Self::reset); or it is dropped.
    fn halt(&mut self) {}

    /// Gives the virtual CPU the state that [`Platform::start`] would give it. Nothing of the processor's previous state
    /// remains. Used for a guest whose memory was [reset](GuestMemory::reset).
    ///
    /// # Errors
    ///
    /// If the platform refuses the state. The virtual CPU has to be dropped then.
    fn reset(&mut self, state: &CpuState) -> Result<(), PlatformError>;

    /// Whether nothing has disturbed the virtual CPU since its [`reset`](Self::reset). One that was disturbed may have executed what the guest before
    /// wanted: it has to be reset again, after its memory, or dropped. What disturbs it after this call is a [fault](Fault::Unparked).
    fn is_undisturbed(&mut self) -> bool {
        true
    }

    /// Makes the guest continue at `handler`, as if its code had called it where it is. The return address is stored 128
    /// bytes below the stack pointer.
    ///
    /// A hypercall that was made is completed first, with its [result](Self::set_result). One that the guest was about to
    /// make is made when the handler has returned. A guest that is about to end with an exception is not redirected.
    ///
    /// # Errors
    ///
    /// [`PlatformError::NoStack`] or [`PlatformError::LostStack`] if the guest's stack pointer is not usable. Also if the platform refuses.
    fn redirect(&mut self, handler: GuestAddr) -> Result<(), PlatformError>;

    /// The bytes of the last [`Exit::Access`]: one or, for a string instruction, many elements of its size, one after the other. They
    /// hold what is written; what is read is put there before the next [`run`](Self::run).
    fn access_data(&mut self) -> &mut [u8] {
        &mut []
    }

    /// Makes the current [`run`](Self::run), or else the next, return [`Exit::Interrupted`].
    fn kicker(&self) -> Arc<dyn Kick>;
}

/// Interrupts a virtual CPU from another thread.
pub trait Kick: Send + Sync {
    /// See [`Vcpu::kicker`].
    fn kick(&self);

    /// Processor time that the guest has used in processes of its own, not on the threads that call [`Vcpu::run`]: the
    /// sum over all that there were. Never waits, never decreases.
    fn used_apart(&self) -> Duration {
        Duration::ZERO
    }

    /// Elapsed time in which the guest slept while [`Vcpu::run`] waited for it: the sum over all runs. No clock of
    /// processor time includes it, but the guest has to be charged for it.
    fn slept(&self) -> Duration {
        Duration::ZERO
    }
}

/// Why a virtual CPU stopped running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest made a hypercall: its number, not validated, and its arguments.
    Hypercall {
        /// The number.
        number: u32,
        /// RDI, RSI, RDX.
        arguments: [u64; 3],
    },
    /// The guest rang a doorbell that has no descriptor: the port, not validated.
    Doorbell(u32),
    /// The guest accessed emulated hardware that was [opened](Opening) to it. A string instruction makes several of these at once, of which
    /// this is the first: see [`Vcpu::access_data`].
    Access(BusAccess),
    /// It was kicked, or a signal came.
    Interrupted,
    /// The guest caused a fault that ends it.
    Fault(Fault),
    /// The host failed to run it.
    Failed(String),
}

/// A processor exception, or another fault that ends the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An exception: its vector, and its error code if it has one.
    Exception {
        /// Number of the exception (Intel SDM volume 3, table 6-1).
        vector: u8,
        /// Error code, 0 for those without.
        error: u64,
        /// The address, for a page fault; else 0.
        address: u64,
    },
    /// The guest used one of the ABI's ports in a way in which the hypercall page does not.
    Port(u16),
    /// The processor shut down (triple fault). Registers may be lost.
    Shutdown,
    /// The kernel ended the guest's process.
    Killed,
    /// The process that waited for the guest was interrupted meanwhile, and was ended unused.
    Unparked,
    /// The guest interfered with the handoff between its process and hv.
    Crossing,
}

/// Why a platform cannot run guests, or not this one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// No `/dev/kvm`.
    #[error(
        "/dev/kvm is missing: load the kvm_intel, kvm_amd or kvm_pvm module, or pass the device into this container"
    )]
    NoKvm,
    /// No permission.
    #[error("/dev/kvm: permission denied: {0}")]
    NotPermitted(
        /// The remedy.
        String,
    ),
    /// Another error when opening or using it.
    #[error("KVM: {what} failed: {source}")]
    Kvm {
        /// The call.
        what: &'static str,
        /// The error.
        source: std::io::Error,
    },
    /// The kernel makes a thread for each virtual machine, and a limit forbids it.
    #[error(
        "KVM cannot make the virtual machine's kernel thread: the limit of processes is reached; raise it (ulimit -u), or that of the container (pids.max)"
    )]
    NoThread,
    /// Another hypervisor uses the processor.
    #[error("KVM: another program uses the processor's virtualization; end it, or use --platform process")]
    Busy,
    /// The kernel is too old.
    #[error("KVM on this kernel lacks {0}, which hv needs")]
    Lacks(&'static str),
    /// A guest cannot be saved at its current position.
    #[error("the guest's stack pointer ({0:#x}) is not in its memory while it makes a hypercall")]
    LostStack(u64),
    /// A guest cannot be redirected to its handler.
    #[error("an upcall found no stack that the guest can write: its stack pointer is {0:#x}")]
    NoStack(u64),
    /// A process for guests could not be made.
    #[error(transparent)]
    Process(#[from] process::ProcessError),
    /// Neither KVM nor processes are available.
    #[error("guests cannot run here: {no_kvm}; nor without KVM: {no_process}")]
    Nothing {
        /// Why not on KVM.
        no_kvm: Box<PlatformError>,
        /// Why not in processes.
        no_process: Box<PlatformError>,
    },
    /// This platform has no emulated hardware.
    #[error("platform process has no emulated hardware to compare with; use --platform kvm")]
    NoHardware,
    /// The image has too many segments.
    #[error("platform process: the guest's memory has {0} ranges, which is more than it can map")]
    TooManyRanges(usize),
    /// The guest's memory is too large for this platform to map.
    #[error("{0} bytes of guest memory are more than this platform can map")]
    TooLarge(u64),
}

#[cfg(test)]
mod tests;
