//! Targets of new guests, and of those that were saved.

use super::*;
use crate::domain::{Hook, Outcome, Restore, Snapshot};
use crate::engine::Engine;
use crate::platform::kvm::KvmPlatform;
use hv_abi::{GuestAddr, PAGE_SIZE};
use std::path::Path;
use std::sync::Arc;

struct Nobody;

impl Hook for Nobody {
    fn pauses_when_done(&self) -> bool {
        true
    }

    fn done(&self) {}

    fn ended(&self, _: &Outcome) {}
}

fn places() -> Offsets {
    Offsets {
        image: 0,
        stack: 0,
        devices: 0,
        device_count: 0,
        hypercall_page: 0,
        shared_info: PAGE_SIZE,
        upcall: 0,
        free_map: 0,
        heap: 0,
    }
}

#[test]
fn a_target_that_makes_no_sense_counts_as_none() {
    let memory = GuestMemory::new(GuestAddr(0x20_0000), 4 * PAGE_SIZE).unwrap();
    let most = memory.size();
    let standing = |vcpus: u32, bytes: u64| {
        memory.atomic_u32(vcpus_at(&places())).store(vcpus, Ordering::SeqCst);
        memory.atomic_u64(memory_at(&places())).store(bytes, Ordering::SeqCst);
        let found = Targets::standing(&memory, &places(), 4);
        // What is read is what the guest reads.
        assert_eq!(Targets::standing(&memory, &places(), 4), found);
        assert_eq!(memory.atomic_u32(vcpus_at(&places())).load(Ordering::SeqCst) as usize, found.vcpus);
        (found.vcpus, found.memory)
    };
    assert_eq!(standing(0, 0), (4, None));
    assert_eq!(standing(3, 5), (3, Some(5)));
    assert_eq!(standing(4, most), (4, Some(most)));
    assert_eq!(standing(5, most + 1), (4, None));
    assert_eq!(standing(u32::MAX, u64::MAX), (4, None));
}

#[test]
fn targets_are_saved_and_what_the_guest_wrote_there_is_not() {
    let platform = match KvmPlatform::new() {
        Ok(platform) => platform,
        Err(error) => {
            hv_skip::skip(format_args!("needs the platform kvm: {error}"));
            return;
        }
    };
    let engine = Engine::new(platform, 0).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/snapshot-v1");
    let restore =
        |snapshot: Arc<Snapshot>| Restore::new(snapshot).hook(Arc::new(Nobody)).spawn(&engine).unwrap();
    // Of a host that knew no targets.
    let guest = restore(Arc::new(Snapshot::open(&golden, &engine).unwrap()));
    let all = Targets { vcpus: 1, memory: None };
    assert_eq!(guest.controller().facts().unwrap().targets, all);
    let controller = guest.controller();
    let most = guest.domain.memory.size();
    for asked in [0, 2, usize::MAX] {
        let refused = controller.set_vcpus_target(asked);
        assert_eq!(refused, Err(TargetError::Vcpus { asked, most: 1 }));
    }
    for asked in [0, most + 1, u64::MAX] {
        let refused = controller.set_memory_target(Some(asked));
        assert_eq!(refused, Err(TargetError::Memory { asked, most }));
    }
    // All or none.
    let both = |targets: &mut Targets| (targets.memory, targets.vcpus) = (Some(1), 2);
    assert!(controller.change_targets(both).is_err());
    assert_eq!(controller.facts().unwrap().targets, all);
    controller.set_memory_target(Some(most / 2)).unwrap();
    // The guest scribbles over its page.
    let domain = &guest.domain;
    domain.memory.atomic_u64(memory_at(&domain.places)).store(7, Ordering::SeqCst);
    domain.memory.atomic_u32(vcpus_at(&domain.places)).store(9, Ordering::SeqCst);
    let half = Targets { vcpus: 1, memory: Some(most / 2) };
    assert_eq!(controller.facts().unwrap().targets, half);
    let clone = restore(Arc::new(guest.capture().unwrap()));
    assert_eq!(clone.controller().facts().unwrap().targets, half);
    // A clone that is reset is as the snapshot again.
    clone.controller().set_memory_target(None).unwrap();
    assert!(clone.wait_paused(std::time::Duration::from_secs(60)));
    clone.reset().unwrap();
    assert_eq!(clone.controller().facts().unwrap().targets, half);
    drop(clone);
    drop(guest);
    assert_eq!(controller.set_vcpus_target(1), Err(TargetError::Ended));
    assert_eq!(controller.facts(), None);
}
