//! Memory that guests take and give back.

use hv::{Engine, Outcome, Stop};
use hv_tests::console::Talking;
use hv_tests::snapshot::{folder, restored, save};
use hv_tests::{Platform, eventually, guest_test};

const MIB: u64 = 1 << 20;

fn start(engine: &Engine, memory: u64, arguments: &[&str]) -> Talking {
    Talking::start(engine, "memory", arguments, |builder| builder.memory(memory)).unwrap()
}

/// Waits until the guest has at most this much memory.
fn shrinks_to(talking: &Talking, bytes: u64) {
    eventually("memory that goes back", || (talking.guest.resident_memory() <= bytes).then_some(()));
}

#[guest_test]
fn what_a_guest_frees_goes_back_to_the_host(platform: Platform) {
    let engine = platform.engine(1);
    let mut guest = start(&engine, 512 * MIB, &["give", "100"]);
    for _ in 0..2 {
        guest.says("filled");
        assert!(guest.guest.resident_memory() >= 100 * MIB);
        guest.goes_on();
        guest.says("freed");
        shrinks_to(&guest, 4 * MIB);
        guest.goes_on();
    }
    guest.says("done");
    assert!(matches!(guest.guest.wait(), Outcome::Exited(0)));
}

#[guest_test]
fn small_blocks_go_back_as_well(platform: Platform) {
    let engine = platform.engine(1);
    let mut guest = start(&engine, 256 * MIB, &["small", "64"]);
    guest.says("filled");
    assert!(guest.guest.resident_memory() >= 60 * MIB);
    guest.goes_on();
    guest.says("freed");
    shrinks_to(&guest, 8 * MIB);
    guest.goes_on();
    assert!(matches!(guest.guest.wait(), Outcome::Exited(0)));
}

/// The host asks nobody: the guest never leaves its processor again.
#[guest_test]
fn memory_goes_back_while_the_guest_spins(platform: Platform) {
    let engine = platform.engine(1);
    let mut guest = start(&engine, 256 * MIB, &["spin", "100"]);
    guest.says("freed");
    shrinks_to(&guest, 4 * MIB);
    guest.guest.stop(Stop::Timeout);
    assert!(matches!(guest.guest.wait(), Outcome::Stopped(Stop::Timeout)));
}

#[guest_test]
fn blocks_keep_their_bytes_while_others_go_back(platform: Platform) {
    for vcpus in ["1", "3"] {
        let options = ["--vcpus", vcpus, "--memory", "512M", "--timeout", "100s"];
        assert_eq!(platform.ran("memory", &options, &["churn", "3000"]).expect(0).text(), "done\n");
    }
}

#[guest_test]
fn a_snapshot_is_without_what_was_freed(platform: Platform) {
    let (_kept, path) = folder();
    save(platform, "memory", &path, &["--memory", "256M"], &["clone", "32"]);
    let blocks: u64 = std::fs::read_dir(&path)
        .unwrap()
        .map(|file| std::os::unix::fs::MetadataExt::blocks(&file.unwrap().metadata().unwrap()) * 512)
        .sum();
    assert!((32 * MIB..40 * MIB).contains(&blocks), "{blocks} bytes");
    for _ in 0..2 {
        assert_eq!(restored(platform, &path, &["--timeout", "100s"]).expect(0).text(), "freed\ndone\n");
    }
}

/// A guest that gives pages that it uses loses what is in them.
#[guest_test]
fn a_wrong_map_costs_its_guest_only(platform: Platform) {
    let engine = platform.engine(2);
    let mut neighbour = start(&engine, 64 * MIB, &["give", "32"]);
    neighbour.says("filled");
    let mut liar = start(&engine, 64 * MIB, &["lie", "8"]);
    liar.says("lost 2048 pages");
    assert!(matches!(liar.guest.wait(), Outcome::Exited(0)));
    for said in ["freed", "filled", "freed"] {
        neighbour.goes_on();
        neighbour.says(said);
    }
    neighbour.goes_on();
    neighbour.says("done");
    assert!(matches!(neighbour.guest.wait(), Outcome::Exited(0)));
}

