//! Requests, as handlers see them.

use crate::head::Head;
use crate::input::Input;
use crate::output::Output;
use crate::{Error, Link, Response};
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use embedded_io_async::{ErrorType, Read, Write};

/// A request: its head is here, its body comes as it is read.
pub struct Request<'a, L: Link> {
    pub(crate) head: Head<'a>,
    pub(crate) body: Body<'a, L>,
    pub(crate) output: &'a mut Output<L::Memory>,
}

impl<L: Link> fmt::Debug for Request<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head.fmt(f)
    }
}

impl<'a, L: Link> Request<'a, L> {
    /// Its method: `GET`, say.
    pub fn method(&self) -> &'a str {
        self.head.method
    }

    /// What is asked for, as it was sent: path and query.
    pub fn target(&self) -> &'a str {
        self.head.target
    }

    /// The path as it was sent, percent-encoding and all, without the query.
    pub fn path(&self) -> &'a str {
        self.head.target.split(['?', '#']).next().unwrap_or_default()
    }

    /// What follows the `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.head.target.split_once('?').map(|(_, query)| query)
    }

    /// The value of a parameter of the query (`name=value&…`), decoded: `+` is
    /// a space, percent-encoding is undone. Of several of this name the first.
    /// `None` if there is none, or if it is not encoded properly.
    pub fn param(&self, name: &str) -> Option<Cow<'a, str>> {
        let pairs = self.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
        if !value.contains(['%', '+']) {
            return Some(Cow::Borrowed(value));
        }
        hv_guest_http::decode(&value.replace('+', " ")).map(Cow::Owned)
    }

    /// The value of a header field, if it is there and is text. Upper and lower case are the same.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.headers().find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        core::str::from_utf8(value).ok()
    }

    /// Names and values of all header fields, as they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a, L> {
        self.head.fields()
    }

    /// Its body.
    pub fn body(&mut self) -> &mut Body<'a, L> {
        &mut self.body
    }

    /// Reads some of the body, at least a byte; 0 at its end.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`]: nobody waits for the answer any more.
    pub async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        self.body.read(bytes).await
    }

    /// Reads the whole body, at most `limit` bytes of it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`], [`Error::NoMemory`], and as [`read`](Self::read).
    pub async fn read_to_vec(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        self.body.read_to_vec(limit).await
    }

    /// Begins the answer with status and header fields of `response`, whose
    /// body is left out: it is written into the stream, while what is left of
    /// the request's body can be read from it. Return what [`Stream::finish`] gives.
    ///
    /// From here on an error cannot become a status: a handler that returns one
    /// ends [`serve`](crate::serve()).
    pub fn stream(&mut self, response: Response) -> Stream<'_, L> {
        // If the host broke the ring, the next write says so as well.
        let _ = response.begin(self.output);
        let link = self.body.link;
        Stream { body: Body { link, input: self.body.input }, writer: Writer { link, output: self.output } }
    }
}

/// The body of a request.
pub struct Body<'a, L: Link> {
    pub(crate) link: &'a L,
    pub(crate) input: &'a mut Input<L::Memory>,
}

impl<L: Link> Body<'_, L> {
    /// As [`Request::read`].
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`]: nobody waits for the answer any more.
    pub async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        poll_fn(|context| self.input.poll_read(self.link, context, bytes)).await
    }

    /// As [`Request::read_to_vec`].
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`], [`Error::NoMemory`], and as [`read`](Self::read).
    pub async fn read_to_vec(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        loop {
            let frame = poll_fn(|context| self.input.poll_frame(self.link, context)).await?;
            if frame == 0 {
                return Ok(bytes);
            }
            let (start, end) = (bytes.len(), bytes.len() + frame as usize);
            if end > limit {
                return Err(Error::TooLong);
            }
            bytes.try_reserve(frame as usize).map_err(|_| Error::NoMemory)?;
            bytes.resize(end, 0);
            let mut have = start;
            while have < end {
                have += self.read(&mut bytes[have..]).await?;
            }
        }
    }
}

impl<L: Link> fmt::Debug for Body<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

/// The body of an answer, written piece by piece.
pub struct Writer<'a, L: Link> {
    link: &'a L,
    output: &'a mut Output<L::Memory>,
}

impl<L: Link> Writer<'_, L> {
    /// Sends some bytes, at least one unless there are none, and returns their
    /// number. Waits while the ring is full. A write that is dropped before it
    /// has ended sent nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let count = poll_fn(|context| self.output.poll_write(self.link, context, bytes)).await?;
        if self.output.publish() {
            self.link.ring_soon();
        }
        Ok(count)
    }

    /// Sends all the bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            bytes = &bytes[self.write(bytes).await?..];
        }
        Ok(())
    }

    /// Shows the host what was written, the head included, at once instead of
    /// when the handler waits for something.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|context| self.output.poll_unsent(self.link, context)).await?;
        if self.output.publish() {
            self.link.ring_soon();
        }
        self.link.flush();
        Ok(())
    }
}

impl<L: Link> fmt::Debug for Writer<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// An answer that has begun, beside what is left of its request. See [`Request::stream`].
#[derive(Debug)]
pub struct Stream<'a, L: Link> {
    body: Body<'a, L>,
    writer: Writer<'a, L>,
}

impl<'a, L: Link> Stream<'a, L> {
    /// As [`Request::read`].
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`]: nobody waits for the answer any more.
    pub async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        self.body.read(bytes).await
    }

    /// As [`Writer::write`].
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.writer.write(bytes).await
    }

    /// Sends all the bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.write_all(bytes).await
    }

    /// As [`Writer::flush`].
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().await
    }

    /// Both directions apart, for reading and writing at the same time.
    pub fn split(&mut self) -> (&mut Body<'a, L>, &mut Writer<'a, L>) {
        (&mut self.body, &mut self.writer)
    }

    /// The answer is complete: return this, with [`trailers`](Response::trailer) if there are some.
    pub fn finish(self) -> Response {
        Response::streamed()
    }
}

impl<L: Link> ErrorType for Request<'_, L> {
    type Error = Error;
}

impl<L: Link> Read for Request<'_, L> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        self.body.read(bytes).await
    }
}

impl<L: Link> ErrorType for Body<'_, L> {
    type Error = Error;
}

impl<L: Link> Read for Body<'_, L> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        Body::read(self, bytes).await
    }
}

impl<L: Link> ErrorType for Writer<'_, L> {
    type Error = Error;
}

impl<L: Link> Write for Writer<'_, L> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        Writer::write(self, bytes).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        Writer::flush(self).await
    }
}

impl<L: Link> ErrorType for Stream<'_, L> {
    type Error = Error;
}

impl<L: Link> Read for Stream<'_, L> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        self.body.read(bytes).await
    }
}

impl<L: Link> Write for Stream<'_, L> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.writer.write(bytes).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().await
    }
}
