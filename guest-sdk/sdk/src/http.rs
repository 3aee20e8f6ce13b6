//! An HTTP/1.1 server on the network.
//!
//! ```ignore
//! let stack = net::up(spawner).await?;
//! http::serve(stack, 80, Serve::default(), async |request: &Request<'_>| match request.path() {
//!     "/" => Response::text(200, "hello"),
//!     _ => Response::status(404),
//! })?;
//! ```
//!
//! Requests, responses and connections are those of [`hv_guest_http`]. This module connects them to the network, the disk
//! and the memory of a guest.
#![forbid(unsafe_code)]

pub use hv_guest_http::*;

use crate::budget::{self, Budget};
use crate::net::{self, Serve, Stack, TcpSocket};
use crate::start_info::heap_size;

/// Serves HTTP on a TCP port: `handler` answers each request. Returns at once.
///
/// Large requests and streamed bodies take at most 1/8 of the heap in total.
///
/// # Errors
///
/// As [`net::serve`].
#[track_caller]
pub fn serve<H>(stack: Stack<'static>, port: u16, how: Serve, handler: H) -> Result<(), net::Error>
where
    H: AsyncFn(&Request<'_>) -> Response + 'static,
{
    let budget = Budget::new(heap_size() / 8);
    net::serve(stack, port, how, async move |socket: &mut TcpSocket<'_>| {
        match hv_guest_http::connection(socket, &handler, &budget).await {
            // The head has promised more bytes. If the connection were closed normally, the peer could take the answer for complete.
            Err(Error::Source) => {
                log::error!("http: a body ended before its length, so its connection is reset");
                socket.abort();
            }
            // The peer has gone, so there is nothing to report.
            Err(Error::Socket(_)) | Ok(()) => {}
        }
    })
}

impl Memory for Budget {
    type Share<'a> = budget::Share<'a>;

    fn left(&self) -> usize {
        Budget::left(self)
    }

    fn share(&self) -> budget::Share<'_> {
        Budget::share(self)
    }
}

impl Share for budget::Share<'_> {
    fn grow(&mut self, bytes: usize) -> bool {
        budget::Share::grow(self, bytes)
    }
}

#[cfg(feature = "fs")]
mod files {
    use super::{Entry, File, Root, Source};
    use crate::fs::{self, AsyncFileSystem, Error};
    use alloc::boxed::Box;
    use alloc::vec::Vec;
    use core::future::Future;
    use core::pin::Pin;

    impl Root for AsyncFileSystem {
        type File = fs::File;
        type Error = Error;

        fn is_absent(error: &Error) -> bool {
            matches!(error, Error::NotFound | Error::NotAFolder | Error::IsAFolder)
        }

        async fn is_folder(&self, path: &str) -> Result<bool, Error> {
            Ok(self.metadata(path).await?.is_dir)
        }

        async fn list(&self, path: &str) -> Result<Vec<Entry>, Error> {
            let entry =
                |fs::Entry { name, metadata }| Entry { name, is_folder: metadata.is_dir, size: metadata.len };
            Ok(self.read_dir(path).await?.into_iter().map(entry).collect())
        }

        async fn open(&self, path: &str) -> Result<fs::File, Error> {
            AsyncFileSystem::open(self, path).await
        }

        async fn read(&self, file: &mut fs::File, bytes: &mut [u8]) -> Result<(), Error> {
            file.read_exact_at(0, bytes).await
        }
    }

    impl File for fs::File {
        fn size(&self) -> u64 {
            self.len()
        }

        fn seek(&mut self, offset: u64) {
            // Every place from the beginning on is one.
            let _ = fs::File::seek(self, fs::SeekFrom::Start(offset));
        }
    }

    impl Source for fs::File {
        fn read<'a>(&'a mut self, buffer: &'a mut [u8]) -> Pin<Box<dyn Future<Output = Option<usize>> + 'a>> {
            Box::pin(async move {
                let read = fs::File::read(self, buffer).await;
                read.inspect_err(|error| log::error!("a file that is being sent: {error}")).ok()
            })
        }
    }
}
