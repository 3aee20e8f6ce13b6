//! A small HTTP/1.1 server: requests in, responses out, connections kept.
//!
//! ```ignore
//! let stack = net::up(spawner).await?;
//! http::serve(stack, 80, Serve::default(), async |request: &Request<'_>| match request.path() {
//!     "/" => Response::text(200, "hello"),
//!     _ => Response::status(404),
//! })?;
//! ```
//!
//! Requests are parsed by `httparse`. The rest is written here rather than
//! taken from a framework for the sake of one thing: all answers to what has
//! arrived, heads and bodies, leave in one write, so that a small request
//! costs one frame each way, and pipelined requests cost less than that.
#![forbid(unsafe_code)]

#[cfg(feature = "fs")]
mod files;
mod request;
mod response;

#[cfg(feature = "fs")]
pub use files::Files;
pub use request::{Request, decode};
pub use response::{Body, Response, Source};

use crate::budget::Budget;
use crate::net::{self, Serve, Stack, TcpSocket};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use embassy_futures::join::join;
use embedded_io_async::Write;
use request::{Parsed, parse};

/// Most bytes of a request's head, and of its body.
const MAX_HEAD: usize = 8 << 10;
const MAX_BODY: usize = 64 << 10;
/// Answers are gathered up to this size before they are written.
const GATHER: usize = 16 << 10;
/// Bytes of a streamed body that are read at once: at most, and when there is
/// hardly any memory left.
const CHUNK: usize = 64 << 10;
const SMALL_CHUNK: usize = 4 << 10;
/// Bytes of a connection's input that it does not have to ask for.
const INPUT: usize = 1 << 10;

/// Serves HTTP on a TCP port: `handler` answers each request. Returns at once.
///
/// Large requests and streamed bodies take at most 1/8 of the heap all told.
///
/// # Errors
///
/// As [`net::serve`].
pub fn serve<H>(stack: Stack<'static>, port: u16, how: Serve, handler: H) -> Result<(), net::Error>
where
    H: AsyncFn(&Request<'_>) -> Response + 'static,
{
    let budget = Budget::new(crate::heap_size() / 8);
    net::serve(stack, port, how, async move |socket: &mut TcpSocket<'_>| {
        // An error is the other side's going away; nobody is left to tell.
        let _ = connection(socket, &handler, &budget).await;
    })
}

type Gone = embassy_net::tcp::Error;

/// Answers the requests of one connection until it ends.
async fn connection<H>(socket: &mut TcpSocket<'_>, handler: &H, budget: &Budget) -> Result<(), Gone>
where
    H: AsyncFn(&Request<'_>) -> Response,
{
    let mut share = budget.share();
    let mut input = vec![0; INPUT];
    let (mut start, mut end) = (0, 0);
    let mut output = Vec::new();
    loop {
        let missing = match parse(&input[start..end]) {
            Parsed::Request(request, used) => {
                let response = handler(&request).await;
                let keep = request.keep_alive();
                send(socket, &mut output, response, &request, budget).await?;
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
    let response = Response::status(status);
    response.head(output, false);
    if let Body::Bytes(bytes) = &response.body {
        output.extend_from_slice(bytes);
    }
}

async fn flush(socket: &mut TcpSocket<'_>, output: &mut Vec<u8>) -> Result<(), Gone> {
    if !output.is_empty() {
        socket.write_all(output).await?;
        output.clear();
    }
    Ok(())
}

/// Puts a response behind the others, and writes them when they are enough.
async fn send(
    socket: &mut TcpSocket<'_>,
    output: &mut Vec<u8>,
    response: Response,
    request: &Request<'_>,
    budget: &Budget,
) -> Result<(), Gone> {
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
            socket.write_all(&bytes).await
        }
        Body::Stream { len, source } => {
            flush(socket, output).await?;
            stream(socket, len, source, budget).await
        }
    }
}

/// Sends a streamed body; the next piece is read while one is sent.
async fn stream(
    socket: &mut TcpSocket<'_>,
    mut len: u64,
    mut source: Box<dyn Source>,
    budget: &Budget,
) -> Result<(), Gone> {
    // A part of what is left, so that many streams share it; and a little
    // even if there is nothing left.
    let mut share = budget.share();
    let wanted = (budget.left() / 8).clamp(SMALL_CHUNK, CHUNK) / SMALL_CHUNK * SMALL_CHUNK;
    let chunk = if share.grow(2 * wanted) { wanted } else { SMALL_CHUNK };
    let mut bytes = vec![0; chunk];
    let mut next = vec![0; chunk];
    let mut ready = read(&mut source, &mut bytes, len).await?;
    while ready > 0 {
        len -= ready as u64;
        let (sent, read) = join(socket.write_all(&bytes[..ready]), read(&mut source, &mut next, len)).await;
        sent?;
        ready = read?;
        core::mem::swap(&mut bytes, &mut next);
    }
    Ok(())
}

/// The next piece of a body that still has `len` bytes. Its length was
/// promised in the head: a source that ends early ends the connection.
async fn read(source: &mut Box<dyn Source>, bytes: &mut [u8], len: u64) -> Result<usize, Gone> {
    let count = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
    if count == 0 {
        return Ok(0);
    }
    match source.read(&mut bytes[..count]).await {
        Some(read @ 1..) => Ok(read.min(count)),
        _ => Err(Gone::ConnectionReset),
    }
}
