//! Folders of the host in guests: what they see, what is refused, and what no guest can do.

mod hostile;
mod watch;

use hv_tests::host::{Lack, without};
use hv_tests::snapshot::{restored, save};
use hv_tests::{Finished, Platform, Running, Service, guest_test, has_tools, tool};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A folder with files, links in and out, and a FIFO.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(TempDir::new().unwrap());
        fs::write(folder.path("file"), "file").unwrap();
        fs::create_dir(folder.path("folder")).unwrap();
        fs::write(folder.path("folder/inner"), "inner text").unwrap();
        symlink("folder/inner", folder.path("inside")).unwrap();
        symlink("/etc", folder.path("absolute")).unwrap();
        symlink("../..", folder.path("up")).unwrap();
        symlink("/proc/self/root", folder.path("magic")).unwrap();
        tool(Command::new("mkfifo").arg(folder.path("fifo")));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn option(&self) -> String {
        format!("{}=t,ro", self.0.path().to_str().unwrap())
    }

    fn writable(&self) -> String {
        format!("{}=t", self.0.path().to_str().unwrap())
    }

    /// Runs the guest with these commands; it may write.
    #[track_caller]
    fn works(&self, platform: Platform, commands: &[&str]) {
        platform.ran("share", &["--share", &self.writable()], commands).expect(0);
    }

    /// Runs the guest with these commands.
    fn run(&self, platform: Platform, commands: &[&str]) -> Finished {
        platform.ran("share", &["--share", &self.option()], commands)
    }

    /// What they print.
    #[track_caller]
    fn printed(&self, platform: Platform, commands: &[&str]) -> String {
        let text = self.run(platform, commands).expect(0).text();
        text.strip_suffix("survived\n").unwrap_or_else(|| panic!("{text}")).to_owned()
    }
}

/// All names below a folder, with their modes and times.
fn tree(folder: &Path) -> Vec<(PathBuf, u32, i64, i64)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            if stat.is_dir() {
                folders.push(path.clone());
            }
            found.push((path, stat.mode(), stat.mtime(), stat.mtime_nsec()));
        }
    }
    found.sort();
    found
}

/// The guest breaks the contract, and nothing comes of it.
#[track_caller]
fn survives(platform: Platform, commands: &[&str]) {
    let folder = Folder::new();
    let before = tree(folder.0.path());
    folder.printed(platform, commands);
    assert_eq!(tree(folder.0.path()), before, "nothing has changed");
}

#[guest_test]
fn a_guest_lists_and_reads_a_folder_of_the_host(platform: Platform) {
    let folder = Folder::new();
    let listed = folder.printed(platform, &["list:/", "list:folder"]);
    let size = fs::metadata(folder.path("folder")).unwrap().len();
    assert_eq!(listed, format!("file false 4\nfolder true {size}\ninside false 10\ninner false 10\n"));
    let read = folder
        .printed(platform, &["cat:file", "cat:/folder/inner", "cat:inside", "cat:nothing", "cat:folder"]);
    assert_eq!(read, "file\ninner text\ninner text\nno such file or folder\nis a folder\n");
}

#[guest_test]
fn large_files_are_read_whole(platform: Platform) {
    let folder = Folder::new();
    let bytes: Vec<u8> = (0..(5 << 20) + 123_u32).map(|index| (index ^ index >> 9) as u8).collect();
    fs::write(folder.path("large"), &bytes).unwrap();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let options = ["--share", &folder.option(), "--memory", "32M"];
    let out = platform.ran("share", &options, &["bytes:large"]).expect(0);
    assert_eq!(out.text(), format!("{} {hash:016x}\nsurvived\n", bytes.len()));
}

#[guest_test]
fn many_requests_are_under_way_at_a_time(platform: Platform) {
    let folder = Folder::new();
    let sum: u32 = b"file".iter().map(|&byte| u32::from(byte)).sum();
    assert_eq!(folder.printed(platform, &["together:file"]), format!("{}\n", sum * 300));
}

#[guest_test]
fn attributes_are_the_hosts(platform: Platform) {
    let folder = Folder::new();
    fs::set_permissions(folder.path("file"), fs::Permissions::from_mode(0o640)).unwrap();
    let expected = |name: &str| {
        let stat = fs::symlink_metadata(folder.path(name)).unwrap();
        let time = format!("{}.{:09}", stat.mtime(), stat.mtime_nsec());
        format!("{:o} {} {} {} {time}\n", stat.mode(), stat.size(), stat.uid(), stat.nlink())
    };
    for name in ["file", "folder", "inside", "fifo", "absolute"] {
        assert_eq!(folder.printed(platform, &[&format!("stat:{name}")]), expected(name));
    }
    assert_eq!(folder.printed(platform, &["link:absolute", "link:file"]), "/etc\nInvalid\n");
    let other = format!("{},uid=4242", folder.option());
    let out = platform.ran("share", &["--share", &other], &["stat:file"]).expect(0);
    assert_eq!(out.text().split(' ').nth(2), Some("4242"));
}

