//! Bad input: hv refuses it with exit code 2 and one line that names what is
//! wrong and what to do, and prints nothing else.

use hv_tests::{Finished, Running, can_run_guests, free_port, guest, has_tools, hv, hv_as_ordinary_user};
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

fn finished(command: &mut Command) -> Finished {
    Running::new(command.stdin(Stdio::null())).finish()
}

/// Expects that a command is refused in one line with these parts.
#[track_caller]
fn refused(command: &mut Command, parts: &[&str]) -> Finished {
    let end = finished(command).expect(2);
    assert_eq!(end.text(), "", "{command:?} printed something");
    assert!(end.err.starts_with("hv: error: "), "{}", end.err);
    assert!(end.err.ends_with('\n') && end.err.lines().count() == 1, "more than a line:\n{}", end.err);
    for part in parts {
        assert!(end.err.contains(part), "{part:?} in: {}", end.err);
    }
    end
}

/// Expects that the command line itself is refused, in the way that clap does it.
#[track_caller]
fn misused(arguments: &[&str], parts: &[&str]) {
    let end = finished(Command::new(hv()).arg("run").args(arguments)).expect(2);
    assert_eq!(end.text(), "", "{arguments:?} printed something");
    assert!(end.err.starts_with("error: "), "{}", end.err);
    for part in parts {
        assert!(end.err.contains(part), "{part:?} in: {}", end.err);
    }
}

/// `hv run IMAGE …`, not yet started.
fn hv_run(image: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(hv());
    command.arg("run").arg(image).args(options);
    command
}

/// `hv run hello …`, not yet started.
fn hello(options: &[&str]) -> Command {
    hv_run(&guest("hello"), options)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("folders for temporary files have plain names")
}

// ---------------------------------------------------------------- images

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const PF_W: u32 = 2;

/// A copy of a guest's image that can be damaged in chosen places.
struct Elf(Vec<u8>);

impl Elf {
    fn hello() -> Elf {
        Elf(fs::read(guest("hello")).unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// File offsets of the program headers of a kind.
    fn headers(&self, kind: u32) -> Vec<usize> {
        let (first, count) = (self.u64(0x20) as usize, usize::from(self.0[0x38]));
        (0..count).map(|n| first + n * 56).filter(|&at| self.u32(at) == kind).collect()
    }

    /// File offset of the header of the first segment with these flags.
    fn segment(&self, flags: u32) -> usize {
        let loads = self.headers(PT_LOAD);
        *loads
            .iter()
            .find(|&&at| self.u32(at + 4) & (PF_X | PF_W) == flags)
            .expect("a linker makes all kinds")
    }

    /// File offset of hv's note.
    fn note(&self) -> usize {
        let notes = self.headers(PT_NOTE).into_iter().map(|at| self.u64(at + 8) as usize);
        notes.into_iter().find(|&at| &self.0[at + 12..at + 16] == b"hv\0\0").expect("it is a guest")
    }

    /// File offset of the first relocation.
    fn relocation(&self) -> usize {
        let dynamic = self.u64(self.headers(PT_DYNAMIC)[0] + 8) as usize;
        let entry = (0..).map(|n| dynamic + n * 16).find(|&at| self.u64(at) == 7);
        let address = self.u64(entry.unwrap() + 8);
        let load = self
            .headers(PT_LOAD)
            .into_iter()
            .find(|&at| (self.u64(at + 16)..self.u64(at + 16) + self.u64(at + 32)).contains(&address));
        (address - self.u64(load.unwrap() + 16) + self.u64(load.unwrap() + 8)) as usize
    }

    /// End of what is loaded, in the file.
    fn end(&self) -> usize {
        let ends = self.headers(PT_LOAD).into_iter().map(|at| self.u64(at + 8) + self.u64(at + 32));
        ends.max().unwrap() as usize
    }

    /// The result of running it.
    fn run(&self, options: &[&str]) -> (tempfile::NamedTempFile, Command) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &self.0).unwrap();
        let command = hv_run(file.path(), options);
        (file, command)
    }

    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let (file, mut command) = self.run(&[]);
        refused(&mut command, &[parts, &["cannot load", text(file.path())]].concat());
    }
}

#[test]
fn an_undamaged_copy_runs() {
    if !can_run_guests() {
        return;
    }
    let (_file, mut command) = Elf::hello().run(&[]);
    assert_eq!(finished(&mut command).expect(0).text(), "Hello from a unikernel, world!\n");
}

