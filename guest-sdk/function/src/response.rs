//! Answers of handlers.

use crate::output::Output;
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use hv_abi::io::function::HEAD_MAX;
use hv_abi::ring::{SharedMemory, Violation};

/// The bytes of a response's body.
pub type Content = Cow<'static, [u8]>;

/// A body of so many bytes may not fit into the ring as a whole: its head says how long it is.
const LONG: usize = 2048;

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// An answer to a request.
#[derive(Debug)]
pub struct Response {
    status: u16,
    /// Empty for none, and when `fields` has one.
    content_type: &'static str,
    /// Header fields as they are sent.
    fields: Vec<u8>,
    /// Fields behind the body, as they are sent.
    pub(crate) trailers: Vec<u8>,
    pub(crate) content: Content,
    pub(crate) origin: Origin,
}

/// Where an answer comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// It is complete.
    Handler,
    /// It has been sent already, piece by piece.
    Stream,
    /// The handler failed, for this reason.
    Failure(String),
}

impl Response {
    /// An answer with this status and without a body.
    ///
    /// # Panics
    ///
    /// If the status is not that of an answer: 200 to 599.
    pub fn new(status: u16) -> Self {
        assert!((200..600).contains(&status), "{status} is not the status of an answer");
        Response {
            status,
            content_type: "",
            fields: Vec::new(),
            trailers: Vec::new(),
            content: Content::Borrowed(&[]),
            origin: Origin::Handler,
        }
    }

    /// An answer that says its status, in words for people as well.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn status(status: u16) -> Self {
        (status, format!("{status} {}\n", hv_guest_http::reason(status))).into_response()
    }

    /// An answer of JSON text.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn json(status: u16, text: impl Into<String>) -> Self {
        let content = Content::Owned(text.into().into_bytes());
        Response { content_type: "application/json", ..Response::new(status).body(content) }
    }

    /// The head with which a connection goes on with another protocol.
    pub(crate) fn switching() -> Self {
        Response { status: 101, ..Response::new(200) }
    }

    /// What a stream leaves to be done.
    pub(crate) fn streamed() -> Self {
        Response { origin: Origin::Stream, ..Response::new(200) }
    }

    /// Adds a header field. What cannot stand in its place is left out of name
    /// and value (control characters, say). The fields that frame or route a
    /// message on a connection have no effect: the host makes its own. `Content-Length` is the exception: a stream
    /// whose length is known may declare it, and then has to have it.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if name.eq_ignore_ascii_case("content-type") {
            self.content_type = "";
        }
        put_field(&mut self.fields, name, value);
        self
    }

    /// Adds a field behind the body, as gRPC has them (RFC 9110, section 6.5): sent over HTTP/2, and over HTTP/1.1
    /// to clients that ask for them (`TE: trailers`) if the answer names it in `Trailer`. All that is beyond 8 KiB is
    /// left out. Hosts before ABI 1.6 drop them.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        let before = self.trailers.len();
        put_field(&mut self.trailers, name, value);
        if self.trailers.len() > HEAD_MAX as usize / 2 {
            self.trailers.truncate(before);
        }
        self
    }

    /// Gives it a body: bytes that are there.
    pub fn body(mut self, content: impl Into<Content>) -> Self {
        self.content = content.into();
        self
    }

    /// As [`body`](Self::body), of this type.
    fn with(mut self, content_type: &'static str, content: Content) -> Self {
        self.content_type = content_type;
        self.content = content;
        self
    }

    /// Puts the head into the ring. One that is too long becomes a bare 500.
    pub(crate) fn begin<M: SharedMemory>(&self, output: &mut Output<M>) -> Result<(), Violation> {
        let digits =
            [self.status / 100, self.status / 10 % 10, self.status % 10].map(|digit| b'0' + digit as u8);
        let typed = !self.content_type.is_empty();
        // A shorter one comes in one piece, so that the host sees how long it is.
        let length = match self.content.len() {
            long @ LONG.. if !self.declares_length() => format!("Content-Length: {long}\r\n"),
            _ => String::new(),
        };
        let pieces: [&[u8]; 11] = [
            b"HTTP/1.1 ",
            &digits[..],
            b" ",
            hv_guest_http::reason(self.status).as_bytes(),
            b"\r\n",
            if typed { b"Content-Type: " } else { b"" },
            self.content_type.as_bytes(),
            if typed { b"\r\n" } else { b"" },
            length.as_bytes(),
            &self.fields,
            b"\r\n",
        ];
        if self.fields.len() > HEAD_MAX as usize - 256 {
            log::error!("an answer with {} bytes of header fields was not sent", self.fields.len());
            return output.head([&b"HTTP/1.1 500 Internal Server Error\r\n\r\n"[..]].into_iter());
        }
        output.head(pieces.into_iter())
    }

    /// Whether the handler has set `Content-Length`.
    fn declares_length(&self) -> bool {
        let name = b"content-length:";
        self.fields
            .split(|byte| *byte == b'\n')
            .any(|line| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
    }
}

/// Adds a line of a head, without what cannot stand there.
fn put_field(fields: &mut Vec<u8>, name: &str, value: &str) {
    fields.extend(name.bytes().filter(|byte| is_token(*byte)));
    fields.extend_from_slice(b": ");
    fields.extend(value.bytes().filter(|byte| *byte == b'\t' || !byte.is_ascii_control()));
    fields.extend_from_slice(b"\r\n");
}

/// Whether a byte may be in a field's name.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a handler may return.
pub trait IntoResponse {
    /// The answer that it stands for.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

/// 204, nothing to say.
impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::new(204)
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        Response::new(200).with(TEXT, Content::Borrowed(self.as_bytes()))
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::new(200).with(TEXT, Content::Owned(self.into_bytes()))
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        Response::new(200).with(BINARY, Content::Owned(self))
    }
}

impl IntoResponse for &'static [u8] {
    fn into_response(self) -> Response {
        Response::new(200).with(BINARY, Content::Borrowed(self))
    }
}

/// With another status, from 200 to 599; others panic.
impl<T: IntoResponse> IntoResponse for (u16, T) {
    fn into_response(self) -> Response {
        let (status, answer) = self;
        Response { status: Response::new(status).status, ..answer.into_response() }
    }
}

/// An error is a 500. What it says goes to the console, not to who asked.
impl<T: IntoResponse, E: Display> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(answer) => answer.into_response(),
            Err(error) => Response { origin: Origin::Failure(error.to_string()), ..Response::status(500) },
        }
    }
}
