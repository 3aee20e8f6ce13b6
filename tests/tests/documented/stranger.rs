//! ⚠ A folder of somebody who has hv, images and files, and nothing of its sources; and commands there, each block in a
//! network of its own.

use super::blocks::workspace;
use hv_tests::{LIMIT, Running, guest, has_tools, hv};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Whoever types the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs the tests, root mostly.
    Own,
    /// Nobody in particular, if root runs the tests.
    Ordinary,
}

/// The guests that the documents name.
const GUESTS: [&str; 15] = [
    "hello",
    "echo",
    "clock",
    "disk",
    "web",
    "kv",
    "udp-echo",
    "fn-hello",
    "fn-json",
    "fn-image",
    "fn-wasm",
    "fn-counter",
    "fn-proxy",
    "compute",
    "crash",
];

/// Somebody with a folder, on a platform.
pub(crate) struct Stranger {
    folder: TempDir,
    user: User,
    platform: &'static str,
}

/// A command that goes on until it is asked to end.
pub(crate) struct Live {
    pub(crate) line: String,
    pub(crate) running: Running,
    said: Arc<Mutex<String>>,
}

/// Whether this is root.
pub(crate) fn is_root() -> bool {
    // SAFETY: no memory is passed.
    unsafe { libc::geteuid() == 0 }
}

