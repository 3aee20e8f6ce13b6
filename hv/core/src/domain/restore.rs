//! From a snapshot to a running guest.

use super::devices::Devices;
use super::launch::Launch;
use super::{Guest, GuestBuilder, Hook, Identity, Snapshot, StartError};
use crate::device::console::Console;
use crate::device::{self, DeviceError};
use crate::engine::Engine;
use crate::memory::GuestMemory;
use std::sync::Arc;
use std::time::Instant;

/// Why a snapshot cannot be restored with these devices.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Other devices than the guest had.
    #[error("the guest that was saved has {}; it has to get the same again", kinds(.wanted))]
    Devices {
        /// The kinds of the guest's devices, the console left out.
        wanted: Vec<u32>,
    },
    /// A device that differs from what the guest would take it for.
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

/// Describes a guest that resumes from a snapshot, then starts it. Any number
/// of guests can resume from one: they share every page that they do not write.
///
/// It gets devices of the same kinds as the guest that was saved, in the same order.
pub type Restore = GuestBuilder<Restored>;

/// Options that only guests that resume from a snapshot have.
pub struct Restored {
    snapshot: Arc<Snapshot>,
    hook: Option<Arc<dyn Hook>>,
}

impl Restore {
    /// A guest that resumes from this snapshot, with output that is dropped.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        GuestBuilder::of(Restored { snapshot, hook: None })
    }

    /// The hook that is told of its answers. The guest is paused until it gets a request.
    pub fn hook(mut self, hook: Arc<dyn Hook>) -> Self {
        self.origin.hook = Some(hook);
        self
    }

    /// Starts the guest.
    ///
    /// # Errors
    ///
    /// When the devices are not those of the guest that was saved, or the host refuses it.
    pub fn spawn(self, engine: &Engine) -> Result<Guest, StartError> {
        let begin = Instant::now();
        let GuestBuilder { origin: Restored { snapshot, hook }, resources } = self;
        let saved = snapshot.saved();
        let template = snapshot.template();
        let promise = resources.promise(&engine.inner.budget, 0, template.size())?;
        let memory = match engine.inner.platform.shares_memory() {
            true => GuestMemory::shared_of_template(template)?,
            false => GuestMemory::of_template(template)?,
        };
        if resources.share_equal_pages {
            memory.share_equal_pages()?;
        }
        for range in snapshot.hot_pages().iter() {
            memory.populate(range.clone());
        }
        let console = Console::new(resources.output, resources.input);
        let devices = Devices::resume(&saved.devices, memory.base(), console.clone(), resources.back_ends)?;
        devices.rewrite(&memory, saved);
        Launch {
            name: saved.name.clone(),
            image: snapshot.image().clone(),
            memory: Arc::new(memory),
            places: saved.places,
            cpus: saved.cpus.clone(),
            devices,
            bus: None,
            console,
            errors: resources.errors,
            share: resources.share,
            group: resources.group,
            promise,
            pause_at_ready: false,
            resumed: Some((saved.clone(), Identity::fresh().map_err(StartError::Random)?)),
            hook,
            load: begin.elapsed(),
        }
        .start(engine)
    }
}
