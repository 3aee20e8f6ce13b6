//! A guest's console that a test talks to.

use crate::guest;
use hv::device::console::{Input, Output};
use hv::{Builder, Engine, Guest, Image, StartError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// A socket as both ends of a console.
pub struct Socket(UnixStream);

/// The test's end of a console's input or output, and the guest's.
pub fn pair() -> (UnixStream, Socket) {
    let (host, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    (host, Socket(guest))
}

impl Input for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }
}

impl Output for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }
}

/// A guest that says in lines what it has done, and waits for lines.
pub struct Talking {
    /// The guest.
    pub guest: Guest,
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Talking {
    /// Starts a guest of this name. `describe` says more of it.
    ///
    /// # Errors
    ///
    /// Why it is not started.
    pub fn start(
        engine: &Engine,
        name: &str,
        arguments: &[&str],
        describe: impl FnOnce(Builder) -> Builder,
    ) -> Result<Talking, StartError> {
        let ((to, input), (from, output)) = (pair(), pair());
        let image = Arc::new(Image::open(&guest(name)).unwrap());
        let mut builder = describe(Builder::new(image)).input(input).output(output);
        for argument in arguments {
            builder = builder.argument(argument);
        }
        Ok(Talking { guest: builder.spawn(engine)?, to, from: BufReader::new(from) })
    }

    /// The next line.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The next line is this.
    #[track_caller]
    pub fn says(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    /// Gives it the line that it waits for.
    pub fn goes_on(&mut self) {
        self.to.write_all(b"\n").unwrap();
    }
}
