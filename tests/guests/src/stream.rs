//! Bodies of any length out of memory: the same code in the guest `stream` and
//! in the host's server that it is measured against.

use crate::http::{Body, Request, Response, Source};
use alloc::boxed::Box;
use core::future::{Future, ready};
use core::pin::Pin;

/// Where the paths of such bodies start; the number of bytes follows.
pub(crate) const PATH: &str = "/stream/";

static PIECE: [u8; 64 << 10] = {
    let mut piece = [0; 64 << 10];
    let mut n = 0;
    while n < piece.len() {
        piece[n] = (n % 251) as u8;
        n += 1;
    }
    piece
};

/// The same piece again and again.
struct Pieces;

impl Source for Pieces {
    fn read<'a>(&'a mut self, buffer: &'a mut [u8]) -> Pin<Box<dyn Future<Output = Option<usize>> + 'a>> {
        let count = buffer.len().min(PIECE.len());
        buffer[..count].copy_from_slice(&PIECE[..count]);
        Box::pin(ready(Some(count)))
    }
}

/// Answers with as many bytes as the path says.
pub(crate) fn respond(request: &Request<'_>) -> Response {
    match request.path().strip_prefix(PATH).and_then(|len| len.parse().ok()) {
        Some(len) => Response::new(200, Body::Stream { len, source: Box::new(Pieces) }),
        None => Response::status(404),
    }
}
