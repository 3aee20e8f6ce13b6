//! A function that asks an HTTP server elsewhere, and passes its answer on: the status line as `X-Origin`, the rest as the body.
//!
//! ```text
//! # hv.toml
//! [function.proxy]
//! path = "/proxy"
//! image = "fn-proxy"
//! args = "127.0.0.1:8000"
//! net = "tcp:127.0.0.1:8000"
//! ```
//!
//! ```text
//! curl http://127.0.0.1:8080/proxy
//! ```
#![no_std]
#![no_main]

use hv_guest::embedded_io_async::{Read, Write};
use hv_guest::function::{self, Request, Response, ServeError};
use hv_guest::prelude::*;
use hv_guest::services::{Error, TcpStream};

/// Most bytes that are passed on.
const MOST: usize = 1 << 20;

#[hv_guest::entry]
async fn main() -> Result<(), ServeError> {
    function::serve(async |request: Request<'_>| {
        let origin = env::args().nth(1).unwrap_or("127.0.0.1:8000");
        let target = request.query().unwrap_or("/");
        ask(origin, target).await.map(|(status, body)| match status {
            Some(status) => Response::new(200).header("X-Origin", &status).body(body),
            None => Response::status(502),
        })
    })
    .await
}

/// The status line and the body of the answer to a GET.
async fn ask(origin: &str, target: &str) -> Result<(Option<String>, Vec<u8>), Error> {
    let mut stream = TcpStream::connect(origin).await?;
    let head = format!("GET {target} HTTP/1.0\r\nHost: {origin}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while answer.len() < MOST {
        match stream.read(&mut piece).await? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok((None, answer));
    };
    let head = core::str::from_utf8(&answer[..end]).unwrap_or_default();
    let status = head.lines().next().map(ToOwned::to_owned);
    Ok((status, answer.split_off(end + 4)))
}
