//! A guest that is paused, in memory. The room `crate::snapshot` reads and writes its files.

use super::features::Features;
use super::saved::Saved;
use super::{Guest, hot};
use crate::device::block::DiskRecord;
use crate::loader::Image;
use crate::memory::Template;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// A guest's whole state. Made by [`Guest::capture`](crate::Guest::capture) or read from a folder;
/// guests resume from it by [`Restore`](crate::Restore).
pub struct Snapshot {
    pub(crate) saved: Arc<Saved>,
    pub(crate) template: Arc<Template>,
    pub(crate) image: Arc<Image>,
    pub(crate) features: Features,
    /// One for each of the guest's disks, or none at all.
    pub(crate) disks: Vec<DiskRecord>,
    /// Ranges of memory that guests use at once when they go on.
    hot: Mutex<Arc<[Range<u64>]>>,
}

impl Snapshot {
    pub(crate) fn new(saved: Saved, template: Arc<Template>, image: Arc<Image>) -> Self {
        let hot = Mutex::new(saved.pages_of_the_host().into());
        let (features, disks) = (Features::of_host(), Vec::new());
        Snapshot { saved: Arc::new(saved), template, image, features, disks, hot }
    }

    /// What the processor of a host has to have for guests to go on there: by default everything of
    /// the host that the guest ran on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Says that the guest uses nothing of the processor but these features.
    pub fn set_features(&mut self, features: Features) {
        self.features = features;
    }

    /// What is not memory.
    pub fn saved(&self) -> &Arc<Saved> {
        &self.saved
    }

    /// The memory.
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    /// The image that the guest was booted from: its symbols name what a crash report shows.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Ranges (offsets in the memory, tail included) that guests use soon after
    /// they go on: worth having in memory before they run, for one call of the
    /// kernel instead of a fault each.
    pub fn hot_pages(&self) -> Arc<[Range<u64>]> {
        self.hot.lock().expect("no panic while held").clone()
    }

    /// Learns from a guest that has gone on from here which pages those after it
    /// will use: those that it has written, and whole groups around them.
    pub fn learn(&self, guest: &Guest) {
        let hot = hot::pages(guest.written(), self.template.data());
        *self.hot.lock().expect("no panic while held") = hot.into();
    }
}
