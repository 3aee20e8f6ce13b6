//! What an operation is: something whose cost can be measured, round by round.
#![forbid(unsafe_code)]

use hv_stats::Samples;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

macro_rules! groups {
    ($($(#[$doc:meta])* $variant:ident $name:literal $title:literal;)*) => {
        /// What operations are about; tables and reports have a section for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Group {
            $($(#[$doc])* $variant,)*
            /// In a result of another version: a group that this one does not know.
            #[serde(other)]
            Other,
        }

        impl Group {
            /// Every group that operations belong to, in the order in which they are shown.
            pub const ALL: &'static [Group] = &[$(Group::$variant,)*];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Group::$variant => $name,)* Group::Other => "other" }
            }

            /// Its heading.
            pub const fn title(self) -> &'static str {
                match self { $(Group::$variant => $title,)* Group::Other => "Other operations" }
            }

            /// Every group that a result may have.
            pub fn of_results() -> impl Iterator<Item = Group> {
                Group::ALL.iter().copied().chain([Group::Other])
            }

            /// The group of this name.
            pub fn of(name: &str) -> Option<Group> {
                Group::ALL.iter().copied().find(|group| group.name() == name)
            }
        }
    };
}

groups! {
    /// Leaving the guest and coming back.
    Exits "exits" "Leaving the guest";
    /// Printing.
    Console "console" "Console";
    /// Disks.
    Block "block" "Disk";
    /// Folders of the host.
    Files "files" "Files of the host";
    /// Networks.
    Net "net" "Network";
    /// Clocks.
    Time "time" "Reading the time";
    /// Events, rings and batches.
    Events "events" "Events and rings";
    /// The guest's own memory.
    Memory "memory" "Memory";
    /// Several virtual CPUs.
    Smp "smp" "Several virtual CPUs";
    /// Starting a guest.
    Boot "boot" "Start";
    /// Going on from a snapshot.
    Clone "clone" "Clones";
    /// Guests without KVM.
    Process "process" "Without KVM";
}

/// Who does an operation: plots have a colour and a marker for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A guest on KVM with hv's own devices, or hv itself.
    Hv,
    /// A guest with an emulated device.
    Emulated,
    /// No guest of hv: bare calls of the host's kernel.
    Floor,
    /// A guest of hv without KVM.
    Process,
    /// In a result of another version: a kind that this one does not know.
    #[serde(other)]
    Other,
}

/// What is known of an operation before it is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name: small letters, digits and hyphens.
    pub name: String,
    /// What it is about.
    pub group: Group,
    /// Who does it.
    pub kind: Kind,
    /// The name of the operation that it is compared with.
    pub against: Option<String>,
    /// Bytes that one operation moves; 0 if that is not what it is about.
    pub bytes: u64,
    /// The curve that it is a point of, and where: so many operations at a time.
    pub curve: Option<(String, u32)>,
    /// What is measured, in one sentence.
    pub what: String,
}

/// The result of one round of an operation, or of a part of one. What the readings of the clock take has been taken off.
#[derive(Debug)]
pub struct Round {
    /// Operations that were done.
    pub operations: u64,
    /// What was taken off each sample: nanoseconds.
    pub overhead: f64,
    /// How long all of them took together, as their user sees it.
    pub time: Duration,
    /// From the first to the last; more than `time` where they have to wait in between.
    pub lasted: Duration,
    /// Processor time of this process for them: guest, exits and back ends.
    pub cpu: Duration,
    /// Exits to hv, by kind.
    pub exits: BTreeMap<String, u64>,
    /// What single operations, or the members of a batch, took.
    pub samples: Samples,
}

impl Round {
    /// Takes over what another part of the same round came to.
    pub fn add(&mut self, other: &Round) {
        self.operations += other.operations;
        self.overhead = self.overhead.max(other.overhead);
        self.time += other.time;
        self.lasted += other.lasted;
        self.cpu += other.cpu;
        for (kind, n) in &other.exits {
            *self.exits.entry(kind.clone()).or_default() += n;
        }
        self.samples.add(&other.samples);
    }
}

/// Why an operation could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The guest did not do what a guest of `hv bench` does.
    #[error(transparent)]
    Guest(#[from] super::guest::GuestError),
    /// The bare KVM calls of a floor failed.
    #[error("bare KVM calls: {0}")]
    Floor(#[from] super::floor::FloorError),
    /// Clones cannot be made.
    #[error("clones: {0}")]
    Clone(#[from] super::clones::CloneError),
    /// The host refused a process or memory for one.
    #[error("processes: {0}")]
    Host(#[from] std::io::Error),
    /// No memory for a ring between two ends in this process.
    #[error(transparent)]
    Memory(#[from] hv_core::memory::MapError),
}

/// Something whose cost can be measured.
pub trait Operation {
    /// What it is.
    fn spec(&self) -> &Spec;

    /// Does it `count` times or a little more, after a warm-up of its own.
    ///
    /// # Errors
    ///
    /// When the host or the guest fails; the whole run ends then.
    fn round(&self, count: u64) -> Result<Round, OperationError>;
}