#[guest_test]
fn what_changes_on_the_host_is_seen(platform: Platform) {
    let folder = Folder::new();
    let mut command = platform.run(
        "share",
        &["--share", &folder.option()],
        &["cat:file", "wait", "cat:file", "list:folder", "wait", "cat:file", "list:folder", "list:/"],
    );
    let mut hv = Running::new(command.stdin(Stdio::piped()));
    let mut input = hv.child.stdin.take().unwrap();
    let mut output = BufReader::new(hv.child.stdout.take().unwrap());
    let mut until = |end: &str| {
        let mut lines = Vec::new();
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 && line.trim_end() != end {
            lines.push(std::mem::take(&mut line));
        }
        lines.concat()
    };
    assert_eq!(until("waiting"), "file\n");
    fs::write(folder.path("new"), "a longer text").unwrap();
    fs::rename(folder.path("new"), folder.path("file")).unwrap();
    fs::write(folder.path("folder/more"), "").unwrap();
    input.write_all(b"\n").unwrap();
    assert_eq!(until("waiting"), "a longer text\ninner false 10\nmore false 0\n");
    fs::remove_dir_all(folder.0.path()).unwrap();
    input.write_all(b"\n").unwrap();
    let gone = "no such file or folder\n";
    assert_eq!(until("survived"), gone.repeat(2), "and the folder itself is empty");
    assert!(hv.wait().success());
    // What the test guard removes.
    fs::create_dir(folder.0.path()).unwrap();
}

/// The threads of a share start with the first request that may have to wait for a disk.
#[guest_test]
fn what_the_host_has_in_memory_needs_no_threads(platform: Platform) {
    let folder = Folder::new();
    let kind = tool(Command::new("stat").args(["-f", "-c", "%T"]).arg(folder.0.path())).text();
    if !["ext2/ext3", "xfs", "btrfs", "f2fs", "tmpfs"].contains(&kind.trim()) {
        hv_tests::skip(format!("needs a folder on a local file system, and this is {}", kind.trim()));
        return;
    }
    // What has just been made is in memory, and so is that a name is not there, once it was looked for.
    assert!(!folder.path("nothing").exists());
    let commands = ["stat:file", "stat:folder/inner", "stat:up", "wait", "cat:file", "wait"];
    let mut command = platform.run("share", &["--share", &folder.option()], &commands);
    let mut hv = Running::new(command.stdin(Stdio::piped()));
    let mut input = hv.child.stdin.take().unwrap();
    let mut output = BufReader::new(hv.child.stdout.take().unwrap()).lines();
    let mut threads = || {
        while output.next().expect("the guest runs").unwrap() != "waiting" {}
        let tasks = fs::read_dir(format!("/proc/{}/task", hv.child.id())).unwrap();
        let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        names.filter(|name| name.starts_with("share ")).count()
    };
    assert_eq!(threads(), 0, "for attributes");
    input.write_all(b"\n").unwrap();
    assert_eq!(threads(), 4, "for a file that is opened");
    input.write_all(b"\n").unwrap();
    assert!(hv.wait().success());
}

/// It was promised that nothing changes: then a guest need not ask again.
#[guest_test]
fn what_a_guest_has_found_in_an_unchanging_share_it_keeps(platform: Platform) {
    let folder = Folder::new();
    for (option, length, text, nothing) in
        [(",cache=always", 4, "file", "Err(NotFound)"), (",cache=auto", 7, "changed", "Ok(")]
    {
        let share = format!("{}{option}", folder.option());
        let mut command = platform.run("share", &["--share", &share], &["unchanging:file"]);
        let mut hv = Running::new(command.stdin(Stdio::piped()));
        let mut input = hv.child.stdin.take().unwrap();
        let mut output = BufReader::new(hv.child.stdout.take().unwrap());
        assert_eq!(lines_until(&mut output, "waiting"), ["4 file Err(NotFound) true"]);
        fs::write(folder.path("new"), "changed").unwrap();
        fs::rename(folder.path("new"), folder.path("file")).unwrap();
        fs::write(folder.path("nothing"), "something").unwrap();
        input.write_all(b"\n").unwrap();
        let lines = lines_until(&mut output, "waiting");
        assert!(lines[0].starts_with(&format!("{length} {text} {nothing}")), "{option}: {lines:?}");
        input.write_all(b"\n").unwrap();
        assert!(hv.wait().success());
        fs::write(folder.path("file"), "file").unwrap();
        fs::remove_file(folder.path("nothing")).unwrap();
    }
}

