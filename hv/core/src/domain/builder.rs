//! What [`Builder`](super::Builder) and [`Restore`](super::Restore) have in common, and the errors of a start.

use super::bus::BusError;
use super::resources::Resources;
use super::{MAX_STRINGS, RestoreError, TargetError};
use crate::budget::BudgetError;
use crate::device::ConnectError;
use crate::device::block::{Disk, DiskBackEnd, EngineKind};
use crate::device::console::{Input, Output};
use crate::device::function::FunctionDevice;
use crate::device::net::{Capture, NetBackEnd, Network};
use crate::device::services::ServicesDevice;
use crate::device::share::{Folder, ShareBackEnd};
use crate::memory::{EqualPagesError, MapError, TemplateError};
use crate::platform::PlatformError;
use crate::sched::{Group, Share};
use std::io;
use std::sync::Arc;

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// The size is not a multiple of the page size, or is larger than [`MAX_MEMORY`](super::MAX_MEMORY).
    #[error("a memory size of {0} bytes is not a multiple of 4096 up to 64 GiB")]
    MemorySize(u64),
    /// The stack is not a multiple of the page size, or is not within [`MIN_STACK`](super::MIN_STACK) to
    /// [`MAX_MEMORY`](super::MAX_MEMORY).
    #[error("a stack of {0} bytes is not a multiple of 4096 from 16 KiB to 64 GiB")]
    StackSize(u64),
    /// No virtual CPU, or more than [`MAX_VCPUS`](super::MAX_VCPUS).
    #[error("{0} virtual CPUs are not 1 to {max}", max = super::MAX_VCPUS)]
    Vcpus(usize),
    /// A target that is out of range.
    #[error(transparent)]
    Target(#[from] TargetError),
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
    /// No memory that processes can share.
    #[error(transparent)]
    SharedMemory(#[from] TemplateError),
    /// The platform refused.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A device could not be started.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Emulated hardware could not be made.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The snapshot is one of a guest with other devices.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The memory that the guest is promised is more than the engine's budget has left.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The host cannot share equal pages of its memory.
    #[error(transparent)]
    EqualPages(#[from] EqualPagesError),
    /// Its group is one of another engine.
    #[error(
        "the guest's group is one of another engine; take one of `Engine::group` of the engine that runs the guest"
    )]
    ForeignGroup,
    /// The guest is promised more memory than it has.
    #[error(
        "{promised} bytes of memory cannot be promised to a guest with {most}: promise less, or give it more (--memory MIN..MAX)"
    )]
    Promise {
        /// What it was to be promised, in bytes.
        promised: u64,
        /// How much it has, in bytes.
        most: u64,
    },
    /// The host provides no random numbers.
    #[error("cannot read random numbers: {0}")]
    Random(#[source] io::Error),
}

/// Describes a guest, then starts it. A [`Builder`](super::Builder) boots a new one; a [`Restore`](super::Restore)
/// resumes one from a snapshot. The methods here are common to both.
pub struct GuestBuilder<O> {
    /// Where the guest comes from, with the options that only this kind of guest has.
    pub(super) origin: O,
    pub(super) resources: Resources,
}

impl<O> GuestBuilder<O> {
    /// A guest with no devices but the console, whose output is dropped.
    pub(super) fn of(origin: O) -> Self {
        GuestBuilder { origin, resources: Resources::default() }
    }

    /// The group that it shares the processors with, of the same engine. Its own [share](Self::share) is relative to that of other
    /// guests in the group. Without this it is in no group.
    pub fn group(mut self, group: &Group) -> Self {
        self.resources.group = Some(group.clone());
        self
    }

    /// Its share of the processors. Without this it has the weight 256 and no cap.
    pub fn share(mut self, share: Share) -> Self {
        self.resources.share = share;
        self
    }

    /// How much of its memory the guest is promised, in bytes. It matters if the engine has a
    /// [budget](crate::Engine::set_memory_budget). Without this a new guest is promised all of its memory, and one that resumes nothing.
    pub fn promised_memory(mut self, bytes: u64) -> Self {
        self.resources.promised_memory = Some(bytes);
        self
    }

    /// Lets the host keep pages of its memory that equal pages of other guests with this option, or of other programs that take
    /// part, in memory once (KSM). Without this it shares nothing but its template. Guests that share can find out by timing what the others have in
    /// memory: to be given only to guests that trust each other, on a host where nobody else takes part. On the platform
    /// `process` no guest can.
    pub fn share_equal_pages(mut self) -> Self {
        self.resources.share_equal_pages = true;
        self
    }

    /// Where its console's output goes. Without this it is dropped.
    pub fn output(mut self, output: impl Output + 'static) -> Self {
        self.resources.output = Box::new(output);
        self
    }

    /// Where its log records and errors go. Without this they go to the console's output. The relative order of the two
    /// outputs is not kept.
    pub fn error_output(mut self, output: impl Output + 'static) -> Self {
        self.resources.errors = Some(Box::new(output));
        self
    }

    /// Where its console's input comes from. Without one, the input is at its end.
    pub fn input(mut self, input: impl Input + 'static) -> Self {
        self.resources.input = Some(Box::new(input));
        self
    }

    /// One more disk. The guest counts its disks from 0, in this order. A guest that resumes from a snapshot gets them in
    /// the order of the guest that was saved.
    pub fn disk(self, disk: Disk) -> Self {
        self.disk_on(disk, EngineKind::Auto)
    }

    /// One more disk, with this way of carrying out its requests.
    pub fn disk_on(mut self, disk: Disk, engine: EngineKind) -> Self {
        self.resources.back_ends.push(Box::new(DiskBackEnd { disk, engine }));
        self
    }

    /// One more network, whose frames are also written to `capture`.
    pub fn network(mut self, network: Box<dyn Network>, capture: Option<Capture>) -> Self {
        self.resources.back_ends.push(Box::new(NetBackEnd { network, capture }));
        self
    }

    /// One more share: a folder of the host that the guest works on.
    pub fn folder(mut self, folder: Folder) -> Self {
        self.resources.back_ends.push(Box::new(ShareBackEnd(folder)));
        self
    }

    /// A function device: the guest is sent requests.
    pub fn function(mut self, device: Arc<FunctionDevice>) -> Self {
        self.resources.back_ends.push(Box::new(device));
        self
    }

    /// A services device: what the guest reaches without a network.
    pub fn services(mut self, device: Arc<ServicesDevice>) -> Self {
        self.resources.back_ends.push(Box::new(device));
        self
    }
}
