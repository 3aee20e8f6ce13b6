//! Bad input other than images (see `bad_images.rs`): hv refuses it with exit
//! code 2 and one line that names what is wrong and what to do, and prints
//! nothing else.

use hv_tests::refusal::{finished, hello, hv_run, misused, refused, text};
use hv_tests::{Platform, Running, can_run_guests, free_port, guest, has_tools, hv, hv_as_ordinary_user};
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use tempfile::TempDir;

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
fn containers_of_virtual_disks_are_no_raw_disks() {
    let folder = TempDir::new().unwrap();
    let fixed_vhd = [vec![0; 512], b"conectix".to_vec(), vec![0; 504]].concat();
    let mut containers = vec![("VHD", fixed_vhd)];
    for (name, magic) in [("qcow2", &b"QFI\xfb\0\0\0\x03"[..]), ("VMDK", b"KDMV"), ("VHDX", b"vhdxfile")] {
        let mut bytes = magic.to_vec();
        bytes.resize(4096, 0);
        containers.push((name, bytes));
    }
    for (name, bytes) in containers {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let disk = text(&path);
        for options in ["", ",ro", ",overlay", ",direct"] {
            let remedy = match name {
                "qcow2" => ["those of a ", name, " image", "or a guest has written them", "format=raw"],
                _ => ["a ", name, " image", "qemu-img convert -O qcow2", "format=raw"],
            };
            refused(&mut hello(&["--disk", &format!("{disk}{options}")]), &[&[disk], &remedy[..]].concat());
        }
        if can_run_guests() {
            finished(&mut hello(&["--disk", &format!("{disk},format=raw")])).expect(0);
        }
        assert!(fs::read(&path).unwrap() == bytes, "{name} was changed");
    }
    if has_tools(&["qemu-img"]) {
        for format in ["qcow2", "qcow", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"] {
            let path = folder.path().join("real");
            let made =
                Command::new("qemu-img").args(["create", "-q", "-f", format]).arg(&path).arg("8M").output();
            if made.unwrap().status.success() {
                refused(&mut hello(&["--disk", text(&path)]), &[" image", "format=raw"]);
            }
        }
    }
}

#[test]
fn disk_options() {
    let folder = TempDir::new().unwrap();
    let disk = file(&folder, "disk.img", 1 << 20);
    for option in ["rw", "readonly", "sectors=512", "formats=raw"] {
        let value = format!("{disk},{option}");
        refused(&mut hello(&["--disk", &value]), &[&value, "no such file", "options are", "ro", "direct"]);
    }
    let guest = guest("hello");
    let refuse = |value: String, part: &str| misused(&[text(&guest), "--disk", &value], &["--disk", part]);
    refuse(format!("{disk},sector=1024"), "512 or 4096");
    refuse(format!("{disk},ro,ro"), "given twice");
    refuse(format!("{disk},format=vmdk"), "qemu-img convert -O qcow2");
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
    if Platform::Process.choose().is_ok()
        && let Some(mut command) = run(text(folder.path()))
    {
        let said = finished(command.args(["--platform", "process"])).expect(0).err;
        assert!(
            said.contains("1 entry is left out: ") && said.contains("private (Permission denied"),
            "{said}"
        );
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o000)).unwrap();
    if let Some(mut command) = run(text(folder.path())) {
        refused(&mut command, &[text(folder.path()), "cannot read", "Permission denied"]);
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
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
        hv_tests::skip(format_args!("needs the right to mount: {}", tried.err.trim()));
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
        hv_tests::skip("needs a host where ports below 1024 are privileged");
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
    for size in ["0", "12K", "20000", "65G"] {
        refuse(&["--stack", size], &["--stack", "multiple of 4096 bytes from 16K to 64G"]);
    }
    refuse(&["--stack", "1X"], &["`X` is no unit", "K, M or G"]);
    for size in ["", "M", "99999999999999999999"] {
        refuse(&["--memory", size], &["a number such as"]);
    }
    for time in ["soon", "5x", "-1s", "", "1e999"] {
        misused(&[text(&guest), &format!("--timeout={time}")], &["--timeout", "500ms, 5s, 2m or 1h"]);
    }
    refuse(&["--env", "A"], &["KEY=VALUE"]);
    refuse(&["--env", "=A"], &["KEY=VALUE"]);
    for vcpus in ["many", "0", "65", "99999999999999999999", ""] {
        refuse(&["--vcpus", vcpus], &["use 1 to 64"]);
    }
    refuse(&["--platform", "xen"], &["auto", "kvm", "process"]);
    refuse(&["--net", "bridge"], &["user", "host=allow", "tap=NAME", "IMAGE"]);
    refuse(&["--net", "user,host=maybe"], &["user,host=maybe", "host=allow"]);
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
    let command = hv_run(&guest, &["--platform", "kvm"]);
    if let Some(mut command) = with_mounts("mount -t tmpfs none /dev", "", &command) {
        refused(&mut command, &["/dev/kvm", "missing", "kvm_intel, kvm_amd or kvm_pvm"]);
    }
}

#[test]
fn a_host_without_kvm_has_processes() {
    let guest = guest("hello");
    let command = hv_run(&guest, &["--platform", "auto"]);
    if let Some(mut command) = with_mounts("mount -t tmpfs none /dev", "", &command) {
        let end = finished(&mut command).expect(0);
        assert!(end.text().contains("Hello"), "{}", end.text());
        assert_eq!(end.err.lines().count(), 1, "{}", end.err);
        for part in ["processes, without KVM", "/dev/kvm", "missing", "kvm_pvm"] {
            assert!(end.err.contains(part), "{part:?} in: {}", end.err);
        }
    }
}

#[test]
fn a_user_without_the_right_to_kvm() {
    let kvm = fs::metadata("/dev/kvm").map(|kvm| kvm.permissions().mode() & 0o777);
    // SAFETY: no memory is passed.
    let root = unsafe { libc::geteuid() } == 0;
    if !root && Platform::Kvm.choose().is_ok() || kvm.as_ref().map_or(true, |mode| mode & 0o6 != 0) {
        hv_tests::skip("needs a /dev/kvm that is not for everybody");
        return;
    }
    let guest = guest("hello");
    if let Some(mut command) = hv_as_ordinary_user(&["run", text(&guest), "--platform", "kvm"]) {
        // A group helps only where one may open it.
        let remedy = if kvm.is_ok_and(|mode| mode & 0o60 == 0o60) { "$USER" } else { "setfacl" };
        refused(&mut command, &["/dev/kvm", "permission denied", remedy]);
    }
}
