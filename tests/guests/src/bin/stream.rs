//! Serves bodies of any length over HTTP: one TCP stream, as fast as it goes.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../stream.rs"]
mod stream;

use hv_guest::http::{self, Request};
use hv_guest::net::{self, Serve};
use hv_guest::prelude::*;

const PORT: u16 = 80;

#[hv_guest::entry]
async fn main(spawner: hv_guest::Spawner) -> Result<(), String> {
    let stack = net::up(spawner).await.map_err(|error| error.to_string())?;
    let serve = Serve { connections: 4, send_buffer: 512 << 10, ..Serve::default() };
    http::serve(stack, PORT, serve, async |request: &Request<'_>| stream::respond(request))
        .map_err(|error| error.to_string())?;
    println!("stream: listening on port {PORT}");
    hv_guest::shutdown().await;
    Ok(())
}