#[test]
fn what_is_no_elf_file() {
    for bytes in [&b""[..], b"#", b"#!/bin/sh\nexit 0\n", b"\x7fEL", b"\0\0\0\0\0\0\0\0"] {
        Elf(bytes.to_vec()).refused(&["not an ELF file", "give a guest program"]);
    }
}

#[test]
fn programs_for_other_processors() {
    let patched = |at: usize, bytes: &[u8]| {
        let mut elf = Elf::hello();
        elf.put(at, bytes);
        elf
    };
    patched(4, &[1]).refused(&["not a 64-bit program", "build for x86_64-unknown-linux-gnu"]);
    patched(5, &[2]).refused(&["not little-endian", "build for"]);
    patched(18, &183u16.to_le_bytes()).refused(&["64-bit ARM", "183", "build for"]);
    patched(18, &243u16.to_le_bytes()).refused(&["RISC-V", "build for"]);
    patched(16, &2u16.to_le_bytes()).refused(&["fixed address", "link with -static-pie"]);
    patched(16, &1u16.to_le_bytes()).refused(&["object file", "link with -static-pie"]);
}

#[test]
fn programs_of_this_host() {
    refused(&mut hv_run(Path::new("/proc/self/exe"), &[]), &["dynamically linked", "-static-pie"]);
}

#[test]
fn images_that_end_early() {
    let whole = Elf::hello();
    let end = whole.end();
    let mut cuts = vec![5, 6, 16, 20, 63, 64, 65, 64 + 55, 64 + 56, 64 + 3 * 56 + 7];
    cuts.extend([whole.note(), whole.note() + 20, whole.relocation(), whole.relocation() + 25]);
    cuts.extend((1..16).map(|n| n * end / 16));
    cuts.push(end - 1);
    for cut in cuts {
        let (_file, mut command) = Elf(whole.0[..cut].to_vec()).run(&[]);
        refused(&mut command, &["cannot load", "truncated", "copy it again"]);
    }
    if can_run_guests() {
        // Sections and symbols are only for crash reports.
        for cut in [end, (end + whole.0.len()) / 2, whole.0.len() - 1] {
            let (_file, mut command) = Elf(whole.0[..cut].to_vec()).run(&[]);
            finished(&mut command).expect(0);
        }
    }
}

#[test]
fn notes() {
    let note = Elf::hello().note();
    let patched = |at: usize, bytes: &[u8]| {
        let mut elf = Elf::hello();
        elf.put(note + at, bytes);
        elf
    };
    patched(12, b"xx").refused(&["not a guest of hv", "no hv note", "hv-guest"]);
    patched(8, &[7]).refused(&["not a guest of hv", "hv-guest"]);
    patched(4, &200u32.to_le_bytes()).refused(&["note segment", "malformed", "build the guest again"]);
    patched(16, &9u16.to_le_bytes()).refused(&["version 9.0", "this host has 1.0", "update hv"]);
    patched(18, &7u16.to_le_bytes()).refused(&["version 1.7", "this host has 1.0", "update hv"]);
    patched(16, &0u16.to_le_bytes()).refused(&["version 0.0", "build the guest with a newer hv-guest"]);
}

#[test]
fn segments() {
    let whole = Elf::hello();
    let (code, data) = (whole.segment(PF_X), whole.segment(PF_W));
    let patched = |at: usize, bytes: &[u8]| {
        let mut elf = Elf::hello();
        elf.put(at, bytes);
        elf
    };
    patched(data + 4, &[7]).refused(&["writable and executable", "keep code and data apart"]);
    patched(code + 4, &[7]).refused(&["writable and executable"]);

    // Data at the address of the code, with the same offset in its page.
    let page = whole.u64(code + 16) & !0xfff;
    let overlapping = page | whole.u64(data + 16) & 0xfff;
    patched(data + 16, &overlapping.to_le_bytes()).refused(&["begins before", "default linker script"]);

    patched(data + 40, &(1u64 << 40).to_le_bytes())
        .refused(&["ends behind the limit", "make statics smaller"]);
    let far = (1u64 << 46) | whole.u64(data + 16) & 0xfff;
    let last = *whole.headers(PT_LOAD).last().unwrap();
    patched(last + 16, &far.to_le_bytes()).refused(&["ends behind the limit"]);
    patched(last + 40, &1u64.to_le_bytes()).refused(&["in the file but 0x1 in memory", "damaged"]);
    patched(last + 48, &3u64.to_le_bytes()).refused(&["alignment of 0x3", "power of two"]);
    patched(last + 16, &(whole.u64(last + 16) + 1).to_le_bytes()).refused(&["modulo its alignment"]);
    let behind = (1u64 << 40) | whole.u64(code + 8) & 0xfff;
    patched(code + 8, &behind.to_le_bytes()).refused(&["file is truncated", "copy it again"]);
}

