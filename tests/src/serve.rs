//! `hv serve`, started with a configuration, and looked at from outside.

use crate::http::{Answer, Client};
use crate::{Finished, Platform, Running, eventually, guest};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// A server with its folder: `hv.toml` and `access.log`.
pub struct Serve {
    /// Dropped first: the server may still write its log, and the folder is there.
    _last_words: LastWords,
    running: Running,
    folder: TempDir,
    /// The port of the functions.
    pub port: u16,
    /// The port of the administrator, if there is one.
    pub admin: Option<u16>,
    tls: Option<u16>,
    errors: Arc<Mutex<String>>,
}

/// What a server said and logged, printed if the test fails.
struct LastWords {
    errors: Arc<Mutex<String>>,
    log: PathBuf,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The log is written a moment after the answer.
            std::thread::sleep(Duration::from_millis(500));
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            let errors = self.errors.lock().map_or_else(|_| String::new(), |errors| errors.clone());
            eprintln!("The server said:\n{errors}\nand logged last:\n{last}");
        }
    }
}

/// Lines of the log that a failed test prints.
const LAST_LINES: usize = 20;

/// The configuration of the test guest at all paths, with further keys.
pub fn probe(keys: &str) -> String {
    format!("[function.probe]\npath = \"/*\"\nimage = {:?}\n{keys}\n", guest("fn-probe"))
}

/// `hv serve`, not yet started.
fn command(platform: Platform) -> Command {
    let mut command = platform.command();
    command.arg("serve").stdin(Stdio::null());
    command
}

impl Serve {
    /// Starts a server and waits until it listens.
    #[track_caller]
    pub fn start(platform: Platform, config: &str) -> Serve {
        Serve::with(platform, config, &[])
    }

    /// As [`start`](Self::start), with further arguments.
    #[track_caller]
    pub fn with(platform: Platform, config: &str, arguments: &[&str]) -> Serve {
        Serve::prepared(platform, config, |command, _| {
            command.args(arguments);
        })
    }

    /// Starts a server in its folder, which has the configuration and what `prepare` puts there.
    #[track_caller]
    pub fn prepared(platform: Platform, config: &str, prepare: impl FnOnce(&mut Command, &Path)) -> Serve {
        let folder = TempDir::new().expect("room for a folder");
        let file = folder.path().join("hv.toml");
        fs::write(&file, whole(config)).expect("room for a file");
        let mut command = command(platform);
        command.current_dir(folder.path()).args(["--config", "hv.toml"]);
        prepare(&mut command, folder.path());
        let mut running = Running::new(&mut command);
        let errors = Arc::new(Mutex::new(String::new()));
        let mut stderr = running.child.stderr.take().expect("it is captured");
        std::thread::spawn({
            let errors = errors.clone();
            move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                    *errors.lock().unwrap() += &String::from_utf8_lossy(&bytes[..count]);
                }
            }
        });
        let _last_words = LastWords { errors: errors.clone(), log: folder.path().join("access.log") };
        let mut serve = Serve { running, _last_words, folder, port: 0, admin: None, tls: None, errors };
        serve.port = serve.listening("functions", "http");
        serve.tls = config.contains("listen_tls =").then(|| serve.listening("functions", "https"));
        let scheme = if config.contains("clients =") { "https" } else { "http" };
        serve.admin = config.contains("admin =").then(|| serve.listening("admin", scheme));
        serve
    }

    /// The port that a listener has said.
    fn listening(&mut self, what: &str, scheme: &str) -> u16 {
        // As text or as JSON.
        let schemes = [format!(" {scheme}://"), format!("\"scheme\":\"{scheme}\"")];
        let is_of = |line: &str| {
            line.contains("listening")
                && line.contains(what)
                && schemes.iter().any(|scheme| line.contains(scheme))
        };
        let errors = self.errors.clone();
        eventually("listening", || {
            if self.running.child.try_wait().expect("a child can be waited for").is_some() {
                // What it said last may be on its way.
                std::thread::sleep(Duration::from_millis(200));
                let said = errors.lock().unwrap().clone();
                panic!("it ended: {said}");
            }
            let errors = errors.lock().unwrap();
            let line = errors.lines().find(|line| is_of(line))?;
            let digits = line.split("127.0.0.1:").nth(1)?;
            digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
        })
    }

    /// What it has said on standard error.
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// Waits until it has said this on standard error so many times.
    #[track_caller]
    pub fn said(&self, what: &str, times: usize) -> String {
        eventually(what, || {
            let errors = self.errors();
            (errors.matches(what).count() >= times).then_some(errors)
        })
    }

    /// Its access log, once it has a line with this.
    #[track_caller]
    pub fn log_line(&self, part: &str) -> String {
        eventually(part, || self.log().lines().find(|line| line.contains(part)).map(str::to_owned))
    }

    /// Its access log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The file of its access log.
    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection to its functions.
    pub fn client(&self) -> Client {
        Client::connect(self.port).expect("it listens")
    }

    /// The port of the functions over TLS.
    pub fn tls(&self) -> u16 {
        self.tls.expect("the configuration has listen_tls")
    }

    /// The answer to one GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.client().ask("GET", path, "", b"").expect("it answers")
    }

    /// Writes another configuration, and asks it to read it.
    pub fn reload(&self, config: &str) {
        fs::write(self.folder.path().join("hv.toml"), whole(config)).expect("room for a file");
        self.signal(libc::SIGHUP);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        self.running.signal(signal);
    }

    /// The sum of a metric over the lines with this part.
    #[track_caller]
    pub fn metric(&self, part: &str) -> f64 {
        let mut client = Client::connect(self.admin.unwrap_or(self.port)).expect("it listens");
        let text = client.ask("GET", "/metrics", "", b"").expect("it answers").expect(200).text();
        let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains(part));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().expect("a number")).sum()
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.running.child.id()
    }

    /// Entries of a folder of its process: `fd` or `task`.
    pub fn count(&self, folder: &str) -> usize {
        let path = format!("/proc/{}/{folder}", self.running.child.id());
        fs::read_dir(path).expect("it runs").count()
    }

    /// Its child processes of this name.
    pub fn children(&self, name: &str) -> Vec<u32> {
        crate::children(self.running.child.id(), name)
    }

    /// Bytes of its memory in RAM.
    pub fn resident(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.running.child.id());
        let statm = fs::read_to_string(path).expect("it runs");
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
    }

    /// Waits for its end.
    pub fn finish(self) -> Finished {
        let mut end = self.running.finish();
        end.err = self.errors.lock().unwrap().clone();
        end
    }

    /// Asks it to end, and expects that it does so in good order.
    #[track_caller]
    pub fn end(self) -> Finished {
        self.signal(libc::SIGTERM);
        self.finish().expect(0)
    }
}

/// A configuration with an address of its own and a log, unless it names them.
fn whole(config: &str) -> String {
    let mut text = String::new();
    for (key, value) in [("listen", "127.0.0.1:0"), ("log", "access.log")] {
        if !config.lines().any(|line| line.starts_with(&format!("{key} ="))) {
            text += &format!("{key} = {value:?}\n");
        }
    }
    text + config
}

/// `hv serve` with a file of this text and further arguments, not yet started. The file lives as long
/// as the folder.
pub fn checked(platform: Platform, config: &str, arguments: &[&str]) -> (Command, TempDir) {
    let folder = TempDir::new().expect("room for a folder");
    let file = folder.path().join("hv.toml");
    fs::write(&file, config).expect("room for a file");
    let mut command = command(platform);
    command.arg("--config").arg(file).args(arguments);
    (command, folder)
}
