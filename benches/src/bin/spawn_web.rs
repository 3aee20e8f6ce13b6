//! A server that answers each request with what a freshly spawned program prints:
//! the floor that `hv serve` is compared with.
//!
//! `spawn_web PROGRAM` listens on a free port of the loopback interface. The
//! program is started the fastest way that there is, by `posix_spawn`.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::process::Command;

async fn answer(program: Arc<str>) -> io::Result<Response<Full<Bytes>>> {
    let output = Command::new(&*program).stdin(Stdio::null()).output().await?;
    let mut response = Response::new(Full::new(output.stdout.into()));
    *response.status_mut() =
        if output.status.success() { 200 } else { 502 }.try_into().map_err(io::Error::other)?;
    Ok(response)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let program: Arc<str> = std::env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?.into();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("spawn_web: listening on port {}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let program = program.clone();
        tokio::spawn(async move {
            let service = service_fn(|_: Request<Incoming>| answer(program.clone()));
            // An error is the client's going away.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
