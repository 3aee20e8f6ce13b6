//! A key-value server that speaks the protocol of Redis.
//!
//! ```text
//! hv run kv --publish 6379:6379 --memory 64M
//! redis-cli -p 6379 SET greeting hello
//! redis-benchmark -p 6379 -t set,get -P 16 -n 200000
//! ```
#![no_std]
#![no_main]

use core::cell::RefCell;
use hv_guest::budget::Budget;
use hv_guest::embedded_io_async::Write;
use hv_guest::net::{self, Serve, TcpSocket};
use hv_guest::prelude::*;
use hv_guest::time;
use hv_guest_examples::kv::{Parsed, Store, execute, parse};

const PORT: u16 = 6379;
/// Most bytes of a command, and of replies that wait to be written.
const MAX_INPUT: usize = 1 << 20;
const MAX_OUTPUT: usize = 8 << 10;
/// Bytes of a connection's input that it does not have to ask for.
const INPUT: usize = 16 << 10;

#[hv_guest::entry]
async fn main(spawner: hv_guest::Spawner) -> Result<(), net::Error> {
    let store = RefCell::new(Store::new(hv_guest::heap_size() / 4));
    let budget = Budget::new(hv_guest::heap_size() / 8);
    let stack = net::up(spawner).await?;
    // Clients of Redis keep connections without a word for as long as they like.
    let serve = Serve { receive_buffer: 8 << 10, idle_timeout: None, ..Serve::default() };
    net::serve(stack, PORT, serve, async move |socket: &mut TcpSocket<'_>| {
        // The other side is gone, and so is whoever could be told.
        let _ = connection(socket, &store, &budget).await;
    })?;
    println!("kv: listening on port {PORT}");
    hv_guest::ready();
    hv_guest::shutdown().await;
    Ok(())
}

async fn connection(
    socket: &mut TcpSocket<'_>,
    store: &RefCell<Store>,
    budget: &Budget,
) -> Result<(), net::TcpError> {
    let mut share = budget.share();
    let mut input = Vec::new();
    let mut output = Vec::new();
    loop {
        let mut used = 0;
        let go_on = loop {
            match parse(&input[used..]) {
                Parsed::Command(arguments, len) => {
                    let now = time::now_nanos() / 1_000_000;
                    let go_on = execute(&mut store.borrow_mut(), &arguments, now, &mut output);
                    used += len;
                    if !go_on {
                        break false;
                    }
                }
                Parsed::Incomplete => {
                    // A vector that grows is twice as large as what is in it, at most.
                    let len = input.len() - used;
                    break len <= INPUT || len <= MAX_INPUT && share.grow(2 * len);
                }
                Parsed::Wrong(what) => {
                    output.extend_from_slice(format!("-ERR Protocol error: {what}\r\n").as_bytes());
                    break false;
                }
            }
            if output.len() >= MAX_OUTPUT {
                // A long reply, to a client that may never take it.
                let mut long = budget.share();
                if output.len() > 2 * MAX_OUTPUT && !long.grow(output.capacity()) {
                    return Ok(());
                }
                socket.write_all(&output).await?;
                output.clear();
                output.shrink_to(2 * MAX_OUTPUT);
            }
        };
        // The replies to everything that arrived together leave together.
        socket.write_all(&output).await?;
        output.clear();
        if !go_on {
            return Ok(());
        }
        input.drain(..used);
        let read = socket.read_with(|bytes| {
            input.extend_from_slice(bytes);
            (bytes.len(), bytes.len())
        });
        if read.await? == 0 {
            return Ok(());
        }
    }
}