impl Stranger {
    pub(crate) fn new(user: User, platform: &'static str) -> Stranger {
        let folder = tempfile::Builder::new().prefix("stranger").tempdir_in("/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(folder.path(), 0o777);
        fs::create_dir(at("bin")).unwrap();
        fs::copy(hv(), at("bin/hv")).unwrap();
        open(&at("bin/hv"), 0o755);
        for name in GUESTS {
            fs::copy(guest(name), at(name)).unwrap();
        }
        fs::copy(guest("echo"), at("my-guest")).unwrap();
        fs::create_dir(at("docs")).unwrap();
        for entry in fs::read_dir(workspace().join("docs")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), at("docs").join(entry.file_name())).unwrap();
            }
        }
        fs::copy(at("docs/hv.toml"), at("hv.toml")).unwrap();
        for name in GUESTS.iter().filter(|name| name.starts_with("fn-")) {
            // Images of a configuration stand beside it.
            fs::copy(at(name), at("docs").join(name)).unwrap();
        }
        for name in ["old.json", "new.json", "monday.json", "tuesday.json", "wednesday.json"] {
            fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/bench.json"), at(name)).unwrap();
        }
        for name in ["data.img", "copy-of-data.img", "site.img"] {
            fs::write(at(name), vec![0; 4 << 20]).unwrap();
            open(&at(name), 0o666);
        }
        let stranger = Stranger { folder, user, platform };
        stranger.make_site();
        stranger
    }

    /// A disk with a file system, for `web`.
    fn make_site(&self) {
        if has_tools(&["mkfs.vfat"]) {
            let made = hv_tests::system_tool("mkfs.vfat").arg(self.folder.path().join("site.img")).output();
            assert!(made.is_ok_and(|output| output.status.success()), "a file system on site.img");
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A line of a shell, in a network of its own with nothing but a loopback interface and `tap0`.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let tap = match self.user {
            User::Ordinary if is_root() => "ip tuntap add tap0 mode tap user 65534",
            _ => "ip tuntap add tap0 mode tap",
        };
        // The host's /sys shows the network that it was mounted in.
        let network =
            format!("mount -t sysfs none /sys; ip link set lo up && {tap} && ip link set tap0 up; ");
        let mut command = Command::new("unshare");
        command.args(if is_root() { &["-nm"][..] } else { &["-rnm"] });
        // Everything execs the next, so that signals reach hv.
        command.args(["--", "bash", "-c", &(network + "exec \"$@\"")]).arg("bash");
        self.user_shell(&mut command, line);
        command
    }

    /// The same in the network of a command that goes on.
    pub(crate) fn beside(&self, live: &Live, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &live.running.child.id().to_string(), "-n"]);
        if !is_root() {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.arg("--");
        self.user_shell(&mut command, line);
        command
    }

    fn user_shell(&self, command: &mut Command, line: &str) {
        if self.user == User::Ordinary && is_root() {
            command.args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        }
        // A simple command replaces the shell.
        let simple = !line.contains(['|', '>', ';', '&']);
        let line = if simple { format!("exec {line}") } else { line.to_owned() };
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.folder.path().join("bin").display());
        command.args(["bash", "-c", &line]).current_dir(self.folder.path()).stdin(Stdio::piped());
        command.env("PATH", path).env("HV_PLATFORM", self.platform).env("HOME", self.folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// A line whose files are named by absolute paths.
    pub(crate) fn absolute(&self, line: &str) -> String {
        let words = line.split(' ').enumerate().map(|(at, word)| {
            // A command, which may have the name of a guest: `hv disk`.
            if at == 1 && line.starts_with("hv ") {
                return word.to_owned();
            }
            let (before, path) = match word.rsplit_once('=') {
                Some((before, path)) => (format!("{before}="), path),
                None => (String::new(), word),
            };
            let bare = path.split([',', '\'']).next().unwrap_or(path);
            let made_later = [".snap", ".pcap", ".json", ".html"].iter().any(|end| bare.ends_with(end));
            let names_a_file = !bare.is_empty() && (self.folder().join(bare).exists() || made_later);
            if bare.starts_with(['/', '-']) || !names_a_file {
                return word.to_owned();
            }
            format!("{before}{}/{path}", self.folder().display())
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Starts a command, and waits until it serves, or has run for a while, or has ended.
    pub(crate) fn start(&self, line: &str) -> Live {
        /// Longest that a guest that says nothing is waited for.
        const SILENT: Duration = Duration::from_secs(1);
        let mut running = Running::new(&mut self.shell(line));
        let said = Arc::new(Mutex::new(String::new()));
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            running.child.stdout.take().map(|output| Box::new(output) as _),
            running.child.stderr.take().map(|output| Box::new(output) as _),
        ];
        for mut output in outputs.into_iter().flatten() {
            let said = said.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = output.read(&mut bytes) {
                    *said.lock().unwrap() += &String::from_utf8_lossy(&bytes[..count]);
                }
            });
        }
        let mut live = Live { line: line.to_owned(), running, said };
        let start = Instant::now();
        let mut runs_since = None;
        let serves = |said: &str| said.contains("listening") || said.contains(" port ");
        // Those that need not end by themselves, and need not say anything.
        let is_guest = ["hv run ", "hv restore "].iter().any(|command| line.starts_with(command));
        while !live.has_ended() && !serves(&live.said()) {
            assert!(start.elapsed() < LIMIT, "`{line}` does not end: {}", live.said());
            if runs_since.is_none() && live.is_hv() {
                runs_since = Some(Instant::now());
            }
            if is_guest && runs_since.is_some_and(|since| since.elapsed() > SILENT) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        live
    }
}

impl Live {
    pub(crate) fn has_ended(&mut self) -> bool {
        self.running.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Whether the shells before it are done.
    fn is_hv(&self) -> bool {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.running.child.id()));
        name.is_ok_and(|name| name.trim() == "hv")
    }

    /// What it has said, on both streams.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this, so many times.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str, times: usize) {
        let start = Instant::now();
        while self.said().matches(what).count() < times {
            assert!(!self.has_ended(), "`{}` ended: {}", self.line, self.said());
            assert!(start.elapsed() < LIMIT, "`{}` did not say \"{what}\": {}", self.line, self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end; whether that is a success.
    pub(crate) fn succeeds(mut self) -> bool {
        self.running.wait().success()
    }

    /// Asks it to end if it has not, and expects one of these codes.
    #[track_caller]
    pub(crate) fn end(mut self, codes: &[i32]) {
        if !self.has_ended() {
            self.running.signal(libc::SIGTERM);
        }
        let status = self.running.wait();
        let said = self.said();
        // As a shell reports the end by a signal.
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        assert!(codes.contains(&code), "`{}`: {status}: {said}", self.line);
        assert!(!said.contains("hv: jail"), "`{}`: {said}", self.line);
    }
}

/// Where the project of the guide is built, kept from run to run.
pub(crate) fn target(name: &str) -> PathBuf {
    let own = workspace().join("target");
    std::env::var_os("CARGO_TARGET_DIR").map_or(own, PathBuf::from).join(name)
}
