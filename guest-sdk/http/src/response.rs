//! Responses as they leave.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::future::Future;
use core::pin::Pin;

/// Gives a body piece by piece.
pub trait Source {
    /// Reads some bytes into the buffer and returns their number; `None` when it cannot.
    fn read<'a>(&'a mut self, buffer: &'a mut [u8]) -> Pin<Box<dyn Future<Output = Option<usize>> + 'a>>;
}

/// A response's body.
pub enum Body {
    /// None.
    Empty,
    /// Bytes that are there; a cache may share them.
    Bytes(Rc<[u8]>),
    /// Bytes that are read while they are sent.
    Stream {
        /// Their number.
        len: u64,
        /// Where they come from.
        source: Box<dyn Source>,
    },
}

/// An answer to a request.
pub struct Response {
    status: u16,
    /// Header fields as they are sent.
    fields: Vec<u8>,
    pub(crate) body: Body,
}

/// The text that goes with a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// Text into bytes; never fails.
struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Response {
    /// A response with this status and body.
    pub fn new(status: u16, body: Body) -> Self {
        Response { status, fields: Vec::new(), body }
    }

    /// A response that says its status, in words for people as well.
    pub fn status(status: u16) -> Self {
        Response::text(status, &format!("{status} {}\n", reason(status)))
    }

    /// A response of plain text.
    pub fn text(status: u16, text: &str) -> Self {
        Response::new(status, Body::Bytes(text.as_bytes().into()))
            .header("Content-Type", "text/plain; charset=utf-8")
    }

    /// Adds a header field. What would break out of its line (control
    /// characters) is left out. Content-Length and Connection are added by the server.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        self.fields.extend(value.bytes().filter(|byte| !byte.is_ascii_control()));
        self.fields.extend_from_slice(b"\r\n");
        self
    }

    /// The head, behind whatever is there already.
    pub(crate) fn head(&self, output: &mut Vec<u8>, keep_alive: bool) {
        let len = match &self.body {
            Body::Empty => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Stream { len, .. } => *len,
        };
        let _ = write!(Text(output), "HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        output.extend_from_slice(&self.fields);
        // These two have no body by definition, and then no length either.
        if !matches!(self.status, 204 | 304) {
            let _ = write!(Text(output), "Content-Length: {len}\r\n");
        }
        output.extend_from_slice(if keep_alive {
            b"Connection: keep-alive\r\n\r\n"
        } else {
            b"Connection: close\r\n\r\n"
        });
    }
}

#[cfg(test)]
mod tests;
