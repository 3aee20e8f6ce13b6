//! What the tests share: a socket that is played, and files that are made up.

use crate::{Entry, Error, File, Memory, Request, Response, Root, Source, Unlimited, connection};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use embedded_io_async::{ErrorType, Read, Write};

/// Runs a future that never waits.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// A socket on which pieces arrive one after the other, and then no more.
#[derive(Default)]
pub(crate) struct Played {
    arriving: VecDeque<Vec<u8>>,
    /// What was written, one write after the other.
    pub(crate) writes: Vec<Vec<u8>>,
}

impl Played {
    pub(crate) fn new<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let arriving = pieces.into_iter().filter(|piece| !piece.is_empty()).map(<[u8]>::to_vec).collect();
        Played { arriving, writes: Vec::new() }
    }

    /// Everything that was written.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.writes.concat()).expect("the answers are text")
    }
}

impl ErrorType for Played {
    type Error = Infallible;
}

impl Read for Played {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(mut piece) = self.arriving.pop_front() else { return Ok(0) };
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.arriving.push_front(piece.split_off(count));
        }
        Ok(count)
    }
}

impl Write for Played {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.writes.push(bytes.to_vec());
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Plays pieces to a handler, with this memory.
pub(crate) fn play_with<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    memory: &impl Memory,
    handler: impl Fn(&Request<'_>) -> Response,
) -> (Played, Result<(), Error<Infallible>>) {
    let mut socket = Played::new(pieces);
    let handler = async |request: &Request<'_>| handler(request);
    let end = now(connection(&mut socket, &handler, memory));
    (socket, end)
}

/// Plays pieces to a handler.
pub(crate) fn play<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    handler: impl Fn(&Request<'_>) -> Response,
) -> Played {
    let (socket, end) = play_with(pieces, &Unlimited, handler);
    assert_eq!(end, Ok(()));
    socket
}

/// Bytes, given a few at a time.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    position: usize,
    at_once: usize,
}

impl Bytes {
    pub(crate) fn new(bytes: &[u8], at_once: usize) -> Self {
        Bytes { bytes: bytes.to_vec(), position: 0, at_once }
    }
}

impl Source for Bytes {
    fn read<'a>(&'a mut self, buffer: &'a mut [u8]) -> Pin<Box<dyn Future<Output = Option<usize>> + 'a>> {
        let rest = &self.bytes[self.position..];
        let count = rest.len().min(buffer.len()).min(self.at_once);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Box::pin(core::future::ready(Some(count)))
    }
}

impl File for Bytes {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn seek(&mut self, offset: u64) {
        self.position = offset as usize;
    }
}

/// Files by their paths; those without content cannot be read.
pub(crate) struct Site(pub(crate) BTreeMap<&'static str, Option<Vec<u8>>>);

impl Root for Site {
    type File = Bytes;
    type Error = &'static str;

    fn is_absent(error: &Self::Error) -> bool {
        *error == "absent"
    }

    async fn is_folder(&self, path: &str) -> Result<bool, Self::Error> {
        if self.0.contains_key(path.trim_end_matches('/')) {
            return Ok(false);
        }
        self.list(path).await.map(|_| true)
    }

    async fn list(&self, path: &str) -> Result<Vec<Entry>, Self::Error> {
        let folder = alloc::format!("{}/", path.trim_end_matches('/'));
        let mut entries = BTreeMap::new();
        for (path, bytes) in &self.0 {
            let Some(rest) = path.strip_prefix(&folder) else { continue };
            let (name, is_folder) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
            let size = bytes.as_ref().map_or(0, Vec::len) as u64;
            entries.insert(name, Entry { name: name.to_owned(), is_folder, size });
        }
        if entries.is_empty() { Err("absent") } else { Ok(entries.into_values().collect()) }
    }

    async fn open(&self, path: &str) -> Result<Bytes, Self::Error> {
        let bytes = self.0.get(path).ok_or("absent")?.as_ref().ok_or("unreadable")?;
        Ok(Bytes::new(bytes, 1000))
    }

    async fn read(&self, file: &mut Bytes, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes.copy_from_slice(&file.bytes);
        Ok(())
    }
}
