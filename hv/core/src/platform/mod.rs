//! What runs guests: one trait, and its implementations.
//!
//! A platform turns prepared guest memory into a [`Machine`] with [`Vcpu`]s, each of which runs until
//! it exits with a value. It knows nothing of devices, hypercall semantics or
//! scheduling; the rest of hv knows nothing of KVM.

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
use hv_host::cpu_clock::CpuClock;
pub use state::{CpuState, Fpu};
use std::sync::Arc;
use std::time::Duration;
pub use upcall::push_return;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Everything a platform has to know to start a guest.
pub struct Start<'a> {
    /// The guest's memory, loaded and [prepared](Platform::prepare) for as many virtual CPUs.
    pub memory: &'a Arc<GuestMemory>,
    /// Its virtual CPUs: at least one.
    pub vcpus: &'a [StartVcpu<'a>],
    /// How many event ports [`Machine::bind_doorbell`] may be called for; 0 saves descriptors.
    pub doorbells: usize,
    /// What the guest may reach of emulated hardware: usually nothing.
    pub opening: Option<&'a Opening>,
}

/// Where the hypercall page of one virtual CPU is: offsets in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HypercallPage {
    /// The page with the stubs of the calls, which the guest executes.
    pub stubs: u64,
    /// 8 bytes that are the platform's as well, for what a call returns; the guest can read them.
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

/// Bytes at the start of a guest's window that a platform has for itself, for a guest with `count` virtual CPUs.
pub const fn reserved(count: usize) -> u64 {
    (count as u64 + 1) * PAGE_SIZE
}

/// A virtual CPU to start with.
#[derive(Clone, Copy, Debug)]
pub struct StartVcpu<'a> {
    /// Its hypercall page.
    pub page: HypercallPage,
    /// Where it begins.
    pub state: &'a CpuState,
}

/// A virtual machine that is ready to run.
pub struct Started {
    /// What its virtual CPUs share.
    pub machine: Box<dyn Machine>,
    /// Its virtual CPUs, as many as were asked for.
    pub vcpus: Vec<Box<dyn Vcpu>>,
}

/// What a guest is on a platform: who treats platforms differently asks for this, not for what it entails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformKind {
    /// A virtual machine of KVM.
    Kvm,
    /// A process.
    Process,
    /// Something else, of who embeds hv.
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

    /// Whether guest memory has to be such that other processes can map it.
    fn shares_memory(&self) -> bool {
        false
    }

    /// Writes what the platform needs into a guest's memory: its own tables into
    /// the tail, and the stubs of calls into the page of each virtual CPU.
    ///
    /// The memory may become a template: then each of its clones is prepared.
    ///
    /// # Errors
    ///
    /// [`PlatformError::TooLarge`] if the platform's tables find no room.
    fn prepare(&self, memory: &GuestMemory, pages: &[HypercallPage]) -> Result<(), PlatformError>;

    /// Makes as many empty virtual machines beforehand, for the next calls of [`start`](Self::start).
    /// Returns how many there are then; fewer than asked for if the host refuses more.
    fn reserve(&self, machines: usize) -> usize {
        let _ = machines;
        0
    }

    /// Makes what the machine of any guest begins with, for the next [`start`](Self::start), unless that is there
    /// already. For who has time before a guest is asked for.
    ///
    /// # Errors
    ///
    /// When the host refuses it. The next [`start`](Self::start) tries again.
    fn prepare_machine(&self) -> Result<(), PlatformError> {
        Ok(())
    }

    /// Makes a virtual machine that is ready to run.
    ///
    /// # Errors
    ///
    /// When the host refuses it, or the platform cannot run such a guest.
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

/// What the virtual CPUs of a guest share beside its memory: what their doorbells signal.
pub trait Machine: Send {
    /// A descriptor that [`bind_doorbell`](Self::bind_doorbell) can bind to this port.
    ///
    /// # Errors
    ///
    /// When the host has no more descriptors.
    fn doorbell(&mut self, port: EventPort) -> std::io::Result<EventFd> {
        let _ = port;
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
    }

    /// From now on, an [`EventSend`](hv_abi::Hypercall::EventSend) of the guest to
    /// this port signals the descriptor, which [`doorbell`](Self::doorbell) made for it, instead of ending [`Vcpu::run`]
    /// with [`Exit::Doorbell`].
    ///
    /// It makes each ring several times cheaper; on KVM, it makes closing the
    /// VM some 15 ms more expensive.
    ///
    /// # Errors
    ///
    /// When the host refuses it, or the machine was started [without doorbells](Start::doorbells): rings go on to come as exits.
    fn bind_doorbell(&mut self, port: EventPort, descriptor: &EventFd) -> std::io::Result<()>;

    /// From now on, 4-byte writes to this guest-physical address, which is one
    /// of an [`Opening`], signal the descriptor instead of ending [`Vcpu::run`].
    ///
    /// # Errors
    ///
    /// When the host refuses it, or the platform has no such addresses.
    fn bind_address(&mut self, address: u64, descriptor: &EventFd) -> std::io::Result<()> {
        let _ = (address, descriptor);
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Frequency of the time-stamp counter that the guest reads, in kHz.
    fn tsc_khz(&self) -> u32;
}

/// A virtual CPU. Runs on whichever thread calls it.
pub trait Vcpu: Send {
    /// Runs the guest until it exits.
    fn run(&mut self) -> Exit;

