//! Guests that break the contract: each ends in an errno or in its own death
//! with a report, and never in a panic, a hang or growth of hv.

use hv_tests::{Finished, Running, can_run_guests, platform, ran, run};
use std::time::Duration;

/// Runs a violation that the guest is expected to survive.
#[track_caller]
fn survives(violation: &[&str], options: &[&str]) {
    if can_run_guests() {
        let out = ran("hostile", options, violation).expect(0);
        assert!(out.text().ends_with("survived\n"), "{}", out.text());
    }
}

/// Runs a violation that ends the guest, with a report that says `why`.
#[track_caller]
fn dies(guest: &str, violation: &[&str], options: &[&str], why: &str) -> Option<Finished> {
    if !can_run_guests() {
        return None;
    }
    let out = ran(guest, options, violation).expect(101);
    let first = out.err.lines().next().unwrap_or_default();
    assert!(first.contains("crashed:") && first.contains(why), "expected {why:?} in:\n{}", out.err);
    Some(out)
}

fn disk() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    file
}

#[test]
fn ring_index_jumps() {
    dies("hostile", &["index-jump"], &[], "ring index");
}

#[test]
fn ring_index_goes_back() {
    dies("hostile", &["index-back"], &[], "ring index");
}

#[test]
fn ring_index_wraps() {
    dies("hostile", &["index-wrap"], &[], "ring index");
}

#[test]
fn response_index_jumps() {
    dies("hostile", &["response-index-jump"], &[], "ring index");
}

#[test]
fn net_ring_index_jumps() {
    dies("hostile", &["net-index-jump"], &["--net", "user"], "ring index");
}

#[test]
fn descriptors_outside_memory_at_its_last_byte_on_host_pages_zero_and_4_gib_long() {
    let disk = disk();
    survives(&["bad-segments"], &["--disk", disk.path().to_str().unwrap()]);
}

#[test]
fn a_request_changed_after_it_was_published() {
    let disk = disk();
    survives(&["changing-requests"], &["--disk", disk.path().to_str().unwrap()]);
}

#[test]
fn responses_that_nobody_reads() {
    let disk = disk();
    survives(&["never-reads-responses"], &["--disk", disk.path().to_str().unwrap()]);
}

#[test]
fn frames_outside_memory() {
    survives(&["bad-frames"], &["--net", "user"]);
}

#[test]
fn doorbells_for_unbound_events() {
    survives(&["unbound-doorbells"], &[]);
}

#[test]
fn a_doorbell_storm() {
    let disk = disk();
    survives(&["doorbell-storm", "200000"], &["--disk", disk.path().to_str().unwrap(), "--net", "user"]);
}

#[test]
fn unknown_hypercalls() {
    survives(&["unknown-hypercalls"], &[]);
}

#[test]
fn hypercall_arguments_that_point_elsewhere() {
    survives(&["bad-hypercall-arguments"], &[]);
}

#[test]
fn every_other_port() {
    // The neighbours of the ABI's ports, those of the exception stubs, and the PC's classics.
    for port in
        [0u16, 0x20, 0x40, 0x60, 0x64, 0x70, 0x80, 0x8d, 0x8e, 0x92, 0x9f, 0xdd, 0xe8, 0x3f8, 0xcf8, 0xffff]
    {
        dies("hostile", &["port-write", &port.to_string()], &[], "general protection");
        dies("hostile", &["port-read", &port.to_string()], &[], "general protection");
    }
}

#[test]
fn the_abis_ports_used_in_other_ways() {
    // A process has no ports at all.
    let reason = if platform() == "process" { "general protection" } else { "port" };
    for port in [0xe0u16, 0xe4] {
        dies("hostile", &["port-byte", &port.to_string()], &[], reason);
        dies("hostile", &["port-read", &port.to_string()], &[], reason);
    }
    dies("hostile", &["port-byte", "225"], &[], reason);
}

#[test]
fn string_writes_to_the_abis_ports() {
    if !can_run_guests() {
        return;
    }
    // Some platforms take a string write apart: then it is four ordinary
    // calls, of number 0. The others say that it is no call at all.
    for port in ["224", "228"] {
        let out = ran("hostile", &[], &["port-string", port]);
        assert!(out.code() == Some(0) || out.code() == Some(101) && out.err.contains("port"), "{}", out.err);
    }
}

