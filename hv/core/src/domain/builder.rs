//! The configuration of a guest to be.

use super::bus::{Bus, BusError};
use super::{Guest, RestoreError, assemble};
use crate::device::block::{Disk, DiskBackEnd, EngineKind};
use crate::device::console::{Input, Output};
use crate::device::function::FunctionDevice;
use crate::device::net::{Capture, NetBackEnd, Network};
use crate::device::stdio::Buffer;
use crate::device::{BackEnd, ConnectError};
use crate::engine::Engine;
use crate::loader::Image;
use crate::memory::{MapError, TemplateError};
use crate::platform::PlatformError;
use crate::sched::{DEFAULT_WEIGHT, ShareError};
use std::io;
use std::sync::Arc;

/// Memory of a guest that nobody gave a size: 16 MiB.
pub const DEFAULT_MEMORY: u64 = 16 << 20;

/// Most memory of a guest: 64 GiB.
pub const MAX_MEMORY: u64 = 64 << 30;

/// Most virtual CPUs of a guest.
pub const MAX_VCPUS: usize = 1;

/// Least stack that a guest can be given: 16 KiB.
pub const MIN_STACK: u64 = 16 << 10;

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
    /// The stack is no number of pages, or beyond [`MIN_STACK`] to [`MAX_MEMORY`].
    #[error("a stack of {0} bytes is not a multiple of 4096 from 16 KiB to 64 GiB")]
    StackSize(u64),
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
    /// Weight or cap.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// No random numbers.
    #[error("cannot read random numbers: {0}")]
    Random(#[source] io::Error),
}

/// Describes a guest, then starts it.
///
/// ```no_run
/// use hv_core::{Builder, Engine, Image, KvmPlatform, Outcome, device::stdio::Buffer};
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
    pub(super) image: Arc<Image>,
    pub(super) name: String,
    pub(super) memory: u64,
    pub(super) stack: Option<u64>,
    pub(super) weight: u32,
    pub(super) cap: u32,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) output: Box<dyn Output>,
    pub(super) errors: Option<Box<dyn Output>>,
    pub(super) input: Option<Box<dyn Input>>,
    pub(super) devices: Vec<Box<dyn BackEnd>>,
    pub(super) bus: Option<Box<dyn Bus>>,
    pub(super) pause_at_ready: bool,
}

impl Builder {
    /// A guest of this image, with [`DEFAULT_MEMORY`], no arguments, and output that is dropped.
    pub fn new(image: impl Into<Arc<Image>>) -> Self {
        Builder {
            image: image.into(),
            name: "guest".into(),
            memory: DEFAULT_MEMORY,
            stack: None,
            weight: DEFAULT_WEIGHT,
            cap: 0,
            arguments: Vec::new(),
            environment: Vec::new(),
            output: Box::new(Buffer::new(0)),
            errors: None,
            input: None,
            devices: Vec::new(),
            bus: None,
            pause_at_ready: false,
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

    /// Its stack, in bytes, which is a part of its memory: a multiple of 4096, at least [`MIN_STACK`].
    /// Without this it is what the image asks for.
    pub fn stack(mut self, bytes: u64) -> Self {
        self.stack = Some(bytes);
        self
    }

    /// Its part of the processors when others want to run as well, relative to
    /// theirs: 1 to 65535, 256 if nobody says.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The most that it gets of the processors even if nobody else wants to
    /// run: 1 to 100 percent of one core, or 0 for no cap.
    pub fn cap(mut self, percent: u32) -> Self {
        self.cap = percent;
        self
    }

    /// One more argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more environment variable.
    pub fn variable(mut self, key: &str, value: &str) -> Self {
        self.environment.push(format!("{key}={value}"));
        self
    }

    /// Where its console's output goes.
    pub fn output(mut self, output: impl Output + 'static) -> Self {
        self.output = Box::new(output);
        self
    }

    /// Where its log records and errors go. Without this they go where the console's output goes.
    /// How the two are interleaved in time is not kept.
    pub fn error_output(mut self, output: impl Output + 'static) -> Self {
        self.errors = Some(Box::new(output));
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
        self.devices.push(Box::new(DiskBackEnd { disk, engine }));
        self
    }

    /// One more network, whose frames are also written to `capture`.
    pub fn network(mut self, network: Box<dyn Network>, capture: Option<Capture>) -> Self {
        self.devices.push(Box::new(NetBackEnd { network, capture }));
        self
    }

    /// A function device: the guest is sent requests.
    pub fn function(mut self, device: Arc<FunctionDevice>) -> Self {
        self.devices.push(Box::new(device));
        self
    }

    /// Emulated hardware, on platforms that can have it.
    pub fn bus(mut self, bus: Box<dyn Bus>) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Has the guest held when it says that it is ready.
    pub fn pause_at_ready(mut self) -> Self {
        self.pause_at_ready = true;
        self
    }

    /// Starts the guest.
    pub fn spawn(self, engine: &Engine) -> Result<Guest, StartError> {
        assemble::spawn(self, engine)
    }

    /// The arguments, the guest's name first, and the environment, as
    /// start-info holds them.
    pub(super) fn strings(&self) -> Result<Strings, StartError> {
        let arguments = std::iter::once(&self.name).chain(&self.arguments);
        Ok(Strings {
            arguments: block("arguments", arguments)?,
            environment: block("environment variables", self.environment.iter())?,
        })
    }
}

/// Blocks of strings that each end in a NUL byte.
pub(super) struct Strings {
    pub(super) arguments: Vec<u8>,
    pub(super) environment: Vec<u8>,
}

fn block<'a>(what: &'static str, strings: impl Iterator<Item = &'a String>) -> Result<Vec<u8>, StartError> {
    let mut bytes = Vec::new();
    for string in strings {
        if string.contains('\0') {
            return Err(StartError::Nul(what));
        }
        bytes.extend_from_slice(string.as_bytes());
        bytes.push(0);
    }
    if bytes.len() > MAX_STRINGS {
        return Err(StartError::TooLong { what, len: bytes.len() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(strings: &[String]) -> Result<Vec<u8>, StartError> {
        block("arguments", strings.iter())
    }

    #[test]
    fn strings_end_in_nul_and_hold_none() {
        assert_eq!(of(&["a".into(), String::new(), "b c".into()]).unwrap(), b"a\0\0b c\0");
        assert!(matches!(of(&["a\0b".into()]), Err(StartError::Nul("arguments"))));
    }

    #[test]
    fn blocks_are_bounded() {
        assert_eq!(of(&["x".repeat(MAX_STRINGS - 1)]).unwrap().len(), MAX_STRINGS);
        assert!(
            matches!(of(&["x".repeat(MAX_STRINGS)]), Err(StartError::TooLong { len, .. }) if len == MAX_STRINGS + 1)
        );
    }
}
