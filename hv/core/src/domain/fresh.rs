//! The description of a guest that boots.

use super::bus::Bus;
use super::{Guest, GuestBuilder, StartError, assemble};
use crate::engine::Engine;
use crate::loader::Image;
use std::sync::Arc;

/// Memory of a guest without a given size: 16 MiB.
pub const DEFAULT_MEMORY: u64 = 16 << 20;

/// Most memory of a guest: 64 GiB.
pub const MAX_MEMORY: u64 = 64 << 30;

/// Most virtual CPUs of a guest.
pub const MAX_VCPUS: usize = hv_abi::vcpu::MAX as usize;

/// Least stack that a guest can be given: 16 KiB.
pub const MIN_STACK: u64 = 16 << 10;

/// Most bytes of arguments and of environment, each.
pub const MAX_STRINGS: usize = 128 << 10;

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
pub type Builder = GuestBuilder<Fresh>;

/// Options that only guests that boot have.
pub struct Fresh {
    pub(super) image: Arc<Image>,
    pub(super) name: String,
    pub(super) memory: u64,
    pub(super) vcpus: usize,
    pub(super) vcpus_target: Option<usize>,
    pub(super) stack: Option<u64>,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) bus: Option<Box<dyn Bus>>,
    pub(super) pause_at_ready: bool,
}

impl Builder {
    /// A guest of this image, with [`DEFAULT_MEMORY`], no arguments, and output that is dropped.
    pub fn new(image: impl Into<Arc<Image>>) -> Self {
        GuestBuilder::of(Fresh {
            image: image.into(),
            name: "guest".into(),
            memory: DEFAULT_MEMORY,
            vcpus: 1,
            vcpus_target: None,
            stack: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            bus: None,
            pause_at_ready: false,
        })
    }

    /// Its name: argument 0, and the name in reports.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.origin.name = name.into();
        self
    }

    /// Its memory, in bytes: a multiple of 4096.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.origin.memory = bytes;
        self
    }

    /// How many virtual CPUs it has: 1 to [`MAX_VCPUS`]. Without this, one. They run in parallel, on at most as many
    /// threads as the engine has. The guest itself starts all but the first.
    pub fn vcpus(mut self, vcpus: usize) -> Self {
        self.origin.vcpus = vcpus;
        self
    }

    /// How many of its virtual CPUs it should use at first: 1 to [`vcpus`](Self::vcpus). Without this, all.
    /// [`Controller::set_vcpus_target`](super::Controller::set_vcpus_target) changes it while the guest runs.
    pub fn vcpus_target(mut self, vcpus: usize) -> Self {
        self.origin.vcpus_target = Some(vcpus);
        self
    }

    /// Its stack, in bytes, which is a part of its memory: a multiple of 4096, at least [`MIN_STACK`].
    /// Without this it is what the image asks for.
    pub fn stack(mut self, bytes: u64) -> Self {
        self.origin.stack = Some(bytes);
        self
    }

    /// One more argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.origin.arguments.push(argument.into());
        self
    }

    /// One more environment variable.
    pub fn variable(mut self, key: &str, value: &str) -> Self {
        self.origin.environment.push(format!("{key}={value}"));
        self
    }

    /// Emulated hardware, on platforms that can have it.
    pub fn bus(mut self, bus: Box<dyn Bus>) -> Self {
        self.origin.bus = Some(bus);
        self
    }

    /// Pauses the guest when it says that it is ready.
    pub fn pause_at_ready(mut self) -> Self {
        self.origin.pause_at_ready = true;
        self
    }

    /// Starts the guest.
    ///
    /// # Errors
    ///
    /// When the request is invalid, or the host refuses it.
    pub fn spawn(self, engine: &Engine) -> Result<Guest, StartError> {
        assemble::spawn(self.origin, self.resources, engine)
    }
}

impl Fresh {
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