#[guest_test]
fn names_that_are_no_text_are_left_out_of_lists_and_harm_nothing(platform: Platform) {
    let folder = Folder::new();
    fs::write(folder.0.path().join(OsStr::from_bytes(b"\xff\x1b[31m\n")), "").unwrap();
    fs::write(folder.path("größe 猫"), "").unwrap();
    let listed = folder.printed(platform, &["list:/"]);
    assert!(listed.contains("größe 猫 false 0\n") && listed.lines().count() == 4, "{listed}");
}

#[guest_test]
fn several_shares_have_tags_of_their_own(platform: Platform) {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let option = |folder: &TempDir, tag: &str| format!("{}{tag},ro", folder.path().to_str().unwrap());
    let (a, b) = (option(&one, "=a"), option(&two, "=b-2"));
    let out = platform.ran("share", &["--share", &a, "--share", &b], &["tags"]).expect(0);
    assert_eq!(out.text(), "a true\nb-2 true\nsurvived\n");
    let refused = |options: &[&str], parts: &[&str]| {
        let end = platform.ran("share", options, &[]).expect(2);
        assert!(parts.iter().all(|part| end.err.contains(part)), "{}", end.err);
        assert!(end.text().is_empty(), "{}", end.text());
    };
    refused(&["--share", &a, "--share", &option(&two, "=a")], &["two shares are called a", "FOLDER=TAG"]);
    refused(&["--share", "/nowhere/at/all,ro"], &["/nowhere/at/all", "No such file"]);
    refused(&["--share", "/etc/passwd,ro"], &["not a folder", "--disk"]);
    refused(&["--share", &option(&one, "=a b")], &["tag"]);
    let writable = format!("{},cache=always", one.path().to_str().unwrap());
    refused(&["--share", &writable], &["cache=always", "add ,ro"]);
    refused(&["--share", &option(&one, ",cache=most")], &["auto or always", "most"]);
}

#[guest_test]
fn web_serves_a_share(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let folder = Folder::new();
    let web = Service::start(platform, "web", &["--share", &folder.option()], "80");
    let get = |path: &str| {
        let url = format!("http://127.0.0.1:{}{path}", web.port);
        tool(Command::new("curl").args(["-s", "--path-as-is", "-o", "-", "-w", " %{http_code}", &url])).text()
    };
    assert_eq!(get("/file"), "file 200");
    assert_eq!(get("/inside"), "inner text 200");
    fs::write(folder.path("file"), "changed").unwrap();
    assert_eq!(get("/file"), "changed 200");
    for path in ["/absolute/passwd", "/up/etc/passwd", "/magic/etc/passwd", "/fifo", "/nothing"] {
        assert!(get(path).ends_with(" 404"), "{path}: {}", get(path));
    }
    assert!(get("/../etc/passwd").ends_with(" 403"));
    web.end();
}

#[guest_test]
fn a_guest_that_was_saved_gets_its_share_again_and_no_old_handles(platform: Platform) {
    let folder = Folder::new();
    let saved = TempDir::new().unwrap();
    let saved = saved.path().join("saved");
    let option = folder.option();
    save(platform, "share", &saved, &["--share", &option], &["keep:file"]);
    fs::write(folder.path("file"), "new").unwrap();
    let saved = saved.to_str().unwrap();
    let out = restored(platform, Path::new(saved), &["--share", &option]).expect(0);
    assert_eq!(out.text(), "Err(BadHandle)\nnew\nsurvived\n");
    let refused = |options: &[&str], part: &str| {
        let end = restored(platform, Path::new(saved), options).expect(2);
        assert!(end.err.contains(part), "{}", end.err);
    };
    refused(&[], "saved with 1 shares, and gets 0");
    refused(&["--share", &option.replace("=t", "=other")], "had t,ro there, and gets other,ro");
}

// ---------------------------------------------------------------- writing

#[guest_test]
fn a_guest_works_on_a_folder_of_the_host(platform: Platform) {
    let folder = Folder::new();
    folder.works(platform, &["work"]);
    let text = fs::read(folder.path("renamed")).unwrap();
    assert_eq!(
        (text.len(), &text[..5], &text[1 << 20..]),
        ((1 << 20) + 13, &b"hello"[..], &b"far, appended"[..])
    );
    let stat = fs::metadata(folder.path("renamed")).unwrap();
    // The umask of the tests may take bits of what is made, not of what is set.
    assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.nlink()), (0o604, 77, 2));
    assert_eq!(fs::metadata(folder.path("file")).unwrap().ino(), stat.ino());
    assert_eq!(fs::read_to_string(folder.path("made/link")).unwrap(), "file");
    assert!(!folder.path("fifo").exists() && folder.path("folder/inner").exists());
}

#[guest_test]
fn a_read_only_share_stays_as_it_is(platform: Platform) {
    survives(platform, &["read-only"]);
}

