//! What peers run, made in a folder of its own: a static program, a bundle of it, and a kernel.

use super::{ID, Left, Peer, Place, program, version};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Printed by all.
const HELLO: &[u8; 6] = b"hello\n";

pub(super) struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub(super) fn new() -> io::Result<Files> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("bundle/rootfs");
        fs::create_dir_all(root.join("proc"))?;
        let hello = root.join("hello");
        fs::write(&hello, linux_program())?;
        fs::set_permissions(&hello, fs::Permissions::from_mode(0o755))?;
        fs::write(folder.path().join("bundle/config.json"), bundle().to_string())?;
        fs::write(folder.path().join("kernel"), kernel())?;
        Ok(Files { folder })
    }

    fn path(&self, name: &str) -> OsString {
        self.folder.path().join(name).into()
    }

    /// Every peer: as it is run, or why it is not.
    pub(super) fn peers(&self, hv: &Path, hello: &Path, places: &[Place]) -> Vec<Result<Peer, Left>> {
        let of_hv = |name, platform: &str, note| {
            let command = vec![hv.into(), "run".into(), "--platform".into(), platform.into(), hello.into()];
            Ok(Peer { name, version: version(hv), command, note })
        };
        let other = |name: &'static str, file: &str, package: &str, arguments: &[&OsStr], note| {
            let Some(program) = program(name, file, places) else {
                let reason = format!(
                    "there is no program {file}: install {package}, or name it by --peer {name}=FILE"
                );
                return Err(Left { name: name.into(), reason });
            };
            let version = version(&program);
            let words = arguments.iter().map(|word| (*word).to_owned());
            let command = std::iter::once(program.into()).chain(words).collect();
            Ok(Peer { name, version, command, note })
        };
        let (state, bundle) = (self.path("state"), self.path("bundle"));
        let run = ["--root".as_ref(), &*state, "run".as_ref(), "--bundle".as_ref(), &*bundle, ID.as_ref()];
        let without_network: Vec<_> = std::iter::once("--network=none".as_ref()).chain(run).collect();
        let kernel = self.path("kernel");
        let qemu = [
            "-M",
            "microvm,accel=kvm,pit=off,pic=off,rtc=off",
            "-cpu",
            "host",
            "-m",
            "16",
            "-no-reboot",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-kernel",
        ];
        let qemu: Vec<_> = qemu.iter().map(AsRef::as_ref).chain([&*kernel]).collect();
        let program = vec![self.path("bundle/rootfs/hello")];
        vec![
            of_hv(
                "hv",
                "kvm",
                "a virtual machine and its monitor, in a jail; the guest is a program of the SDK",
            ),
            of_hv("hv-process", "process", "a process in namespaces of its own, without KVM; the same guest"),
            Ok(Peer {
                name: "program",
                version: String::new(),
                command: program,
                note: "a static program of the host: no wall at all",
            }),
            other(
                "crun",
                "crun",
                "crun",
                &run,
                "a container of the static program: namespaces, a cgroup, no filter of system calls",
            ),
            other("runc", "runc", "runc", &run, "the same container"),
            other(
                "runsc",
                "runsc",
                "gVisor",
                &without_network,
                "the same container, on a kernel in user space",
            ),
            other(
                "qemu-microvm",
                "qemu-system-x86_64",
                "qemu-system-x86",
                &qemu,
                "a kernel of some instructions that writes to a serial port; no jail",
            ),
        ]
    }
}

/// An executable of one segment, which is loaded at this address.
fn elf(address: u64, entry: u64, notes: Option<(u64, u64)>, body: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const SEGMENT: u64 = 56;
    let segments = 1 + u64::from(notes.is_some());
    let start = HEADER + segments * SEGMENT;
    let mut bytes = Vec::new();
    bytes.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // An executable for x86-64.
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(62u16.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    for word in [address + start + entry, HEADER, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for half in [HEADER as u16, SEGMENT as u16, segments as u16, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    let mut segment = |kind: u32, flags: u32, offset: u64, size: u64, alignment: u64| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [offset, address + offset, address + offset, size, size, alignment] {
            bytes.extend(word.to_le_bytes());
        }
    };
    // To be loaded: all of the file, to be read, written and executed.
    segment(1, 7, 0, start + body.len() as u64, 4096);
    if let Some((offset, size)) = notes {
        segment(4, 4, start + offset, size, 4);
    }
    bytes.extend(body);
    bytes
}

/// A program for Linux that writes a line and ends.
fn linux_program() -> Vec<u8> {
    let mut code = vec![
        0xb8,
        1,
        0,
        0,
        0, // mov eax, 1 (write)
        0xbf,
        1,
        0,
        0,
        0, // mov edi, 1
        0x48,
        0x8d,
        0x35,
        16,
        0,
        0,
        0, // lea rsi, [rip + 16]
        0xba,
        HELLO.len() as u8,
        0,
        0,
        0, // mov edx, 6
        0x0f,
        0x05, // syscall
        0xb8,
        60,
        0,
        0,
        0, // mov eax, 60 (exit)
        0x31,
        0xff, // xor edi, edi
        0x0f,
        0x05, // syscall
    ];
    code.extend(HELLO);
    elf(0x40_0000, 0, None, &code)
}

/// A kernel that a monitor starts in protected mode (PVH: an ELF note says where), writes a line to the first serial port, and
/// switches QEMU's `microvm` off by its register for that. Every instruction is one that software KVM emulates.
fn kernel() -> Vec<u8> {
    const ADDRESS: u64 = 0x10_0000;
    const CODE: u64 = 64 + 2 * 56 + NOTE.len() as u64 + 8;
    const NOTE: [u8; 16] = [4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0];
    let text = ADDRESS + CODE + 26;
    let mut body = NOTE.to_vec();
    body.extend((ADDRESS + CODE).to_le_bytes());
    body.extend([0xba, 0xf8, 0x03, 0, 0]); // mov edx, 0x3f8
    body.push(0xbe); // mov esi, text
    body.extend((text as u32).to_le_bytes());
    body.extend([0xb9, HELLO.len() as u8, 0, 0, 0]); // mov ecx, 6
    body.extend([0xf3, 0x6e]); // rep outsb
    body.extend([0xc6, 0x05, 0x00, 0x02, 0xa0, 0xfe, 0x34]); // mov byte [0xfea00200], 0x34: ACPI's S5
    body.extend([0xeb, 0xfe]); // jmp $
    body.extend(HELLO);
    elf(ADDRESS, NOTE.len() as u64 + 8, Some((0, NOTE.len() as u64 + 8)), &body)
}

/// The configuration of a container of the program (OCI runtime specification 1.0).
fn bundle() -> serde_json::Value {
    let namespaces =
        ["pid", "mount", "ipc", "uts", "network"].map(|kind| serde_json::json!({ "type": kind }));
    serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/hello"], "env": ["PATH=/"],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "hello",
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": namespaces }
    })
}