#[test]
fn entry_points() {
    let whole = Elf::hello();
    for entry in [0, whole.u64(whole.segment(PF_W) + 16), 1 << 40, u64::MAX] {
        let mut elf = Elf::hello();
        elf.put(24, &entry.to_le_bytes());
        elf.refused(&["entry point", &format!("{entry:#x}"), "in no executable segment", "-e"]);
    }
}

#[test]
fn relocations() {
    let whole = Elf::hello();
    let first = whole.relocation();
    let patched = |at: usize, value: u64| {
        let mut elf = Elf::hello();
        elf.put(first + at, &value.to_le_bytes());
        elf
    };
    // R_X86_64_64 and R_X86_64_GLOB_DAT, of symbol 1, and one that nobody knows.
    patched(8, 1 << 32 | 1).refused(&["R_X86_64_RELATIVE"]);
    patched(8, 1 << 32 | 6).refused(&["R_X86_64_RELATIVE"]);
    patched(8, 250).refused(&["kind 250", "R_X86_64_RELATIVE"]);
    for outside in [1 << 40, u64::MAX - 7] {
        patched(0, outside).refused(&["outside every segment", "build it again"]);
    }
    patched(0, whole.u64(first) + 1).refused(&["not aligned to 8 bytes"]);
    patched(0, (whole.u64(whole.segment(PF_X) + 16) + 7) & !7).refused(&["read-only segment", "-z text"]);
    patched(16, 1 << 40).refused(&["points to", "outside the image"]);
}

#[test]
fn images_that_are_no_files() {
    let folder = TempDir::new().unwrap();
    refused(
        &mut hv_run(folder.path(), &[]),
        &[text(folder.path()), "a directory", "name the guest's ELF file"],
    );
    refused(&mut hv_run(Path::new("/dev/null"), &[]), &["/dev/null", "device", "ELF file"]);
    let pipe = folder.path().join("pipe");
    if has_tools(&["mkfifo"]) {
        hv_tests::tool(Command::new("mkfifo").arg(&pipe));
        refused(&mut hv_run(&pipe, &[]), &["pipe", "ELF file"]);
    }
    let huge = folder.path().join("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    refused(&mut hv_run(&huge, &[]), &[text(&huge), "larger than 256 MiB"]);
}

#[test]
fn images_that_are_not_there() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing");
    refused(&mut hv_run(&missing, &[]), &[text(&missing), "no such file", "guest-examples/"]);
    refused(&mut hv_run(Path::new("./missing.elf"), &[]), &["./missing.elf", "no such file"]);
    // A bare name is a guest's; those that there are help with a misspelt one.
    let parts = ["helo", "no such guest", "guest-examples/", "hello", "web"];
    refused(hv_run(Path::new("helo"), &[]).current_dir(env!("CARGO_MANIFEST_DIR")), &parts);
    refused(&mut hv_run(Path::new(""), &[]), &[]);
}

#[test]
fn images_that_may_not_be_read() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::copy(guest("hello"), secret.path()).unwrap();
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o000)).unwrap();
    if let Some(mut command) = hv_as_ordinary_user(&["run", text(secret.path())]) {
        refused(&mut command, &["cannot read the image", text(secret.path()), "Permission denied"]);
    }
}

#[test]
fn too_little_memory() {
    if !can_run_guests() {
        return;
    }
    let end = refused(&mut hello(&["--memory", "64K"]), &["64 KiB", "too little", "(--memory "]);
    // What it says is enough is enough.
    let (_, needed) = end.err.split_once("(--memory ").unwrap();
    let needed = needed.split(')').next().unwrap();
    finished(&mut hello(&["--memory", needed])).expect(0);

    // A segment larger than the memory, but not than any.
    let mut elf = Elf::hello();
    let last = *elf.headers(PT_LOAD).last().unwrap();
    elf.put(last + 40, &(64u64 << 20).to_le_bytes());
    refused(&mut elf.run(&[]).1, &["16384 KiB", "too little", "(--memory "]);
    let (_file, mut command) = elf.run(&["--memory", "80M"]);
    finished(&mut command).expect(0);
}

