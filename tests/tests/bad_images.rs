//! Images that are none: hv refuses them with exit code 2 and one line that
//! names what is wrong and what to do, and prints nothing else.

use hv_abi::ABI_VERSION;
use hv_tests::refusal::{finished, hello, hv_run, refused, text};
use hv_tests::{can_run_guests, guest, has_tools, hv, hv_as_ordinary_user};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

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
        let segments = self.headers(PT_NOTE).into_iter();
        let segments = segments.map(|at| (self.u64(at + 8) as usize, self.u64(at + 32) as usize));
        // With the note of the list of tasks beside it.
        let mut places = segments.flat_map(|(at, size)| (at..at + size).step_by(8));
        let is_note = |at: usize| self.0[at + 8..].starts_with(b"\x01\0\0\0hv\0\0");
        places.find(|&at| is_note(at)).expect("it is a guest")
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
    // The program of these tests.
    let program = std::env::current_exe().unwrap();
    refused(&mut hv_run(&program, &[]), &["dynamically linked", "-static-pie"]);
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
    let minor = ABI_VERSION.minor;
    let host = format!("this host has {ABI_VERSION}");
    let newer = format!("version 9.{minor}");
    patched(16, &9u16.to_le_bytes()).refused(&[&newer, &host, "update hv"]);
    patched(18, &700u16.to_le_bytes()).refused(&["version 1.700", &host, "update hv"]);
    let older = format!("version 0.{minor}");
    patched(16, &0u16.to_le_bytes()).refused(&[&older, "build the guest with a newer hv-guest"]);
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

/// Building runs what the sources bring along, so it is not for whatever folder has the right name.
#[test]
fn sources_of_strangers_are_not_built() {
    let folder = TempDir::new().unwrap();
    let sources = folder.path().join("guest-examples");
    fs::create_dir_all(sources.join("src/bin")).unwrap();
    fs::write(sources.join("Cargo.toml"), "[package]\nname = \"hv-guest-examples\"\n[workspace]\n").unwrap();
    fs::write(sources.join("src/bin/hello.rs"), "fn main() {}\n").unwrap();
    fs::write(sources.join("build.rs"), "fn main() { std::fs::write(\"built\", \"\").unwrap() }\n").unwrap();
    let program = folder.path().join("hv");
    // By another process: a program that is being written cannot be started, and children of other tests would keep the
    // descriptor for a moment.
    hv_tests::tool(Command::new("cp").arg(hv()).arg(&program));
    let mut elsewhere = Command::new(program);
    elsewhere.args(["run", "hello"]).current_dir(folder.path());
    refused(&mut elsewhere, &["hello", "no such file", "inside the checkout"]);
    let mut own = Command::new(hv());
    refused(own.args(["run", "helo"]).current_dir(folder.path()), &["no such guest", "echo", "web"]);
    assert!(!sources.join("built").exists() && !sources.join("target").exists());
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
