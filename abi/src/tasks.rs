//! The list of an executor's tasks, for people who ask the host where a guest is.
//!
//! An image that has one says where in an ELF note of its own ([`TasksNote`]). Nothing depends on it: the host
//! copies it when somebody asks, checks every address, and shows what it found. A host that does not know
//! the note skips it, so that the list needs no version of the ABI but its own.

use crate::{GuestAddr, layout::layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Type of the note; its owner is [`NOTE_NAME`](crate::note::NOTE_NAME).
pub const TASKS_NOTE_TYPE: u32 = 2;

/// The note's descriptor. Written by the linker of the image, checked by the host when it loads the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TasksNote {
    /// [`TASKS_VERSION`]; of an image with another one, the host shows no tasks.
    pub version: u32,
    /// Zero.
    pub reserved: u32,
    /// Where the head of the list is, less the address of this field. So the linker can write it, and no relocation
    /// has to. The head is a [`GuestAddr`] that the guest writes: of the first [`TaskInfo`]; 0: there is none.
    pub distance: i64,
}

layout!(TasksNote: 16 { version @ 0, reserved @ 4, distance @ 8 });

/// Value of [`TasksNote::version`].
pub const TASKS_VERSION: u32 = 1;

/// A task. Written by the guest, read by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TaskInfo {
    /// Guest address of the next one; 0: there is none.
    pub next: GuestAddr,
    /// Guest address of its name in UTF-8: the type of its future.
    pub name: GuestAddr,
    /// Bytes of the name; a host shows [`TASK_TEXT_MAX`].
    pub name_size: u32,
    /// [`TASK_RUNS`], or [`TASK_WAITS`] with or without [`TASK_WAITS_FOR_TIME`] and [`TASK_WAITS_FOR_EVENT`].
    pub state: u32,
    /// Guest address of the name of the source file in which it was spawned, in UTF-8.
    pub file: GuestAddr,
    /// Bytes of the file's name; a host shows [`TASK_TEXT_MAX`]. 0: not known.
    pub file_size: u32,
    /// The line in the file, from 1.
    pub line: u32,
    /// With [`TASK_WAITS_FOR_TIME`]: until when, in nanoseconds of the guest's clock.
    pub deadline: u64,
    /// With [`TASK_WAITS_FOR_EVENT`]: the event port.
    pub event: u32,
    /// Zero.
    pub reserved: u32,
}

layout!(TaskInfo: 56 {
    next @ 0, name @ 8, name_size @ 16, state @ 20, file @ 24, file_size @ 32, line @ 36, deadline @ 40, event @ 48,
    reserved @ 52,
});

/// Most bytes of a name that are shown.
pub const TASK_TEXT_MAX: u32 = 256;

/// It runs, or has not run yet.
pub const TASK_RUNS: u32 = 0;
/// It has run, and waits for something: what it is has bits of its own; without any, for another task.
pub const TASK_WAITS: u32 = 1;
/// It waits for a time.
pub const TASK_WAITS_FOR_TIME: u32 = 2;
/// It waits for an event.
pub const TASK_WAITS_FOR_EVENT: u32 = 4;
