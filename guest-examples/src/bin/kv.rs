//! A key-value server that speaks the protocol of Redis.
//!
//! ```text
//! hv run kv --publish 6379:6379 --memory 64M
//! redis-cli -p 6379 SET greeting hello
//! redis-benchmark -p 6379 -t set,get -P 16 -n 200000
//! ```
//!
//! Network and connections are on the first virtual CPU. With more of them, commands that arrive together are executed on any.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use hv_guest::budget::Budget;
use hv_guest::embedded_io_async::Write;
use hv_guest::net::{self, Serve, TcpSocket};
use hv_guest::prelude::*;
use hv_guest::sync::Mutex;
use hv_guest::{cpu, time};
use hv_guest_examples::kv::{Parsed, Store, execute, parse};

const PORT: u16 = 6379;
/// Most bytes of a command, and of replies that wait to be written.
const MAX_INPUT: usize = 1 << 20;
const MAX_OUTPUT: usize = 8 << 10;
/// Bytes of a connection's input that it does not have to ask for.
const INPUT: usize = 16 << 10;
/// Bytes of commands that are worth another virtual CPU: waking one takes as long as executing some hundred commands.
const SPREAD: usize = 4 << 10;

#[hv_guest::entry]
async fn main(spawner: hv_guest::Spawner) -> Result<(), net::Error> {
    let store = Arc::new(Mutex::new(Store::new(hv_guest::heap_size() / 4)));
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

/// Why the commands that have arrived are not executed any further.
enum Stop {
    /// So many bytes of a command that is not complete are left.
    Incomplete(usize),
    /// The replies have to be written first.
    Full,
    /// The connection ends.
    End,
}

/// What has arrived on a connection, and the replies to it.
#[derive(Default)]
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Buffers {
    /// Executes commands, and removes them from the input.
    fn execute(&mut self, store: &Mutex<Store>) -> Stop {
        let mut used = 0;
        let stop = loop {
            if self.output.len() >= MAX_OUTPUT {
                break Stop::Full;
            }
            match parse(&self.input[used..]) {
                Parsed::Command(arguments, len) => {
                    let now = time::now_nanos() / 1_000_000;
                    // Each command holds the lock alone: a connection with very many does not keep the others waiting.
                    let go_on = execute(&mut store.lock(), &arguments, now, &mut self.output);
                    used += len;
                    if !go_on {
                        break Stop::End;
                    }
                }
                Parsed::Incomplete => break Stop::Incomplete(self.input.len() - used),
                Parsed::Wrong(what) => {
                    self.output.extend_from_slice(format!("-ERR Protocol error: {what}\r\n").as_bytes());
                    break Stop::End;
                }
            }
        };
        self.input.drain(..used);
        stop
    }
}

/// Executes commands: few on this virtual CPU, many on one that has nothing else to do.
async fn execute_anywhere(buffers: &mut Buffers, store: &Arc<Mutex<Store>>) -> Stop {
    if cpu::count() == 1 || buffers.input.len() < SPREAD {
        return buffers.execute(store);
    }
    let (mut moved, store) = (core::mem::take(buffers), store.clone());
    let task = cpu::spawn_any(async move {
        let stop = moved.execute(&store);
        (moved, stop)
    });
    let (moved, stop) = task.await;
    *buffers = moved;
    stop
}

async fn connection(
    socket: &mut TcpSocket<'_>,
    store: &Arc<Mutex<Store>>,
    budget: &Budget,
) -> Result<(), net::TcpError> {
    let mut share = budget.share();
    let mut buffers = Buffers::default();
    loop {
        let go_on = match execute_anywhere(&mut buffers, store).await {
            Stop::Full => {
                // A long reply, to a client that may never take it.
                let output = &mut buffers.output;
                let mut long = budget.share();
                if output.len() > 2 * MAX_OUTPUT && !long.grow(output.capacity()) {
                    return Ok(());
                }
                socket.write_all(output).await?;
                output.clear();
                output.shrink_to(2 * MAX_OUTPUT);
                continue;
            }
            // A vector that grows is twice as large as what is in it, at most.
            Stop::Incomplete(len) => len <= INPUT || len <= MAX_INPUT && share.grow(2 * len),
            Stop::End => false,
        };
        // The replies to everything that arrived together leave together.
        socket.write_all(&buffers.output).await?;
        buffers.output.clear();
        if !go_on {
            return Ok(());
        }
        let read = socket.read_with(|bytes| {
            buffers.input.extend_from_slice(bytes);
            (bytes.len(), bytes.len())
        });
        if read.await? == 0 {
            return Ok(());
        }
    }
}
