//! WebSockets (RFC 6455): messages both ways over one request.
//!
//! The host does the handshake. What is left is the framing of messages.

mod frame;

use crate::request::{Request, Stream};
use crate::{Error, Link, Response};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use frame::{Head, MAX_HEAD, Opcode, close_code};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

/// Why a WebSocket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// All has been said.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The client broke the rules of frames.
    pub const PROTOCOL: CloseCode = CloseCode(1002);
    /// A text is not UTF-8.
    pub const NOT_UTF8: CloseCode = CloseCode(1007);
    /// A message is larger than the function takes.
    pub const TOO_LARGE: CloseCode = CloseCode(1009);
}

/// A WebSocket, by which a client and a handler send messages to each other.
///
/// ```ignore
/// let Some(mut socket) = request.websocket(64 << 10) else { return Response::status(426) };
/// while let Some(message) = socket.receive().await? {
///     socket.send(&message).await?;
/// }
/// socket.finish()
/// ```
pub struct WebSocket<'a, L: Link> {
    stream: Stream<'a, L>,
    /// Most bytes of a message.
    limit: usize,
    /// What has come of a message of several frames, and whether it is text.
    partial: Option<(bool, Vec<u8>)>,
    closed: bool,
}

impl<L: Link> fmt::Debug for WebSocket<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl<L: Link> Request<'_, L> {
    /// Goes on as a WebSocket whose messages have at most `limit` bytes, if the client has asked for one. Return what
    /// [`WebSocket::finish`] gives. Pings are answered while messages are received.
    pub fn websocket(&mut self, limit: usize) -> Option<WebSocket<'_, L>> {
        if !self.header("upgrade")?.eq_ignore_ascii_case("websocket") {
            return None;
        }
        let stream = self.stream(Response::switching());
        Some(WebSocket { stream, limit, partial: None, closed: false })
    }
}

impl<L: Link> WebSocket<'_, L> {
    /// The next message; `None` once the client has closed the WebSocket, has gone, or has broken its rules.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`]: the client is gone. [`Error::NoMemory`].
    pub async fn receive(&mut self) -> Result<Option<Message>, Error> {
        // The handler's first message may wait for the client's first one.
        self.stream.flush().await?;
        while !self.closed {
            match self.frame().await {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(Failed::Close(code)) => self.close(code).await?,
                Err(Failed::Gone) => self.closed = true,
                Err(Failed::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads a frame. `None`: it ends no message.
    async fn frame(&mut self) -> Result<Option<Message>, Failed> {
        let mut bytes = [0; MAX_HEAD];
        self.fill(&mut bytes[..2]).await?;
        let rest = frame::rest_of_head(&bytes);
        self.fill(&mut bytes[2..2 + rest]).await?;
        let head = Head::parse(&bytes).map_err(Failed::Close)?;
        if head.opcode.is_control() {
            return self.control(head).await;
        }
        let (text, mut message) = match (head.opcode, self.partial.take()) {
            (Opcode::Continuation, Some(partial)) => partial,
            (Opcode::Text, None) => (true, Vec::new()),
            (Opcode::Binary, None) => (false, Vec::new()),
            _ => return Err(Failed::Close(CloseCode::PROTOCOL)),
        };
        let start = message.len();
        let len = usize::try_from(head.len).ok().filter(|len| *len <= self.limit - start);
        let len = len.ok_or(Failed::Close(CloseCode::TOO_LARGE))?;
        message.try_reserve(len).map_err(|_| Failed::Error(Error::NoMemory))?;
        message.resize(start + len, 0);
        self.fill(&mut message[start..]).await?;
        head.unmask(&mut message[start..]);
        if !head.is_last {
            self.partial = Some((text, message));
            return Ok(None);
        }
        Ok(Some(match text {
            false => Message::Binary(message),
            true => {
                Message::Text(String::from_utf8(message).map_err(|_| Failed::Close(CloseCode::NOT_UTF8))?)
            }
        }))
    }

    /// Acts on a frame that is about the WebSocket itself.
    async fn control(&mut self, head: Head) -> Result<Option<Message>, Failed> {
        let mut bytes = [0; frame::MAX_CONTROL];
        let payload = &mut bytes[..head.len as usize];
        self.fill(payload).await?;
        head.unmask(payload);
        match head.opcode {
            Opcode::Close => return Err(Failed::Close(close_code(payload))),
            Opcode::Ping => self.put(Opcode::Pong, payload).await?,
            // Nobody has asked, or nobody waits.
            _ => {}
        }
        Ok(None)
    }

    /// Reads so many bytes.
    async fn fill(&mut self, mut bytes: &mut [u8]) -> Result<(), Failed> {
        while !bytes.is_empty() {
            match self.stream.read(bytes).await? {
                0 => return Err(Failed::Gone),
                count => bytes = &mut bytes[count..],
            }
        }
        Ok(())
    }

    async fn put(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Error> {
        let (head, len) = frame::head(opcode, payload.len());
        self.stream.write_all(&head[..len]).await?;
        self.stream.write_all(payload).await?;
        self.stream.flush().await
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn send(&mut self, message: &Message) -> Result<(), Error> {
        match message {
            Message::Text(text) => self.send_text(text).await,
            Message::Binary(bytes) => self.send_binary(bytes).await,
        }
    }

    /// Sends a text.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn send_text(&mut self, text: &str) -> Result<(), Error> {
        self.put(Opcode::Text, text.as_bytes()).await
    }

    /// Sends bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn send_binary(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.put(Opcode::Binary, bytes).await
    }

    /// Closes it: no message comes or goes after this.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn close(&mut self, code: CloseCode) -> Result<(), Error> {
        if !core::mem::replace(&mut self.closed, true) {
            self.put(Opcode::Close, &code.0.to_be_bytes()).await?;
        }
        Ok(())
    }

    /// The handler is done: return this.
    pub fn finish(self) -> Response {
        self.stream.finish()
    }
}

/// Why no message comes.
enum Failed {
    /// The client has ended the connection without a word.
    Gone,
    /// The WebSocket is to be closed.
    Close(CloseCode),
    /// Nothing goes any more.
    Error(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Error(error)
    }
}
