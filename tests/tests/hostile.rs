//! Guests that break the contract: each ends in an errno or in its own death
//! with a report, and never in a panic, a hang or growth of hv.

use hv_tests::{Finished, Platform, Running, guest_test};
use std::time::Duration;

/// Runs a violation that the guest is expected to survive.
#[track_caller]
fn survives(platform: Platform, violation: &[&str], options: &[&str]) {
    let out = platform.ran("hostile", options, violation).expect(0);
    assert!(out.text().ends_with("survived\n"), "{}", out.text());
}

/// Runs a violation that ends the guest, with a report that says `why`.
#[track_caller]
fn dies(platform: Platform, guest: &str, violation: &[&str], options: &[&str], why: &str) -> Finished {
    let out = platform.ran(guest, options, violation).expect(101);
    let first = out.err.lines().next().unwrap_or_default();
    assert!(first.contains("crashed:") && first.contains(why), "expected {why:?} in:\n{}", out.err);
    out
}

fn disk() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    file
}

#[guest_test]
fn ring_index_jumps(platform: Platform) {
    dies(platform, "hostile", &["index-jump"], &[], "ring index");
}

#[guest_test]
fn ring_index_goes_back(platform: Platform) {
    dies(platform, "hostile", &["index-back"], &[], "ring index");
}

#[guest_test]
fn ring_index_wraps(platform: Platform) {
    dies(platform, "hostile", &["index-wrap"], &[], "ring index");
}

#[guest_test]
fn response_index_jumps(platform: Platform) {
    dies(platform, "hostile", &["response-index-jump"], &[], "ring index");
}

#[guest_test]
fn net_ring_index_jumps(platform: Platform) {
    dies(platform, "hostile", &["net-index-jump"], &["--net", "user"], "ring index");
}

#[guest_test]
fn descriptors_outside_memory_at_its_last_byte_on_host_pages_zero_and_4_gib_long(platform: Platform) {
    let disk = disk();
    survives(platform, &["bad-segments"], &["--disk", disk.path().to_str().unwrap()]);
}

#[guest_test]
fn a_request_changed_after_it_was_published(platform: Platform) {
    let disk = disk();
    survives(platform, &["changing-requests"], &["--disk", disk.path().to_str().unwrap()]);
}

#[guest_test]
fn responses_that_nobody_reads(platform: Platform) {
    let disk = disk();
    survives(platform, &["never-reads-responses"], &["--disk", disk.path().to_str().unwrap()]);
}

#[guest_test]
fn frames_outside_memory(platform: Platform) {
    survives(platform, &["bad-frames"], &["--net", "user"]);
}

#[guest_test]
fn doorbells_for_unbound_events(platform: Platform) {
    survives(platform, &["unbound-doorbells"], &[]);
}

#[guest_test]
fn a_doorbell_storm(platform: Platform) {
    let disk = disk();
    survives(
        platform,
        &["doorbell-storm", "200000"],
        &["--disk", disk.path().to_str().unwrap(), "--net", "user"],
    );
}

#[guest_test]
fn unknown_hypercalls(platform: Platform) {
    survives(platform, &["unknown-hypercalls"], &[]);
}

#[guest_test]
fn hypercall_arguments_that_point_elsewhere(platform: Platform) {
    survives(platform, &["bad-hypercall-arguments"], &[]);
}

#[guest_test]
fn every_other_port(platform: Platform) {
    // The neighbours of the ABI's ports, those of the exception stubs, and the PC's classics.
    for port in
        [0u16, 0x20, 0x40, 0x60, 0x64, 0x70, 0x80, 0x8d, 0x8e, 0x92, 0x9f, 0xdd, 0xe8, 0x3f8, 0xcf8, 0xffff]
    {
        dies(platform, "hostile", &["port-write", &port.to_string()], &[], "general protection");
        dies(platform, "hostile", &["port-read", &port.to_string()], &[], "general protection");
    }
}

#[guest_test]
fn the_abis_ports_used_in_other_ways(platform: Platform) {
    // A process has no ports at all.
    let reason = if platform == Platform::Process { "general protection" } else { "port" };
    for port in [0xe0u16, 0xe4] {
        dies(platform, "hostile", &["port-byte", &port.to_string()], &[], reason);
        dies(platform, "hostile", &["port-read", &port.to_string()], &[], reason);
    }
    dies(platform, "hostile", &["port-byte", "225"], &[], reason);
}

#[guest_test]
fn string_writes_to_the_abis_ports(platform: Platform) {
    // Some platforms take a string write apart: then it is four ordinary
    // calls, of number 0. The others say that it is no call at all.
    for port in ["224", "228"] {
        let out = platform.ran("hostile", &[], &["port-string", port]);
        assert!(out.code() == Some(0) || out.code() == Some(101) && out.err.contains("port"), "{}", out.err);
    }
}