/// The host's owner wants the guest to use less.
#[guest_test]
fn a_guest_gives_up_what_it_can_do_without(platform: Platform) {
    let engine = platform.engine(1);
    let mut guest = start(&engine, 256 * MIB, &["cache", "64"]);
    guest.says("filled");
    let controller = guest.guest.controller();
    controller.set_memory_target(Some(32 * MIB)).unwrap();
    guest.says("gave up memory");
    shrinks_to(&guest, 34 * MIB);
    controller.set_memory_target(None).unwrap();
    controller.set_memory_target(Some(MIB)).unwrap();
    guest.says("gave up memory");
    guest.says("done");
    assert!(matches!(guest.guest.wait(), Outcome::Exited(0)));
}

#[guest_test]
fn a_storm_of_calls_is_harmless(platform: Platform) {
    let options = ["--memory", "64M", "--timeout", "100s"];
    assert_eq!(platform.ran("memory", &options, &["storm", "20000"]).expect(0).text(), "done\n");
}

/// The kernel's merging of equal pages, fast, for the time of a test.
struct Ksm(Vec<(&'static str, String)>);

impl Ksm {
    fn start() -> std::io::Result<Ksm> {
        let mut before = Ksm(Vec::new());
        for (name, value) in [("pages_to_scan", "50000"), ("sleep_millisecs", "10"), ("run", "1")] {
            let path = format!("/sys/kernel/mm/ksm/{name}");
            before.0.insert(0, (name, std::fs::read_to_string(&path)?));
            std::fs::write(path, value)?;
        }
        Ok(before)
    }

    /// Pages of this process that are merged.
    fn merged() -> u64 {
        let text = std::fs::read_to_string("/proc/self/ksm_merging_pages").unwrap();
        text.trim().parse().unwrap()
    }
}

impl Drop for Ksm {
    fn drop(&mut self) {
        for (name, value) in &self.0 {
            let _ = std::fs::write(format!("/sys/kernel/mm/ksm/{name}"), value);
        }
    }
}

#[guest_test(kvm, "memory of guests in processes is a file, which the kernel does not merge")]
fn equal_pages_of_guests_that_share_them_are_in_memory_once(platform: Platform) {
    let _ksm = match Ksm::start() {
        Ok(ksm) => ksm,
        Err(error) => return hv_tests::skip(format!("needs the right to start the kernel's KSM: {error}")),
    };
    let engine = platform.engine(1);
    let start = |share: bool| {
        Talking::start(&engine, "memory", &["give", "32"], |builder| {
            let builder = builder.memory(64 * MIB);
            if share { builder.share_equal_pages() } else { builder }
        })
    };
    let mut guests = [start(true).unwrap(), start(true).unwrap(), start(false).unwrap()];
    guests.iter_mut().for_each(|guest| guest.says("filled"));
    let pages = 32 * MIB / 4096;
    eventually("pages of two guests that are merged", || (Ksm::merged() >= 2 * pages).then_some(()));
    assert!(Ksm::merged() < 2 * pages + pages / 2, "those of the third are not");
    // Each has its own bytes, and can write to them.
    for guest in &mut guests {
        guest.goes_on();
        for said in ["freed", "filled", "freed", "done"] {
            guest.says(said);
            if said != "done" {
                guest.goes_on();
            }
        }
        assert!(matches!(guest.guest.wait(), Outcome::Exited(0)));
    }
}

#[guest_test]
fn equal_pages_are_shared_where_that_is_possible(platform: Platform) {
    let ran = platform.ran("hello", &["--share-equal-pages"], &[]);
    match platform {
        Platform::Kvm => {
            let ran = ran.expect(0);
            let warning = "--share-equal-pages: no pages are shared before the kernel's KSM is started";
            assert!(ran.err.is_empty() || ran.err.contains(warning), "{}", ran.err);
        }
        Platform::Process => {
            let parts = ["equal pages cannot be shared on the platform process", "--platform kvm"];
            let ran = ran.expect(2);
            assert!(parts.iter().all(|part| ran.err.contains(part)), "{}", ran.err);
        }
    }
}