#[test]
fn a_write_to_code() {
    dies("crash", &["write-code"], &[], "write to the guest's code");
}

#[test]
fn a_write_to_read_only_data() {
    dies("crash", &["write-rodata"], &[], "write to read-only memory");
}

#[test]
fn a_touch_of_the_host_owned_area() {
    // Tables and stack, then the exception stubs.
    // A process has nothing there.
    let what = if platform() == "process" { "unmapped address" } else { "memory of the host" };
    for page in ["0", "1"] {
        dies("hostile", &["write-host-page", page], &[], &format!("write to {what}"));
        dies("hostile", &["read-host-page", page], &[], &format!("read of {what}"));
    }
}

#[test]
fn a_wild_write() {
    dies("hostile", &["touch", "4886718345"], &[], "unmapped");
    // The kernel's half of the address space.
    dies("hostile", &["touch", &0xffff_8000_0000_0000_u64.to_string()], &[], "page fault: write to");
    // Not a canonical address.
    dies("hostile", &["touch", &(1u64 << 62).to_string()], &[], "general protection");
}

#[test]
fn execution_of_the_stack() {
    dies("crash", &["exec-stack"], &[], "execution of");
}

#[test]
fn a_null_pointer() {
    dies("crash", &["null"], &[], "null pointer");
}

#[test]
fn a_stack_overflow() {
    dies("crash", &["stack-overflow"], &[], "stack overflow: the stack of 512 KiB is used up (");
    dies("crash", &["stack-overflow"], &["--stack", "64K"], "; `--stack SIZE` gives more");
}

#[test]
fn heap_exhaustion() {
    dies("crash", &["heap-exhaustion"], &["--memory", "8M"], "memory allocation of ");
    let why = ": the memory of 8192 KiB, 7";
    dies("crash", &["heap-exhaustion"], &["--memory", "8M"], why);
    dies("crash", &["heap-exhaustion"], &[], " for the heap, is used up; `--memory SIZE` gives more");
}

#[test]
fn a_panic_says_where() {
    if let Some(out) = dies("crash", &["panic"], &[], "panic") {
        assert!(out.err.contains("crash.rs:"), "the location:\n{}", out.err);
    }
}

#[test]
fn privileged_and_undefined_instructions() {
    for (way, why) in [
        ("cli", "cli"),
        ("hlt", "hlt"),
        ("wrmsr", "wrmsr"),
        ("lgdt", "privileged"),
        ("int80", "int 0x80"),
        ("ud2", "invalid opcode"),
        ("div0", "division"),
    ] {
        dies("crash", &[way], &[], why);
    }
}

#[test]
fn a_linux_system_call_is_recognised_and_its_caller_named() {
    if let Some(out) = dies("crash", &["syscall"], &[], "system call") {
        assert!(out.err.contains("crash::"), "the caller:\n{}", out.err);
    }
}

#[test]
fn a_crash_report_has_registers_and_a_symbolised_backtrace() {
    if let Some(out) = dies("crash", &["null"], &[], "null pointer") {
        for part in ["rip", "cr2", "crash::main", "crash.rs:"] {
            assert!(out.err.contains(part), "{part} in:\n{}", out.err);
        }
    }
    if !can_run_guests() {
        return;
    }
    let json = ran("crash", &["--format", "json"], &["null"]).expect(101);
    assert!(json.err.starts_with('{') && json.err.contains("\"backtrace\""), "{}", json.err);
}

#[test]
fn a_console_flood_does_not_grow_hv() {
    if !can_run_guests() {
        return;
    }
    let guest = Running::new(&mut run("hostile", &["--timeout", "3s"], &["flood"]));
    std::thread::sleep(Duration::from_secs(1));
    let status = std::fs::read_to_string(format!("/proc/{}/status", guest.child.id())).unwrap();
    let rss =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").trim();
    assert!(rss.parse::<u64>().unwrap() < 40_000, "{rss} KiB");
    guest.finish().expect(124);
}

#[test]
fn scribbling_over_shared_info() {
    survives(&["shared-info-scribble"], &[]);
}
