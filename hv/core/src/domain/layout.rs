//! The layout of a guest's memory.
//!
//! ```text
//! base  (the platform's own pages, and unmapped ones)
//!       stack, growing down                                read, write
//!       start-info, device table, arguments, environment   read
//!       hypercall page of each virtual CPU                 read, execute
//!       shared-info, and vcpu-info of virtual CPUs from 1    read, write
//!       rings                                              read, write
//!       free map of the heap                               read, write
//!       (unmapped pages)
//!       the image's segments                               their own
//!       (unmapped page)
//!       heap, to the end of memory                         read, write
//! ```
//!
//! Pages that every guest touches first are adjacent: KVM maps up to eight neighbouring pages at one fault, if they share
//! an aligned group of eight entries of a page table and the host has them in memory. One such group holds the top of the
//! stack, start-info, the hypercall page, shared-info and the console's ring. A small image is another one. A fault takes 4 to 5 µs.
//!
//! Pure arithmetic: nothing here touches memory.

use crate::event::vcpu_info;
use crate::loader::Segment;
use crate::memory::Access;
use crate::platform::{HypercallPage, reserved};
use hv_abi::PAGE_SIZE;
use hv_abi::device::DeviceInfo;
use hv_abi::free_map;
use hv_abi::start_info::StartInfo;
use std::ops::Range;

/// Stack of a guest that does not ask for a size.
const DEFAULT_STACK: u64 = 256 << 10;

/// Pages that KVM maps at one fault, if it can.
const GROUP: u64 = 8 * PAGE_SIZE;

/// Least heap of a guest.
const MIN_HEAP: u64 = PAGE_SIZE;

/// What has to be laid out.
pub(super) struct Needs<'a> {
    pub(super) memory_size: u64,
    pub(super) vcpus: usize,
    pub(super) devices: usize,
    pub(super) arguments: usize,
    pub(super) environment: usize,
    /// Size and number of every ring, in the order of the device table.
    pub(super) rings: &'a [usize],
    pub(super) image_size: u64,
    /// A power of two, at least a page.
    pub(super) image_alignment: u64,
    pub(super) segments: &'a [Segment],
    pub(super) stack_size: u64,
}

/// Offsets from the start of guest memory.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) start_info: u64,
    pub(super) devices: u64,
    pub(super) arguments: u64,
    pub(super) environment: u64,
    pub(super) hypercall_page: u64,
    pub(super) shared_info: u64,
    pub(super) rings: Vec<u64>,
    pub(super) free_map: u64,
    pub(super) image: u64,
    image_size: u64,
    pub(super) heap: Range<u64>,
    pub(super) stack: Range<u64>,
    /// In ascending order.
    pub(super) access: Vec<(Range<u64>, Access)>,
}

/// The memory is too small: this size is sufficient.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooSmall {
    pub(super) needed: u64,
}

fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_SIZE)
}

impl Layout {
    /// What every guest touches at once, and what is therefore populated beforehand.
    pub(super) fn boot_pages(&self) -> [Range<u64>; 2] {
        let group = self.stack.end - PAGE_SIZE;
        // Most of a large image may never be touched.
        const MOST: u64 = 2 * GROUP;
        [group..self.shared_info + 2 * PAGE_SIZE, self.image..self.image + self.image_size.min(MOST)]
    }

    pub(super) fn new(needs: &Needs<'_>) -> Result<Layout, TooSmall> {
        let read = Access::READ;
        let write = Access::READ | Access::WRITE;
        let mut access = Vec::with_capacity(needs.segments.len() + 6);

        let stack_size = match needs.stack_size {
            0 => DEFAULT_STACK,
            size => pages(size),
        };
        // A page below the stack stays free, and the stack's last page is the first of its group.
        let stack_top = (reserved(needs.vcpus) + stack_size).next_multiple_of(GROUP) + PAGE_SIZE;
        let stack = stack_top - stack_size..stack_top;
        access.push((stack.clone(), write));

        let start_info = stack.end;
        let devices = start_info + (size_of::<StartInfo>() as u64).next_multiple_of(8);
        let arguments = devices + (needs.devices * size_of::<DeviceInfo>()) as u64;
        let environment = arguments + needs.arguments as u64;
        let hypercall_page =
            pages(environment + needs.environment as u64 + needs.vcpus as u64 * HypercallPage::RESULT_SIZE);
        access.push((start_info..hypercall_page, read));

        let shared_info = hypercall_page + needs.vcpus as u64 * PAGE_SIZE;
        access.push((hypercall_page..shared_info, Access::READ | Access::EXECUTE));

        let mut end = pages(vcpu_info(shared_info, needs.vcpus).end);
        let mut rings = Vec::with_capacity(needs.rings.len());
        for &size in needs.rings {
            rings.push(end);
            // A ring has pages of its own, so that the indices of two rings
            // are as far apart as they can be.
            end = pages(end + size as u64);
        }
        let free_map = end;
        end = pages(end + free_map::size(needs.memory_size / PAGE_SIZE));
        access.push((shared_info..end, write));

        let image = (end + PAGE_SIZE).next_multiple_of(needs.image_alignment.max(GROUP));
        for segment in needs.segments {
            access.push((image + segment.range.start..image + segment.range.end, segment.access));
        }
        let heap_start = image + pages(needs.image_size) + PAGE_SIZE;
        let needed = heap_start + MIN_HEAP;
        if needed > needs.memory_size {
            return Err(TooSmall { needed });
        }
        let heap = heap_start..needs.memory_size;
        access.push((heap.clone(), write));
        Ok(Layout {
            start_info,
            devices,
            arguments,
            environment,
            hypercall_page,
            shared_info,
            rings,
            free_map,
            image,
            image_size: pages(needs.image_size),
            heap,
            stack,
            access,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(memory_size: u64) -> Needs<'static> {
        Needs {
            memory_size,
            vcpus: 1,
            devices: 3,
            arguments: 10,
            environment: 50,
            rings: &[100, 9000],
            image_size: 3 * PAGE_SIZE + 1,
            image_alignment: PAGE_SIZE,
            segments: &[],
            stack_size: 0,
        }
    }

    #[test]
    fn nothing_overlaps_and_guards_stay_unmapped() {
        let layout = Layout::new(&needs(4 << 20)).unwrap();
        let mut last = 0;
        for (range, _) in &layout.access {
            assert!(last <= range.start && range.start < range.end, "{layout:?}");
            last = range.end;
        }
        let mapped = |offset| layout.access.iter().any(|(range, _)| range.contains(&offset));
        assert!(!mapped(0));
        assert!(!mapped(layout.stack.start - 1) && layout.stack.start > reserved(1));
        assert!(!mapped(layout.heap.start - 1));
        assert!(!mapped(layout.image - 1));
        assert!(mapped(layout.stack.start) && mapped(layout.stack.end - 1));
        assert_eq!(layout.heap.end, 4 << 20);
        assert_eq!((layout.stack.end - PAGE_SIZE) % GROUP, 0);
        assert_eq!(layout.start_info / GROUP, layout.shared_info / GROUP, "with short arguments");
    }

    #[test]
    fn the_size_that_is_called_enough_is_enough() {
        let TooSmall { needed } = Layout::new(&needs(64 << 10)).unwrap_err();
        assert!(Layout::new(&needs(needed)).is_ok());
        assert_eq!(Layout::new(&needs(needed - PAGE_SIZE)).unwrap_err(), TooSmall { needed });
    }
}
