//! What the guests `web` and `stream` do, as a process of the host: serves the
//! files of a folder from memory, and bodies of any length, on a free port.

extern crate alloc;

use hv_benches::host_http::{InMemory, serve};
use hv_guest_http::{self as http, Files, Request};
use std::io;
use std::net::TcpListener;

/// The very code that the guest runs.
#[path = "../../../tests/guests/src/stream.rs"]
mod stream;

/// Bytes of files that are kept, as in a guest with 64 MiB.
const CACHE: usize = 8 << 20;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: host_web FOLDER"))?;
    let root = InMemory::read(folder.as_ref())?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("host_web: listening on port {}", listener.local_addr()?.port());
    serve(&listener, move || {
        let files = Files::new(root.clone(), CACHE);
        async move |request: &Request<'_>| {
            if request.path().starts_with(stream::PATH) {
                stream::respond(request)
            } else {
                files.respond(request).await
            }
        }
    })
}
