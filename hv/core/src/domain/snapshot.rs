//! A paused guest in memory. `crate::snapshot` reads and writes its files.

use super::features::Features;
use super::saved::Saved;
use super::{Guest, hot};
use crate::device::block::DiskRecord;
use crate::loader::Image;
use crate::memory::Template;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// The complete state of a guest. Made by [`Guest::capture`](crate::Guest::capture) or read from a folder. Guests resume
/// from it by [`Restore`](crate::Restore).
pub struct Snapshot {
    pub(crate) saved: Arc<Saved>,
    pub(crate) template: Arc<Template>,
    pub(crate) image: Arc<Image>,
    pub(crate) features: Features,
    /// One for each of the guest's disks, or empty.
    pub(crate) disks: Vec<DiskRecord>,
    /// Ranges of memory that guests use immediately when they resume.
    hot: Mutex<Arc<[Range<u64>]>>,
}

impl Snapshot {
    pub(crate) fn new(saved: Saved, template: Arc<Template>, image: Arc<Image>) -> Self {
        let hot = Mutex::new(saved.pages_of_the_host().into());
        let (features, disks) = (Features::of_host(), Vec::new());
        Snapshot { saved: Arc::new(saved), template, image, features, disks, hot }
    }

    /// The processor features that a host must have for guests to resume there. By default, all features of the host that the guest ran on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Declares that the guest uses only these features of the processor.
    pub fn set_features(&mut self, features: Features) {
        self.features = features;
    }

    /// The state that is not memory.
    pub fn saved(&self) -> &Arc<Saved> {
        &self.saved
    }

    /// The memory.
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    /// The image that the guest was booted from. Crash reports show its symbols.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Ranges (offsets in the memory, tail included) that guests use soon after they resume. Populating them before a
    /// guest runs costs one system call instead of one fault each.
    pub fn hot_pages(&self) -> Arc<[Range<u64>]> {
        self.hot.lock().expect("no panic while held").clone()
    }

    /// Learns from a guest that has resumed from here which pages later guests will use: those that it has written, and
    /// complete groups around them.
    pub fn learn(&self, guest: &Guest) {
        let hot = hot::pages(guest.written(), self.template.data());
        *self.hot.lock().expect("no panic while held") = hot.into();
    }
}
