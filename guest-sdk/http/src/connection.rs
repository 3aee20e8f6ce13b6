//! Connections: requests are answered in order, until one of them is the last.

use crate::request::{Parsed, parse};
use crate::{Body, Memory, Request, Response, Share, Source};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;
use embassy_futures::join::join;
use embedded_io_async::{Read, Write};

/// Answers are gathered up to this size before they are written.
const GATHER: usize = 16 << 10;
/// Bytes of a streamed body that are read at once: at most, and when there is
/// hardly any memory left.
const CHUNK: usize = 64 << 10;
const SMALL_CHUNK: usize = 4 << 10;
/// Bytes of a connection's input that it does not have to ask for.
const INPUT: usize = 1 << 10;

/// Why a connection ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// The socket failed: the other side went away, say.
    Socket(E),
    /// A streamed body turned out shorter than its head had promised.
    Source,
}

impl<E: core::fmt::Display> core::fmt::Display for Error<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::Socket(error) => error.fmt(f),
            Error::Source => f.write_str("the body is shorter than was promised"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for Error<E> {}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Error::Socket(error)
    }
}

/// Answers the requests of one connection until it ends: with the last
/// request, with something that is no request, or with the other side.
///
/// The socket is written to and read from, but neither flushed nor closed.
/// Memory for large requests and streamed bodies is asked of `memory` first.
///
/// # Errors
///
/// [`Error`]: what was under way is lost, and the socket is to be closed.
pub async fn connection<S, H, M>(socket: &mut S, handler: &H, memory: &M) -> Result<(), Error<S::Error>>
where
    S: Read + Write,
    H: AsyncFn(&Request<'_>) -> Response,
    M: Memory,
{
    let mut share = memory.share();
    let mut input = vec![0; INPUT];
    let (mut start, mut end) = (0, 0);
    let mut output = Vec::new();
    loop {
        let missing = match parse(&input[start..end]) {
            Parsed::Request(request, used) => {
                let response = handler(&request).await;
                let keep = request.keep_alive();
                send(socket, &mut output, response, &request, memory).await?;
                start += used;
                if !keep {
                    return flush(socket, &mut output).await;
                }
                continue;
            }
            Parsed::Incomplete(needed) => needed,
            Parsed::Refused(status) => {
                refuse(&mut output, status);
                return flush(socket, &mut output).await;
            }
        };
        flush(socket, &mut output).await?;
        input.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        // Twice the size at least, so that few reads fill it.
        if input.len() < missing {
            let len = missing.max(input.len() * 2);
            if !share.grow(len) {
                refuse(&mut output, 503);
                return flush(socket, &mut output).await;
            }
            input.resize(len, 0);
        }
        match socket.read(&mut input[end..]).await? {
            0 => return Ok(()),
            count => end += count,
        }
    }
}

/// Answers something that is no request; the connection cannot go on.
fn refuse(output: &mut Vec<u8>, status: u16) {
    answer(output, &Response::status(status), false);
}

/// Puts a response whose body is there behind the others.
fn answer(output: &mut Vec<u8>, response: &Response, keep_alive: bool) {
    response.head(output, keep_alive);
    if let Body::Bytes(bytes) = &response.body {
        output.extend_from_slice(bytes);
    }
}

async fn flush<S: Write>(socket: &mut S, output: &mut Vec<u8>) -> Result<(), Error<S::Error>> {
    if !output.is_empty() {
        socket.write_all(output).await?;
        output.clear();
    }
    Ok(())
}

/// Puts a response behind the others, and writes them when they are enough.
///
/// The first piece of a streamed body is read before its head is written: what cannot be read at all
/// is answered with 500.
async fn send<S: Write, M: Memory>(
    socket: &mut S,
    output: &mut Vec<u8>,
    response: Response,
    request: &Request<'_>,
    memory: &M,
) -> Result<(), Error<S::Error>> {
    let before = output.len();
    response.head(output, request.keep_alive());
    if request.method() == "HEAD" {
        return Ok(());
    }
    match response.body {
        Body::Empty => Ok(()),
        Body::Bytes(bytes) if output.len() + bytes.len() <= GATHER => {
            output.extend_from_slice(&bytes);
            Ok(())
        }
        Body::Bytes(bytes) => {
            flush(socket, output).await?;
            Ok(socket.write_all(&bytes).await?)
        }
        Body::Stream { len, source } => {
            let mut body = Streamed::new(len, source, memory);
            if body.first().await.is_err() {
                output.truncate(before);
                answer(output, &Response::status(500), request.keep_alive());
                return Ok(());
            }
            flush(socket, output).await?;
            body.send(socket).await
        }
    }
}

/// A streamed body that is sent: the next piece is read while one is sent.
struct Streamed<'a, M: Memory + 'a> {
    /// Bytes that are not yet read.
    len: u64,
    source: Box<dyn Source>,
    bytes: Vec<u8>,
    next: Vec<u8>,
    /// Of `bytes`, what was read.
    ready: usize,
    _share: M::Share<'a>,
}

impl<'a, M: Memory> Streamed<'a, M> {
    fn new(len: u64, source: Box<dyn Source>, memory: &'a M) -> Self {
        // A part of what is left, so that many streams share it; and a little
        // even if there is nothing left.
        let mut share = memory.share();
        let wanted = (memory.left() / 8).clamp(SMALL_CHUNK, CHUNK) / SMALL_CHUNK * SMALL_CHUNK;
        let chunk = if share.grow(2 * wanted) { wanted } else { SMALL_CHUNK };
        Streamed { len, source, bytes: vec![0; chunk], next: vec![0; chunk], ready: 0, _share: share }
    }

    /// Reads the first piece.
    async fn first(&mut self) -> Result<(), Error<Infallible>> {
        self.ready = read(&mut self.source, &mut self.bytes, self.len).await?;
        Ok(())
    }

    async fn send<S: Write>(mut self, socket: &mut S) -> Result<(), Error<S::Error>> {
        while self.ready > 0 {
            self.len -= self.ready as u64;
            let sending = socket.write_all(&self.bytes[..self.ready]);
            let (sent, read) = join(sending, read(&mut self.source, &mut self.next, self.len)).await;
            sent?;
            self.ready = read?;
            core::mem::swap(&mut self.bytes, &mut self.next);
        }
        Ok(())
    }
}

/// The next piece of a body that still has `len` bytes. Its length was
/// promised in the head: a source that ends early ends the connection.
async fn read<E>(source: &mut Box<dyn Source>, bytes: &mut [u8], len: u64) -> Result<usize, Error<E>> {
    let count = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
    if count == 0 {
        return Ok(0);
    }
    match source.read(&mut bytes[..count]).await {
        Some(read @ 1..) => Ok(read.min(count)),
        _ => Err(Error::Source),
    }
}

#[cfg(test)]
mod tests;
