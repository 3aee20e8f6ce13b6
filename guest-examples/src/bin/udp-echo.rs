//! Sends every UDP datagram back to where it came from.
//!
//! ```text
//! hv run udp-echo --publish 7007:7/udp
//! echo hello | nc -u -w1 127.0.0.1 7007
//! ```
#![no_std]
#![no_main]

use hv_guest::embassy_futures::select::select;
use hv_guest::net;
use hv_guest::prelude::*;

const PORT: u16 = 7;

#[hv_guest::entry]
async fn main(spawner: hv_guest::Spawner) -> Result<(), net::Error> {
    let stack = net::up(spawner).await?;
    let socket = net::udp(stack, PORT, 256 << 10, 64)?;
    println!("udp-echo on port {PORT}");
    let mut datagram = vec![0; 64 << 10];
    let echo = async {
        loop {
            let Ok((len, from)) = socket.recv_from(&mut datagram).await else { continue };
            // The only error is an address that nobody can be reached at.
            let _ = socket.send_to(&datagram[..len], from).await;
        }
    };
    select(echo, hv_guest::shutdown()).await;
    Ok(())
}