#[test]
fn too_many_arguments() {
    if !can_run_guests() {
        return;
    }
    let long = "x".repeat(70_000);
    refused(&mut hello(&["--", &long, &long]), &["arguments", "140"]);
    let variable = format!("A={long}");
    refused(&mut hello(&["--env", &variable, "--env", &variable]), &["environment variables"]);
}

// ---------------------------------------------------------------- disks

/// A file of so many bytes.
fn file(folder: &TempDir, name: &str, len: u64) -> String {
    let path = folder.path().join(name);
    fs::File::create(&path).unwrap().set_len(len).unwrap();
    text(&path).to_owned()
}

#[test]
fn disks_that_are_none() {
    let folder = TempDir::new().unwrap();
    let missing = format!("{}/missing.img", text(folder.path()));
    refused(&mut hello(&["--disk", &missing]), &["missing.img", "no such file", "truncate -s"]);
    let empty = file(&folder, "empty.img", 0);
    refused(&mut hello(&["--disk", &empty]), &[&empty, "is empty", "truncate -s"]);
    let odd = file(&folder, "odd.img", 1000);
    refused(&mut hello(&["--disk", &odd]), &[&odd, "1000 bytes", "sectors of 512", "truncate -s %512"]);
    let small = file(&folder, "small.img", 3 * 512);
    let large_sectors = format!("{small},sector=4096");
    refused(&mut hello(&["--disk", &large_sectors]), &["1536 bytes", "sectors of 4096", "truncate -s %4096"]);
    refused(&mut hello(&["--disk", "/dev/null"]), &["/dev/null", "neither a file, nor a block device"]);
    let within = format!("{small}/x.img");
    refused(&mut hello(&["--disk", &within]), &["x.img", "no such file"]);
}

#[test]
fn disk_options() {
    let folder = TempDir::new().unwrap();
    let disk = file(&folder, "disk.img", 1 << 20);
    for option in ["rw", "readonly", "sectors=512"] {
        let value = format!("{disk},{option}");
        refused(&mut hello(&["--disk", &value]), &[&value, "no such file", "options are", "ro", "direct"]);
    }
    let guest = guest("hello");
    let refuse = |value: String, part: &str| misused(&[text(&guest), "--disk", &value], &["--disk", part]);
    refuse(format!("{disk},sector=1024"), "512 or 4096");
    refuse(format!("{disk},ro,ro"), "given twice");
    refuse(",ro".into(), "no file name");
    refuse(String::new(), "");
}

#[test]
fn folders_that_do_not_fit_a_disk() {
    let folder = TempDir::new().unwrap();
    let path = text(folder.path());
    file(&folder, "huge", (2 << 30) + 1);
    refused(&mut hello(&["--disk", path]), &[path, "holds more than 2048 MiB", "make a disk image"]);
    fs::remove_file(folder.path().join("huge")).unwrap();
    file(&folder, "larger", 4 << 30);
    refused(&mut hello(&["--disk", path]), &[path, "larger", "4 GiB"]);
    fs::remove_file(folder.path().join("larger")).unwrap();

    refused(&mut hello(&["--disk", &format!("{path},direct")]), &[path, "leave out", "direct"]);
    file(&folder, "Name", 1);
    file(&folder, "nAME", 1);
    refused(&mut hello(&["--disk", path]), &["Name", "nAME", "differ only in case", "rename"]);
    fs::remove_file(folder.path().join("nAME")).unwrap();
    file(&folder, "colon:", 1);
    refused(&mut hello(&["--disk", path]), &["colon:", "cannot hold the name", "rename"]);
    fs::remove_file(folder.path().join("colon:")).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    refused(&mut hello(&["--disk", path]), &["link", "outside the folder", "copy"]);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(".", &link).unwrap();
    refused(&mut hello(&["--disk", path]), &["link", "leads back", "remove"]);
}

