//! The free map: pages of the heap that the guest has no use for.
//!
//! The map has an [`Entry`] of two words for every 64 pages of the heap, from its first page on. Page `p` is bit `p % 64` of both
//! words of entry `p / 64`. Both words are changed by atomic read-modify-write operations with full ordering. At the start all
//! bits are 0.
//!
//! | `free` | `empty` | the page |
//! |---|---|---|
//! | 0 | 0 | is in use, or was never given, or the host is emptying it |
//! | 1 | 0 | is free: it has content that nobody needs |
//! | 0 | 1 | is free, and the host has taken its memory back |
//!
//! To *give* a page the guest sets its bit in `free`, after its last access. Then it reads
//! [`free_map_watched`](crate::shared_info::SharedInfo::free_map_watched), and calls [`FreePages`](crate::Hypercall::FreePages) if that is 0. To *take* it back the guest clears its bit in both words, and
//! looks in which of them it was set. If in neither, the host is emptying it: the guest tries again until one was. Its content is then
//! undefined: what it was, or zeros, or what it was when a snapshot was made that the guest is a clone of.
//!
//! To *empty* pages the host exchanges `free` for 0, gives the memory of those pages to its kernel, and sets their bits in `empty`. It does
//! that when it likes, and some twenty times a second while the map is watched. When it finds nothing to empty, it makes `free_map_watched` 0, with
//! a full barrier behind, and looks once more. So no page that was given is overlooked. Snapshots do not have the content of free pages.
//!
//! A guest that gives pages that it uses loses what is in them, and nobody else does.

use crate::layout::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Pages of an entry.
pub const PAGES: u64 = 64;

/// The state of 64 pages: see the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// Pages with content that nobody needs: the guest sets bits, the host and the guest clear them.
    pub free: u64,
    /// Pages without content: the host sets bits, the guest clears them.
    pub empty: u64,
}

layout!(Entry: 16 { free @ 0, empty @ 8 });

/// Bytes of the map of a heap with this number of pages.
pub const fn size(pages: u64) -> u64 {
    pages.div_ceil(PAGES) * size_of::<Entry>() as u64
}