    /// Whether threads wait for processors, so that the virtual CPU had better not spin where it could sleep.
    fn set_crowded(&mut self, crowded: bool) {
        let _ = crowded;
    }

    /// Sets what the hypercall of the last exit returns when the guest goes on.
    fn set_result(&mut self, value: i64);

    /// The registers at the last exit.
    fn registers(&mut self) -> Registers;

    /// The state at the last exit, with a hypercall that was made and has its
    /// [result](Self::set_result) completed.
    ///
    /// # Errors
    ///
    /// If the platform does not give the state, or the state cannot be said: [`PlatformError::LostStack`].
    fn save(&mut self) -> Result<CpuState, PlatformError>;

    /// Returns once none of the guest's instructions can run any more on this virtual CPU, whatever it has done. What
    /// follows is a [`reset`](Self::reset) or the end.
    fn halt(&mut self) {}

    /// Makes the virtual CPU what [`Platform::start`] would make it for this
    /// state: nothing that a processor holds survives. For a guest whose memory was [reset](GuestMemory::reset).
    ///
    /// # Errors
    ///
    /// If the platform refuses the state: the virtual CPU is to be dropped then.
    fn reset(&mut self, state: &CpuState) -> Result<(), PlatformError>;

    /// Has the guest go on at `handler`, as if its code had called it where it
    /// is: 128 bytes below its stack pointer lies the address to return to.
    ///
    /// A hypercall that was made is over first, with its [result](Self::set_result); one that
    /// the guest was about to make is made when the handler has returned. A guest that is about to end with an exception is left where it is.
    ///
    /// # Errors
    ///
    /// [`PlatformError::NoStack`] or [`PlatformError::LostStack`] if the guest's stack pointer leads nowhere; if the platform refuses.
    fn redirect(&mut self, handler: GuestAddr) -> Result<(), PlatformError>;

    /// Completes the read of an [`Exit::Access`] with this value.
    fn answer(&mut self, value: u64) {
        let _ = value;
    }

    /// Makes the current or else the next [`run`](Self::run) return [`Exit::Interrupted`].
    fn kicker(&self) -> Arc<dyn Kick>;
}

/// Interrupts a virtual CPU from another thread.
pub trait Kick: Send + Sync {
    /// See [`Vcpu::kicker`].
    fn kick(&self);

    /// The clock of the process that runs the guest, if it is not the thread that calls [`Vcpu::run`].
    fn clock(&self) -> Option<CpuClock> {
        None
    }

    /// Elapsed time in which the guest slept while [`Vcpu::run`] waited for it: the sum of all runs. No
    /// clock of processor time has it, and the guest is to be charged for it all the same.
    fn slept(&self) -> Duration {
        Duration::ZERO
    }
}

/// Why a virtual CPU stopped running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest made a hypercall: its number, unvalidated, and its arguments.
    Hypercall {
        /// The number.
        number: u32,
        /// RDI, RSI, RDX.
        arguments: [u64; 3],
    },
    /// The guest rang a doorbell that has no descriptor: the port, unvalidated.
    Doorbell(u32),
    /// The guest touched emulated hardware that was [opened](Opening) to it.
    Access(BusAccess),
    /// Somebody kicked it, or a signal came.
    Interrupted,
    /// The guest did something that ends it.
    Fault(Fault),
    /// The host failed to run it.
    Failed(String),
}

/// A processor exception, or something as final.
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
    /// The guest used one of the ABI's ports in another way than the hypercall page does.
    Port(u16),
    /// The processor gave up (triple fault): registers may be lost.
    Shutdown,
    /// The kernel ended the guest's process.
    Killed,
    /// The guest meddled with how its process and hv take turns.
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
        /// What helps.
        String,
    ),
    /// Another error from opening or using it.
    #[error("KVM: {what} failed: {source}")]
    Kvm {
        /// The call.
        what: &'static str,
        /// The error.
        source: std::io::Error,
    },
    /// The kernel makes a thread for each virtual machine, and may not.
    #[error(
        "KVM cannot make the virtual machine's kernel thread: the limit of processes is reached; raise it (ulimit -u), or that of the container (pids.max)"
    )]
    NoThread,
    /// Another hypervisor has the processor.
    #[error("KVM: another program uses the processor's virtualization; end it, or use --platform process")]
    Busy,
    /// The kernel is too old.
    #[error("KVM on this kernel lacks {0}, which hv needs")]
    Lacks(&'static str),
    /// A guest cannot be saved where it is.
    #[error("the guest's stack pointer ({0:#x}) is not in its memory while it makes a hypercall")]
    LostStack(u64),
    /// A guest cannot be taken to its handler.
    #[error("an upcall found no stack that the guest can write: its stack pointer is {0:#x}")]
    NoStack(u64),
    /// A process for guests could not be had.
    #[error(transparent)]
    Process(#[from] process::ProcessError),
    /// Neither KVM nor processes.
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
    /// The guest's memory cannot be shown.
    #[error("{0} bytes of guest memory are more than this platform can map")]
    TooLarge(u64),
}

#[cfg(test)]
mod tests;
