//! A call, as an operation sees it. Dropping it closes it.

use crate::{Channel, Error, Link};
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Context, Poll};
use hv_abi::io::services::{Answer, OPEN_MAX, Operation, Parameters, Status};
use zerocopy::IntoBytes;

pub(crate) struct Call<'a, L: Link> {
    channel: &'a Channel<L>,
    number: u32,
    /// Data that came and was taken in part.
    rest: Vec<u8>,
    rest_at: usize,
}

/// What a call is opened with.
#[derive(Clone, Copy, Default)]
pub(crate) struct Open<'a> {
    pub(crate) name: &'a str,
    pub(crate) key: &'a str,
    pub(crate) after: &'a str,
    pub(crate) condition: u16,
    pub(crate) first: u64,
    pub(crate) second: u64,
}

impl<'a, L: Link> Call<'a, L> {
    /// Begins a call. `finished`: the guest sends no data.
    pub(crate) fn open(
        channel: &'a Channel<L>,
        operation: Operation,
        open: Open<'_>,
        finished: bool,
    ) -> Result<Self, Error> {
        let Open { name, key, after, condition, first, second } = open;
        let longest = OPEN_MAX as usize - size_of::<Parameters>();
        if name.len() + key.len() + after.len() > longest {
            return Err(Error::Invalid("a name or a key is too long".into()));
        }
        let parameters = Parameters {
            name_len: name.len() as u16,
            key_len: key.len() as u16,
            after_len: after.len() as u16,
            condition,
            first,
            second,
        };
        let pieces = [parameters.as_bytes(), name.as_bytes(), key.as_bytes(), after.as_bytes()];
        let number = channel.with(|state| {
            let number = state.open(operation as u16, &pieces);
            if finished {
                state.finish(number);
            }
            number
        });
        Ok(Call { channel, number, rest: Vec::new(), rest_at: 0 })
    }

    /// Waits for the host's answer; or for the end without one, which is an error.
    pub(crate) async fn answer(&self) -> Result<Answer, Error> {
        poll_fn(|context| {
            self.channel.poll(context, |state| {
                let call = state.call(self.number)?;
                match (&call.answer, &call.end) {
                    (Some(answer), _) => Ok(Some(*answer)),
                    (None, Some((status, text))) => Err(Error::of(*status, text.clone())),
                    (None, None) => Ok(None),
                }
            })
        })
        .await
    }

    /// Waits until the host has ended the call.
    pub(crate) async fn end(&self) -> Result<(), Error> {
        poll_fn(|context| {
            self.channel.poll(context, |state| match &state.call(self.number)?.end {
                None => Ok(None),
                Some((status, _)) if *status == Status::Ok as u16 => Ok(Some(())),
                Some((status, text)) => Err(Error::of(*status, text.clone())),
            })
        })
        .await
    }

    /// The next frame of data; `None` at its end.
    pub(crate) fn poll_frame(&self, context: &Context<'_>) -> Poll<Result<Option<Vec<u8>>, Error>> {
        self.channel.poll(context, |state| {
            if let Some(frame) = state.take_data(self.number)? {
                return Ok(Some(Some(frame)));
            }
            match &state.call(self.number)?.end {
                None => Ok(None),
                Some((status, _)) if *status == Status::Ok as u16 => Ok(Some(None)),
                Some((status, text)) => Err(Error::of(*status, text.clone())),
            }
        })
    }

    /// Reads some of the data; 0 at its end.
    pub(crate) fn poll_read(
        &mut self,
        context: &Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<Result<usize, Error>> {
        while self.rest_at == self.rest.len() && !bytes.is_empty() {
            match self.poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(Some(frame))) => (self.rest, self.rest_at) = (frame, 0),
            }
        }
        let rest = &self.rest[self.rest_at..];
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        self.rest_at += count;
        Poll::Ready(Ok(count))
    }

    /// Reads some of the data; 0 at its end.
    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        poll_fn(|context| self.poll_read(context, bytes)).await
    }

    /// Reads all of the data, of which `size` bytes are expected.
    pub(crate) async fn read_to_vec(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let no_room = |_| Error::TooLarge("the heap has no room for it".into());
        bytes.try_reserve(usize::try_from(size).unwrap_or(usize::MAX)).map_err(no_room)?;
        while let Some(frame) = poll_fn(|context| self.poll_frame(context)).await? {
            bytes.try_reserve(frame.len()).map_err(no_room)?;
            bytes.extend_from_slice(&frame);
        }
        Ok(bytes)
    }

    /// Sends some of the bytes, of which there are some, and returns how many. `whole`: all of them in one frame.
    pub(crate) fn poll_write(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
        whole: bool,
    ) -> Poll<Result<usize, Error>> {
        self.channel.poll(context, |state| {
            if let Some((status, text)) = &state.call(self.number)?.end {
                return Err(match *status == Status::Ok as u16 {
                    true => Error::Failed("the other side has closed the connection".into()),
                    false => Error::of(*status, text.clone()),
                });
            }
            state.put_data(self.number, bytes, whole)
        })
    }

    /// Sends all of the bytes.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let count = poll_fn(|context| self.poll_write(context, bytes, false)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// There is no more data from the guest.
    pub(crate) fn finish(&self) {
        self.channel.with(|state| state.finish(self.number));
    }
}

impl<L: Link> Drop for Call<'_, L> {
    fn drop(&mut self) {
        self.channel.with(|state| state.close(self.number));
    }
}
