//! Talking to a server of the host.

use super::block::all;
use crate::meter::{Meter, failed, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use hv_guest::embassy_net::Stack;
use hv_guest::embedded_io_async::Write;
use hv_guest::net::{self, IpEndpoint, Ipv4Address, TcpError, TcpSocket};
use hv_guest::{block_on, executor};

/// Where the guest's network shows the host's loopback address.
const HOST: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
pub(super) const CHUNK: usize = 64 << 10;

type Outcome = Result<(), TcpError>;

/// Brings up a network.
pub(super) type Up = fn() -> Result<Stack<'static>, String>;

fn up() -> Result<Stack<'static>, String> {
    block_on(net::up(executor::spawner())).map_err(|error| failed("the network", error))
}

/// Connects to the server over a network, and measures with `operate` what is done on the connection.
fn connected(
    meter: &mut Meter,
    up: Up,
    operate: impl AsyncFn(&mut TcpSocket<'_>) -> Outcome,
    finish: impl AsyncFn(&mut TcpSocket<'_>) -> Outcome,
) -> Result<(), String> {
    let server = IpEndpoint::new(HOST.into(), meter.port());
    let stack = up()?;
    let (mut receive, mut send) = (vec![0; 2 * CHUNK], vec![0; 2 * CHUNK]);
    let mut socket = TcpSocket::new(stack, &mut receive, &mut send);
    socket.set_nagle_enabled(false);
    block_on(socket.connect(server)).map_err(|error| failed("connecting", error))?;
    meter
        .phases(|count, recorder| {
            block_on(async {
                for _ in 0..count {
                    let start = tsc();
                    operate(&mut socket).await?;
                    recorder.record(tsc() - start);
                }
                finish(&mut socket).await
            })
        })
        .map_err(|error| failed("the connection", error))
}

async fn fill(socket: &mut TcpSocket<'_>, mut bytes: &mut [u8]) -> Outcome {
    while !bytes.is_empty() {
        match socket.read(bytes).await? {
            0 => return Err(TcpError::ConnectionReset),
            count => bytes = &mut bytes[count..],
        }
    }
    Ok(())
}

/// Sends `SIZE` bytes, and waits for as many.
pub(super) fn round_trip<const SIZE: usize>(meter: &mut Meter, up: Up) -> Result<(), String> {
    let spare = Cell::new(vec![b'x'; SIZE]);
    let there_and_back = async |socket: &mut TcpSocket<'_>| {
        let mut bytes = spare.take();
        socket.write_all(&bytes).await?;
        fill(socket, &mut bytes).await?;
        spare.set(bytes);
        Ok(())
    };
    connected(meter, up, there_and_back, async |_: &mut TcpSocket<'_>| Ok(()))
}

/// Sends 64 KiB.
pub(super) fn stream(meter: &mut Meter, up: Up) -> Result<(), String> {
    let chunk = vec![b'x'; CHUNK];
    let send = async |socket: &mut TcpSocket<'_>| socket.write_all(&chunk).await;
    // The last chunk counts once the other side has it.
    connected(meter, up, send, async |socket: &mut TcpSocket<'_>| socket.flush().await)
}

/// Receives 64 KiB.
pub(super) fn receive(meter: &mut Meter, up: Up) -> Result<(), String> {
    let spare = Cell::new(vec![0; CHUNK]);
    let take = async |socket: &mut TcpSocket<'_>| {
        let mut chunk = spare.take();
        fill(socket, &mut chunk).await?;
        spare.set(chunk);
        Ok(())
    };
    connected(meter, up, take, async |_: &mut TcpSocket<'_>| Ok(()))
}

const STREAMS: usize = 4;

/// Sends by several connections at a time, 64 KiB by each in turn.
fn streams(meter: &mut Meter) -> Result<(), String> {
    let server = IpEndpoint::new(HOST.into(), meter.port());
    let stack = up()?;
    let chunk = vec![b'x'; CHUNK];
    let mut buffers: Vec<_> = (0..STREAMS).map(|_| (vec![0; CHUNK], vec![0; 2 * CHUNK])).collect();
    let mut sockets = Vec::new();
    for (receive, send) in &mut buffers {
        let mut socket = TcpSocket::new(stack, receive, send);
        socket.set_nagle_enabled(false);
        block_on(socket.connect(server)).map_err(|error| failed("connecting", error))?;
        sockets.push(socket);
    }
    meter
        .phases(|count, recorder| {
            let (next, recorder) = (Cell::new(0), RefCell::new(recorder));
            let senders = sockets.iter_mut().map(|socket| {
                let (next, recorder, chunk) = (&next, &recorder, &chunk);
                async move {
                    while next.get() < count {
                        next.set(next.get() + 1);
                        let start = tsc();
                        socket.write_all(chunk).await?;
                        recorder.borrow_mut().record(tsc() - start);
                    }
                    socket.flush().await
                }
            });
            block_on(all(senders.collect()))
        })
        .map_err(|error: TcpError| failed("a connection", error))
}

pub(super) const fn operation(
    name: &'static str,
    against: Option<&'static str>,
    rig: Rig,
    bytes: usize,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    Operation { name, group: "net", against, rig, bytes: bytes as u64, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "net-round-trip",
        Some("virtio-round-trip"),
        Rig::Echo,
        0,
        "A byte by TCP to a server of the host, and back.",
        |meter| round_trip::<1>(meter, up),
    ),
    operation(
        "net-round-trip-16k",
        Some("net-round-trip"),
        Rig::Echo,
        0,
        "16 KiB by TCP to a server of the host, and back.",
        |meter| round_trip::<16384>(meter, up),
    ),
    operation(
        "net-stream",
        Some("virtio-stream"),
        Rig::Sink,
        CHUNK,
        "64 KiB by TCP to a server of the host, one after another.",
        |meter| stream(meter, up),
    ),
    operation(
        "net-streams-4",
        Some("net-stream"),
        Rig::Sink,
        CHUNK,
        "64 KiB by TCP to a server of the host, by four connections at a time.",
        streams,
    ),
    operation(
        "net-receive",
        Some("virtio-receive"),
        Rig::Source,
        CHUNK,
        "64 KiB by TCP from a server of the host, one after another.",
        |meter| receive(meter, up),
    ),
];