/// What a program of the host says that looks after the guest: the standard output of Python.
fn python(code: &str) -> String {
    tool(Command::new("/usr/bin/python3").args(["-c", code])).text()
}

#[guest_test]
fn programs_of_the_host_see_a_guests_locks(platform: Platform) {
    if !has_tools(&["python3"]) {
        return;
    }
    let folder = Folder::new();
    let mut command = platform.run("share", &["--share", &folder.writable()], &["locks", "wait"]);
    let mut hv = Running::new(command.stdin(Stdio::piped()));
    let mut input = hv.child.stdin.take().unwrap();
    let mut output = BufReader::new(hv.child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim_end() != "waiting" {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the guest has ended");
    }
    let try_lock = format!(
        "import fcntl\ntry: fcntl.lockf(open({:?}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')\n\
         except BlockingIOError: print('taken')",
        folder.path("file").to_str().unwrap()
    );
    assert_eq!(python(&try_lock), "taken\n");
    input.write_all(b"go on\n").unwrap();
    hv.finish().expect(0);
    assert_eq!(python(&try_lock), "free\n");
}

#[guest_test]
fn extended_attributes(platform: Platform) {
    if !has_tools(&["python3"]) {
        return;
    }
    let folder = Folder::new();
    let file = folder.path("file");
    let listed =
        format!("import os\nprint([(name, os.getxattr({file:?}, name)) for name in os.listxattr({file:?})])");
    let outcome = folder.run(platform, &["xattrs"]);
    assert!(outcome.err.contains("ReadOnly"), "the share is read-only: {}", outcome.err);
    folder.works(platform, &["xattrs", "foreign-xattrs"]);
    assert_eq!(python(&listed), "[('user.a', b'two, longer')]\n");
}

#[guest_test]
fn attributes_that_mean_something_to_the_host_are_no_guests(platform: Platform) {
    survives(platform, &["foreign-xattrs"]);
}

/// What a guest prints before this line, which is read as well.
fn lines_until(output: &mut impl BufRead, end: &str) -> Vec<String> {
    let lines = output.lines().map(|line| line.expect("the guest runs"));
    lines.take_while(|line| line != end).collect()
}

#[guest_test]
fn operations_that_let_other_tasks_run(platform: Platform) {
    let folder = Folder::new();
    folder.works(platform, &["asynchronous"]);
    assert!(folder.path("made/a").is_dir());
}

#[guest_test]
fn guests_that_append_to_one_file_overwrite_nothing(platform: Platform) {
    let folder = Folder::new();
    let writable = folder.writable();
    let guests = ["one", "second"].map(|line| {
        let command = format!("append:{line}");
        Running::new(&mut platform.run("share", &["--share", &writable], &[&command]))
    });
    guests.into_iter().for_each(|guest| drop(guest.finish().expect(0)));
    let log = fs::read_to_string(folder.path("log")).unwrap();
    let count = |line: &str| log.lines().filter(|other| *other == line).count();
    assert_eq!((count("one"), count("second"), log.lines().count()), (100, 100, 200));
}

/// A file system of 4 MiB.
#[guest_test]
fn a_full_disk_is_an_error_of_that_write(platform: Platform) {
    let folder = Folder::new();
    let small = folder.path("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        hv_tests::skip("needs the right to mount a file system");
        return;
    }
    let out = platform.ran("share", &["--share", &folder.writable()], &["fill:small/file", "cat:file"]);
    tool(Command::new("umount").arg(&small));
    assert_eq!(out.expect(0).text(), "NoSpace\nfile\nsurvived\n");
}

// ---------------------------------------------------------------- hostile guests

/// What a guest says on a host where this system call fails.
fn where_a_call_fails(platform: Platform, folder: &Folder, lack: Lack, commands: &[&str]) -> String {
    let mut command = platform.run("share", &["--share", &folder.writable()], commands);
    without(&mut command, &[lack]);
    Running::new(&mut command).finish().expect(0).text()
}

#[guest_test]
fn a_full_quota_is_an_error_of_that_write(platform: Platform) {
    let full =
        Lack { what: "room in the quota", call: libc::SYS_pwritev2, argument: None, error: libc::EDQUOT };
    let said = where_a_call_fails(platform, &Folder::new(), full, &["fill:new", "cat:file"]);
    assert_eq!(said, "Quota\nfile\nsurvived\n");
}

#[guest_test]
fn what_cannot_be_asked_without_waiting_is_left_to_the_threads(platform: Platform) {
    let folder = Folder::new();
    let lack = Lack {
        what: "reads of what is in memory",
        call: libc::SYS_preadv2,
        argument: None,
        error: libc::EOPNOTSUPP,
    };
    let said =
        where_a_call_fails(platform, &folder, lack, &["cat:file", "cat:folder/inner", "together:file"]);
    assert!(said.starts_with("file\ninner text\n") && said.ends_with("survived\n"), "{said}");
}
