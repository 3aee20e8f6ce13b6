//! How much memory the guest uses, and how much it should use.
#![forbid(unsafe_code)]

use super::pages::{PAGE, PAGES};
use crate::start_info::start_info;
use crate::targets;

/// The memory of this guest, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What is used: everything but the free pages of the heap.
    pub used: usize,
    /// What there is.
    pub size: usize,
    /// What should be used at most, if the host has said so.
    pub target: Option<usize>,
}

impl Usage {
    /// Bytes by which the guest uses more than it should.
    pub fn excess(&self) -> usize {
        self.target.map_or(0, |target| self.used.saturating_sub(target))
    }
}

/// How much memory the guest uses now.
pub fn usage() -> Usage {
    let info = start_info();
    let heap = PAGES.lock().used() * PAGE;
    Usage {
        used: (info.memory_size - info.heap_size) as usize + heap,
        size: info.memory_size as usize,
        target: targets::memory(),
    }
}

/// What the host wants of this guest's memory.
///
/// A guest that has something that it can do without, such as a cache, waits in a task of its own:
///
/// ```ignore
/// let mut pressure = memory::Pressure::new();
/// loop {
///     let bytes = pressure.next().await;
///     cache.give_up(bytes);
/// }
/// ```
///
/// Memory that is freed goes back to the host by itself.
#[derive(Debug, Default)]
pub struct Pressure {
    /// The target that was told last.
    told: Option<usize>,
}

impl Pressure {
    /// One that has told nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until the host has set a target that the guest exceeds, and returns by how many bytes. Each target is told once: growth of
    /// the guest beyond a target that stays the same is not.
    pub async fn next(&mut self) -> usize {
        let told = &mut self.told;
        targets::changed_until(|| {
            let usage = usage();
            if usage.excess() == 0 {
                // The same target may come again.
                *told = None;
            }
            usage.excess() > 0 && usage.target != *told
        })
        .await;
        let usage = usage();
        self.told = usage.target;
        usage.excess()
    }
}
