//! Talking to a server of the host.

use crate::meter::{Meter, failed, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;
use hv_guest::embedded_io_async::Write;
use hv_guest::net::{self, IpEndpoint, Ipv4Address, TcpError, TcpSocket};
use hv_guest::{block_on, executor};

/// Where the guest's network shows the host's loopback address.
pub(super) const HOST: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
pub(super) const CHUNK: usize = 64 << 10;

/// Connects to the server, and measures with `operate` what is done on the connection.
fn connected(
    meter: &mut Meter,
    operate: impl AsyncFn(&mut TcpSocket<'_>) -> Result<(), TcpError>,
    finish: impl AsyncFn(&mut TcpSocket<'_>) -> Result<(), TcpError>,
) -> Result<(), String> {
    let server = IpEndpoint::new(HOST.into(), meter.port());
    let stack = block_on(net::up(executor::spawner())).map_err(|error| failed("the network", error))?;
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

/// Sends a byte, and waits for one.
pub(super) async fn there_and_back(socket: &mut TcpSocket<'_>) -> Result<(), TcpError> {
    let mut byte = [b'x'];
    socket.write_all(&byte).await?;
    match socket.read(&mut byte).await? {
        0 => Err(TcpError::ConnectionReset),
        _ => Ok(()),
    }
}

fn round_trip(meter: &mut Meter) -> Result<(), String> {
    connected(meter, there_and_back, async |_: &mut TcpSocket<'_>| Ok(()))
}

fn stream(meter: &mut Meter) -> Result<(), String> {
    let chunk = vec![b'x'; CHUNK];
    let send = async |socket: &mut TcpSocket<'_>| socket.write_all(&chunk).await;
    // The last chunk counts once the other side has it.
    connected(meter, send, async |socket: &mut TcpSocket<'_>| socket.flush().await)
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "net-round-trip",
        group: "net",
        against: Some("virtio-round-trip"),
        rig: Rig::Echo,
        bytes: 0,
        curve: None,
        what: "A byte by TCP to a server of the host, and back.",
        run: round_trip,
    },
    Operation {
        name: "net-stream",
        group: "net",
        against: Some("virtio-stream"),
        rig: Rig::Sink,
        bytes: CHUNK as u64,
        curve: None,
        what: "64 KiB by TCP to a server of the host, one after another.",
        run: stream,
    },
];