#[test]
fn disks_that_may_not_be_used() {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let disk = file(&folder, "disk.img", 1 << 20);
    let guest = guest("hello");
    let run = |disk: &str| hv_as_ordinary_user(&["run", text(&guest), "--disk", disk]);
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o000)).unwrap();
    if let Some(mut command) = run(&disk) {
        refused(&mut command, &[&disk, "cannot open it for reading", "check its permissions"]);
    }
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o444)).unwrap();
    if let Some(mut command) = run(&disk) {
        refused(&mut command, &[&disk, "not writable", "append \",ro\""]);
    }
    let private = folder.path().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o000)).unwrap();
    if let Some(mut command) = run(text(folder.path())) {
        refused(&mut command, &["private", "cannot read", "Permission denied"]);
    }
    fs::set_permissions(&private, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn one_writable_disk_for_two() {
    let folder = TempDir::new().unwrap();
    let disk = file(&folder, "disk.img", 1 << 20);
    let read_only = format!("{disk},ro");
    let in_use = [disk.as_str(), "in use by another guest", "\",ro\""];
    for [first, second] in [[&disk, &disk], [&disk, &read_only], [&read_only, &disk]] {
        refused(&mut hello(&["--disk", first, "--disk", second]), &in_use);
    }
    if can_run_guests() {
        finished(&mut hello(&["--disk", &read_only, "--disk", &read_only])).expect(0);
        // Two processes.
        let mut holder = hv_run(&guest("echo"), &["--disk", &disk]);
        let mut holder = Running::new(holder.stdin(Stdio::piped()));
        let mut input = holder.child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"x").unwrap();
        std::io::Read::read_exact(holder.child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        refused(&mut hello(&["--disk", &disk]), &in_use);
        drop(input);
        holder.finish().expect(0);
        finished(&mut hello(&["--disk", &disk])).expect(0);
    }
}

/// A command in a mount namespace of its own, after what `prepare` does there
/// (a shell script, `$1` is `argument`). Says why that cannot be.
fn with_mounts(prepare: &str, argument: &str, command: &Command) -> Option<Command> {
    if !has_tools(&["unshare", "mount"]) {
        return None;
    }
    let shell = |script: &str| {
        let mut shell = Command::new("unshare");
        shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", argument]);
        shell.stdin(Stdio::null());
        shell
    };
    let tried = finished(&mut shell(prepare));
    if tried.code() != Some(0) {
        println!("skipped: needs the right to mount: {}", tried.err.trim());
        return None;
    }
    let mut shell = shell(&format!("{prepare} && shift && exec \"$@\""));
    shell.arg(command.get_program()).args(command.get_args());
    Some(shell)
}

#[test]
fn read_only_media() {
    let folder = TempDir::new().unwrap();
    let disk = file(&folder, "disk.img", 1 << 20);
    let prepare = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";
    let command = hello(&["--disk", &disk]);
    if let Some(mut command) = with_mounts(prepare, text(folder.path()), &command) {
        refused(&mut command, &[&disk, "not writable", "Read-only file system", "append \",ro\""]);
    }
}

// ---------------------------------------------------------------- networks

#[test]
fn ports_in_use() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let publish = format!("{port}:80");
    let parts = [format!("{port}"), "127.0.0.1".into(), "in use".into(), "choose another host port".into()];
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    refused(&mut hello(&["--publish", &publish]), &parts);
    refused(&mut hello(&["--publish", &format!("127.0.0.1:{port}:80/tcp")]), &parts);

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    refused(&mut hello(&["--publish", &format!("{port}:7/udp")]), &[&format!("{port}:7/udp"), "in use"]);

    let twice = format!("{}:80", free_port());
    refused(&mut hello(&["--publish", &twice, "--publish", &twice]), &["in use"]);
    refused(&mut hello(&["--publish", "192.0.2.1:0:80"]), &["192.0.2.1", "no address", "use 127.0.0.1"]);
}

#[test]
fn privileged_ports() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim().parse::<u16>().is_ok_and(|first| first <= 1) {
        println!("skipped: needs a host where ports below 1024 are privileged");
        return;
    }
    let guest = guest("hello");
    if let Some(mut command) = hv_as_ordinary_user(&["run", text(&guest), "--publish", "1:80"]) {
        refused(&mut command, &["port 1 ", "needs a right", "from 1024 on"]);
    }
}

#[test]
fn ports_that_are_none() {
    let guest = guest("hello");
    for (value, part) in [
        ("8080", "expected [HOST_IP:]HOST:GUEST[/udp]"),
        ("", "expected [HOST_IP:]HOST:GUEST[/udp]"),
        ("x:80", "host port \"x\""),
        ("8080:", "guest port \"\""),
        ("8080:0", "from 1 to 65535"),
        ("65536:80", "65536"),
        ("1:2/sctp", "use /tcp or /udp"),
        ("localhost:8080:80", "not an IP address"),
        ("::1:8080:80", "write IPv6 in brackets"),
    ] {
        misused(&[text(&guest), "--publish", value], &["--publish", part]);
    }
}