#[guest_test]
fn a_write_to_code(platform: Platform) {
    dies(platform, "crash", &["write-code"], &[], "write to the guest's code");
}

#[guest_test]
fn a_write_to_read_only_data(platform: Platform) {
    dies(platform, "crash", &["write-rodata"], &[], "write to read-only memory");
}

#[guest_test]
fn a_touch_of_the_host_owned_area(platform: Platform) {
    // Tables and stack, then the exception stubs.
    // A process has nothing there.
    let what = if platform == Platform::Process { "unmapped address" } else { "memory of the host" };
    for page in ["0", "1"] {
        dies(platform, "hostile", &["write-host-page", page], &[], &format!("write to {what}"));
        dies(platform, "hostile", &["read-host-page", page], &[], &format!("read of {what}"));
    }
}

#[guest_test]
fn a_wild_write(platform: Platform) {
    dies(platform, "hostile", &["touch", "4886718345"], &[], "unmapped");
    // The kernel's half of the address space.
    dies(
        platform,
        "hostile",
        &["touch", &0xffff_8000_0000_0000_u64.to_string()],
        &[],
        "page fault: write to",
    );
    // Not a canonical address.
    dies(platform, "hostile", &["touch", &(1u64 << 62).to_string()], &[], "general protection");
}

#[guest_test]
fn execution_of_the_stack(platform: Platform) {
    dies(platform, "crash", &["exec-stack"], &[], "execution of");
}

#[guest_test]
fn a_null_pointer(platform: Platform) {
    dies(platform, "crash", &["null"], &[], "null pointer");
}

#[guest_test]
fn a_stack_overflow(platform: Platform) {
    dies(platform, "crash", &["stack-overflow"], &[], "stack overflow: the stack of 512 KiB is used up (");
    dies(platform, "crash", &["stack-overflow"], &["--stack", "64K"], "; `--stack SIZE` gives more");
}

#[guest_test]
fn heap_exhaustion(platform: Platform) {
    dies(platform, "crash", &["heap-exhaustion"], &["--memory", "8M"], "memory allocation of ");
    let why = ": the memory of 8192 KiB, 7";
    dies(platform, "crash", &["heap-exhaustion"], &["--memory", "8M"], why);
    dies(
        platform,
        "crash",
        &["heap-exhaustion"],
        &[],
        " for the heap, is used up; `--memory SIZE` gives more",
    );
}

#[guest_test]
fn a_panic_says_where(platform: Platform) {
    let out = dies(platform, "crash", &["panic"], &[], "panic");
    assert!(out.err.contains("crash.rs:"), "the location:\n{}", out.err);
}

#[guest_test]
fn privileged_and_undefined_instructions(platform: Platform) {
    for (way, why) in [
        ("cli", "cli"),
        ("hlt", "hlt"),
        ("wrmsr", "wrmsr"),
        ("lgdt", "privileged"),
        ("int80", "int 0x80"),
        ("ud2", "invalid opcode"),
        ("div0", "division"),
    ] {
        dies(platform, "crash", &[way], &[], why);
    }
}

#[guest_test]
fn a_linux_system_call_is_recognised_and_its_caller_named(platform: Platform) {
    let out = dies(platform, "crash", &["syscall"], &[], "system call");
    assert!(out.err.contains("crash::"), "the caller:\n{}", out.err);
}

#[guest_test]
fn a_crash_report_has_registers_and_a_symbolised_backtrace(platform: Platform) {
    let out = dies(platform, "crash", &["null"], &[], "null pointer");
    for part in ["rip", "cr2", "crash::main", "crash.rs:"] {
        assert!(out.err.contains(part), "{part} in:\n{}", out.err);
    }
    let json = platform.ran("crash", &["--format", "json"], &["null"]).expect(101);
    assert!(json.err.starts_with('{') && json.err.contains("\"backtrace\""), "{}", json.err);
}

#[guest_test]
fn a_console_flood_does_not_grow_hv(platform: Platform) {
    let guest = Running::new(&mut platform.run("hostile", &["--timeout", "3s"], &["flood"]));
    std::thread::sleep(Duration::from_secs(1));
    let status = std::fs::read_to_string(format!("/proc/{}/status", guest.child.id())).unwrap();
    let rss =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").trim();
    assert!(rss.parse::<u64>().unwrap() < 40_000, "{rss} KiB");
    guest.finish().expect(124);
}

#[guest_test]
fn scribbling_over_shared_info(platform: Platform) {
    survives(platform, &["shared-info-scribble"], &[]);
}
