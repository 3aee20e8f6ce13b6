//! Guests with a control socket, and their clients.

use crate::{Finished, Platform, Running, eventually, tool};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

/// A guest that runs with a control socket.
pub struct Controlled {
    /// hv with the guest.
    pub guest: Running,
    /// The socket.
    pub path: PathBuf,
    lines: Receiver<String>,
    _folder: TempDir,
}

impl Controlled {
    /// Starts a guest with its socket in a folder of its own.
    #[track_caller]
    pub fn start(platform: Platform, name: &str, options: &[&str], arguments: &[&str]) -> Controlled {
        Controlled::of(|path| {
            let path = path.to_str().expect("folders for temporary files have plain names");
            platform.run(name, &[options, &["--control", path]].concat(), arguments)
        })
    }

    /// The same with the command made from the path.
    #[track_caller]
    pub fn of(command: impl FnOnce(&Path) -> Command) -> Controlled {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("control");
        let mut guest = Running::new(&mut command(&path));
        let output = BufReader::new(guest.child.stdout.take().expect("it is captured"));
        let (said, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        let controlled = Controlled { guest, path, lines, _folder: folder };
        eventually("the control socket", || UnixStream::connect(&controlled.path).ok());
        controlled
    }

    /// Waits until the guest prints this line.
    #[track_caller]
    pub fn says(&self, line: &str) {
        loop {
            match self.lines.recv_timeout(crate::LIMIT) {
                Ok(said) if said == line => return,
                Ok(_) => {}
                Err(error) => panic!("the guest does not say {line:?}: {error}"),
            }
        }
    }

    /// `hv COMMAND SOCKET …`, not yet started.
    pub fn hv(&self, command: &str, arguments: &[&str]) -> Command {
        let mut hv = crate::command();
        hv.arg(command).arg(&self.path).args(arguments);
        hv
    }

    /// Changes a setting by `hv set`.
    #[track_caller]
    pub fn set(&self, settings: &[&str]) {
        let end = tool(&mut self.hv("set", settings));
        assert_eq!((end.text(), end.err), (String::new(), String::new()));
    }

    /// What `hv show --format json` prints.
    #[track_caller]
    pub fn shown(&self) -> String {
        tool(&mut self.hv("show", &["--format", "json"])).text()
    }

    /// Waits until that has this part.
    #[track_caller]
    pub fn shows(&self, part: &str) {
        eventually(part, || self.shown().contains(part).then_some(()));
    }

    /// Waits until so many virtual CPUs run.
    #[track_caller]
    pub fn runs(&self, vcpus: usize) {
        self.shows(&format!("\"running\":{vcpus},"));
    }

    /// A client.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::new(&self.path)
    }

    /// Asks the guest to end by `hv stop`, and waits until it has.
    #[track_caller]
    pub fn stop(self) -> Finished {
        tool(&mut self.hv("stop", &[]));
        self.finish()
    }

    /// Waits for its end. Its output is what has not been waited for.
    #[track_caller]
    pub fn finish(self) -> Finished {
        let mut end = self.guest.finish();
        end.out =
            self.lines.iter().fold(Vec::new(), |out, line| [out, line.into_bytes(), vec![b'\n']].concat());
        // It is removed by a process that lives a little longer than hv.
        eventually("the removal of the socket", || (!self.path.exists()).then_some(()));
        end
    }
}

/// A client of a control socket.
pub struct Client {
    /// Its connection.
    pub stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    #[track_caller]
    pub fn new(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("hv listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("it is not zero");
        Client { stream: BufReader::new(stream) }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next answer; empty if there is none any more.
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        // A connection that was closed with something unread is reset.
        let _ = self.stream.read_line(&mut line);
        line
    }

    /// Makes a request, and returns its answer.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> String {
        self.send(format!("{request}\n").as_bytes()).expect("hv listens");
        self.answer()
    }
}
