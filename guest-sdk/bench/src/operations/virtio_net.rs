//! Talking to the same server through virtio-mmio.

use super::net::{CHUNK, HOST, there_and_back};
use crate::hardware::net;
use crate::meter::{Meter, failed, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;
use hv_guest::block_on;
use hv_guest::embedded_io_async::Write;
use hv_guest::net::{IpEndpoint, TcpError, TcpSocket};

/// As `connected` of the paravirtual network: only what is below the stack differs.
fn connected(
    meter: &mut Meter,
    operate: impl AsyncFn(&mut TcpSocket<'_>) -> Result<(), TcpError>,
    finish: impl AsyncFn(&mut TcpSocket<'_>) -> Result<(), TcpError>,
) -> Result<(), String> {
    let server = IpEndpoint::new(HOST.into(), meter.port());
    let stack = net::up()?;
    let (mut receive, mut send) = (vec![0; CHUNK], vec![0; 2 * CHUNK]);
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

fn round_trip(meter: &mut Meter) -> Result<(), String> {
    connected(meter, there_and_back, async |_: &mut TcpSocket<'_>| Ok(()))
}

fn stream(meter: &mut Meter) -> Result<(), String> {
    let chunk = vec![b'x'; CHUNK];
    let send = async |socket: &mut TcpSocket<'_>| socket.write_all(&chunk).await;
    connected(meter, send, async |socket: &mut TcpSocket<'_>| socket.flush().await)
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "virtio-round-trip",
        group: "net",
        against: None,
        rig: Rig::VirtioEcho,
        bytes: 0,
        curve: None,
        what: "A byte by TCP to the same server through virtio-mmio, and back.",
        run: round_trip,
    },
    Operation {
        name: "virtio-stream",
        group: "net",
        against: None,
        rig: Rig::VirtioSink,
        bytes: CHUNK as u64,
        curve: None,
        what: "64 KiB by TCP to the same server through virtio-mmio, one after another.",
        run: stream,
    },
];