#[test]
fn tap_devices_that_are_none() {
    let missing = refused(&mut hello(&["--net", "tap=hvnone0"]), &["tap=hvnone0", "no such device"]);
    assert!(missing.err.contains("ip tuntap add dev hvnone0 mode tap"), "{}", missing.err);
    refused(&mut hello(&["--net", "tap=lo"]), &["tap=lo", "not a tap device", "ip tuntap add"]);
    for name in ["../../etc", "a name", "sixteen-letters-", "a/b"] {
        refused(&mut hello(&["--net", &format!("tap={name}")]), &[name, "1 to 15 characters"]);
    }
    let published = ["--net", "tap=hvnone0", "--publish", "8080:80"];
    refused(&mut hello(&published), &["--publish", "--net user", "tap"]);
}

#[test]
fn captures_that_cannot_be() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("out.pcap");
    refused(&mut hello(&["--pcap", text(&file)]), &["--pcap", "no network", "add --net"]);
    assert!(!file.exists());
    let nowhere = folder.path().join("none/out.pcap");
    for bad in [&nowhere, folder.path()] {
        let options = ["--net", "user", "--pcap", text(bad)];
        refused(&mut hello(&options), &["capture file", text(bad), "a folder that you may write"]);
    }
}

// ---------------------------------------------------------------- the command line

#[test]
fn what_has_not_come_yet() {
    refused(&mut hello(&["--vcpus", "2"]), &["--vcpus 2", "one virtual CPU"]);
    refused(&mut hello(&["--vcpus", "0"]), &["--vcpus 0"]);
    refused(&mut hello(&["--platform", "process"]), &["--platform process", "kvm"]);
    refused(&mut hello(&["--net", "switch=a"]), &["--net switch=a", "this version", "user"]);
}

#[test]
fn misuse() {
    let guest = guest("hello");
    let refuse = |options: &[&str], parts: &[&str]| {
        misused(&[&[text(&guest)], options].concat(), &[&options[..1], parts].concat());
    };
    for size in ["0", "1000", "65G", "4097"] {
        refuse(&["--memory", size], &["multiple of 4096 bytes up to 64G"]);
    }
    refuse(&["--memory", "1X"], &["`X` is no unit", "K, M or G"]);
    for size in ["", "M", "99999999999999999999"] {
        refuse(&["--memory", size], &["a number such as"]);
    }
    for time in ["soon", "5x", "-1s", "", "1e999"] {
        misused(&[text(&guest), &format!("--timeout={time}")], &["--timeout", "500ms, 5s, 2m or 1h"]);
    }
    refuse(&["--env", "A"], &["KEY=VALUE"]);
    refuse(&["--env", "=A"], &["KEY=VALUE"]);
    refuse(&["--vcpus", "many"], &["invalid digit"]);
    refuse(&["--platform", "xen"], &["auto", "kvm", "process"]);
    refuse(&["--net", "bridge"], &["user", "tap=NAME"]);
    refuse(&["--net", "tap="], &["user", "tap=NAME"]);
    refuse(&["--format", "yaml"], &["text", "json"]);
    refuse(&["--memmory", "1M"], &["--memory"]);
    misused(&[], &["<IMAGE>", "Usage"]);
    let nothing = finished(&mut Command::new(hv())).expect(2);
    assert!(nothing.err.contains("Usage") && nothing.text().is_empty(), "{}", nothing.err);
}

// ---------------------------------------------------------------- hosts

#[test]
fn a_host_without_kvm() {
    let guest = guest("hello");
    let command = hv_run(&guest, &[]);
    if let Some(mut command) = with_mounts("mount -t tmpfs none /dev", "", &command) {
        refused(&mut command, &["/dev/kvm", "missing", "kvm_intel, kvm_amd or kvm_pvm"]);
    }
}

#[test]
fn a_user_without_the_right_to_kvm() {
    let kvm = fs::metadata("/dev/kvm").map(|kvm| kvm.permissions().mode() & 0o777);
    // SAFETY: no memory is passed.
    let root = unsafe { libc::geteuid() } == 0;
    if !root && can_run_guests() || kvm.map_or(true, |mode| mode & 0o6 != 0) {
        println!("skipped: needs a /dev/kvm that is not for everybody");
        return;
    }
    let guest = guest("hello");
    if let Some(mut command) = hv_as_ordinary_user(&["run", text(&guest)]) {
        refused(&mut command, &["/dev/kvm", "permission denied", "usermod -aG kvm"]);
    }
}
