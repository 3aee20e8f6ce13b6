//! From a snapshot to a guest that goes on.

use super::builder::StartError;
use super::devices::Devices;
use super::launch::Launch;
use super::{Guest, Hook, Identity, Snapshot};
use crate::device::block::{Disk, DiskBackEnd, EngineKind};
use crate::device::console::{Console, Input, Output};
use crate::device::function::FunctionDevice;
use crate::device::net::{Capture, NetBackEnd, Network};
use crate::device::stdio::Buffer;
use crate::device::{self, BackEnd, DeviceError};
use crate::engine::Engine;
use crate::memory::GuestMemory;
use crate::sched::Share;
use std::sync::Arc;
use std::time::Instant;

/// Why a snapshot cannot be restored with these devices.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Other devices than the guest had.
    #[error("the guest that was saved has {}; it has to get the same again", kinds(.wanted))]
    Devices {
        /// The kinds of the guest's devices, the console left out.
        wanted: Vec<u32>,
    },
    /// A device that the guest would take for what it is not.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn kinds(kinds: &[u32]) -> String {
    let name = |&number: &u32| match device::kind(number) {
        Some(kind) => kind.name.to_string(),
        None => format!("a device of kind {number}"),
    };
    match kinds {
        [] => "no devices but the console".into(),
        kinds => kinds.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

/// Describes a guest that goes on from a snapshot, then starts it. Any number
/// of guests can go on from one: they share every page that they do not write.
pub struct Restore {
    snapshot: Arc<Snapshot>,
    output: Box<dyn Output>,
    errors: Option<Box<dyn Output>>,
    input: Option<Box<dyn Input>>,
    devices: Vec<Box<dyn BackEnd>>,
    share: Share,
    hook: Option<Arc<dyn Hook>>,
}

impl Restore {
    /// A guest that goes on from here, with output that is dropped.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Restore {
            snapshot,
            output: Box::new(Buffer::new(0)),
            errors: None,
            input: None,
            devices: Vec::new(),
            share: Share::default(),
            hook: None,
        }
    }

    /// Where its console's output goes.
    pub fn output(mut self, output: impl Output + 'static) -> Self {
        self.output = Box::new(output);
        self
    }

    /// Where its log records and errors go. Without this they go where the console's output goes.
    pub fn error_output(mut self, output: impl Output + 'static) -> Self {
        self.errors = Some(Box::new(output));
        self
    }

    /// Both outputs, for who has them in boxes.
    pub fn boxed_outputs(mut self, output: Box<dyn Output>, errors: Option<Box<dyn Output>>) -> Self {
        (self.output, self.errors) = (output, errors);
        self
    }

    /// Where its console's input comes from. Without one, the input is at its end.
    pub fn input(mut self, input: impl Input + 'static) -> Self {
        self.input = Some(Box::new(input));
        self
    }

    /// Its next disk, in the order of the guest that was saved.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.devices.push(Box::new(DiskBackEnd { disk, engine: EngineKind::Auto }));
        self
    }

    /// Its next network, whose frames are also written to `capture`.
    pub fn network(mut self, network: Box<dyn Network>, capture: Option<Capture>) -> Self {
        self.devices.push(Box::new(NetBackEnd { network, capture }));
        self
    }

    /// Its function device.
    pub fn function(mut self, device: Arc<FunctionDevice>) -> Self {
        self.devices.push(Box::new(device));
        self
    }

    /// Its share of the processors.
    pub fn share(mut self, share: Share) -> Self {
        self.share = share;
        self
    }

    /// Who hears of its answers. The guest is paused until it gets a request.
    pub fn hook(mut self, hook: Arc<dyn Hook>) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Starts the guest.
    pub fn spawn(self, engine: &Engine) -> Result<Guest, StartError> {
        let begin = Instant::now();
        let saved = self.snapshot.saved();
        let template = self.snapshot.template();
        let memory = match engine.inner.platform.shares_memory() {
            true => GuestMemory::copy_of_template(template)?,
            false => GuestMemory::of_template(template)?,
        };
        for range in self.snapshot.hot_pages().iter() {
            memory.populate(range.clone());
        }
        let console = Console::new(self.output, self.input);
        let devices = Devices::resume(&saved.devices, memory.base(), console.clone(), self.devices)?;
        devices.rewrite(&memory, saved);
        Launch {
            name: saved.name.clone(),
            image: self.snapshot.image().clone(),
            memory: Arc::new(memory),
            places: saved.places,
            cpus: saved.cpus.clone(),
            devices,
            bus: None,
            console,
            errors: self.errors,
            share: self.share,
            pause_at_ready: false,
            resumed: Some((saved.clone(), Identity::fresh().map_err(StartError::Random)?)),
            hook: self.hook,
            load: begin.elapsed(),
        }
        .start(engine)
    }
}
