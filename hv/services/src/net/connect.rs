//! Makes connections for guests, and passes their bytes on.

use super::policy::{Destination, NetSpec, Protocol};
use crate::figures::Figures;
use crate::names::Names;
use crate::rate::Pace;
use crate::refusal::Refusal;
use crate::tenant::Tenant;
use hv_abi::io::services::{Answer, CALLS_MAX, DATA_MAX, Status};
use hv_core::device::services::{Call, Session};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a connection may take, looking its name up included.
const CONNECTING: Duration = Duration::from_secs(5);

/// Most connections of a function at a time: each takes a descriptor of the server.
pub const CONNECTIONS: usize = 256;

/// Bytes that are read from a connection at once.
const PIECE: usize = 8 << 10;

/// What a function may connect to.
pub(crate) struct Net {
    spec: NetSpec,
    names: Names,
    /// Those that may still be made.
    free: Arc<Semaphore>,
    pace: Pace,
    tenant: Option<Arc<Tenant>>,
}

/// A connection of a request, while it is open.
struct Seat {
    session: Arc<Session>,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.session.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Net {
    pub(crate) fn new(spec: &NetSpec, names: &Names, tenant: Option<Arc<Tenant>>) -> Net {
        Net {
            spec: spec.clone(),
            names: names.clone(),
            free: Arc::new(Semaphore::new(CONNECTIONS)),
            pace: Pace::new(spec.limits.rate),
            tenant,
        }
    }

    /// Makes a connection, and passes on what both sides send, until one of them has enough.
    pub(crate) async fn carry_out(
        &self,
        protocol: Protocol,
        call: &Call,
        figures: &Figures,
    ) -> Result<(), Refusal> {
        let request = call.request();
        let (host, port) = (&*request.name, u16::try_from(request.first).unwrap_or(0));
        let denied = || {
            let text = format!("the function's `net` has no {protocol}:{host}:{}", request.first);
            Refusal::new(Status::Denied, text)
        };
        let destination =
            self.spec.destination(protocol, host, port).filter(|_| port > 0).ok_or_else(denied)?;
        let _seat = self.seat(call.session())?;
        let unreachable =
            |why: &str| Refusal::new(Status::Unreachable, format!("{protocol}:{host}:{port}: {why}"));
        let addresses = match destination {
            Destination::Address(address) => vec![address],
            Destination::Name(name) => {
                let found = timeout(CONNECTING, self.names.addresses(&name)).await;
                let found = found
                    .map_err(|_| unreachable("no name server answers"))?
                    .map_err(|why| unreachable(&why))?;
                // What was looked at here is what is connected to: the name is not looked up again.
                let allowed = |address: &IpAddr| self.spec.allows_found(protocol, *address, port);
                found.into_iter().filter(allowed).collect()
            }
        };
        if addresses.is_empty() {
            return Err(Refusal::new(
                Status::Denied,
                format!("{host} leads to addresses that the function's `net` does not name"),
            ));
        }
        let pipe = Pipe { net: self, call, figures };
        match protocol {
            Protocol::Tcp => {
                let connected = timeout(CONNECTING, connect(&addresses, port)).await;
                let stream = connected.map_err(|_| unreachable("it does not answer"))?;
                let stream = stream.map_err(|error| unreachable(&error.to_string()))?;
                call.answer(Answer::default());
                pipe.stream(stream).await
            }
            Protocol::Udp => {
                let socket =
                    socket(addresses[0], port).await.map_err(|error| unreachable(&error.to_string()))?;
                call.answer(Answer::default());
                pipe.datagrams(&socket).await
            }
        }
    }

    fn seat(&self, session: &Arc<Session>) -> Result<Seat, Refusal> {
        let most = self.spec.limits.connections.map_or(CALLS_MAX, |most| most as usize);
        let permit = self.free.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(Status::Limited, format!("a function has at most {CONNECTIONS} connections"))
        })?;
        let of_tenant = self.tenant.as_ref().map_or(Ok(None), |tenant| tenant.seat())?;
        let add = |open: usize| (open < most).then_some(open + 1);
        match session.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(Seat { session: session.clone(), _permits: (permit, of_tenant) }),
            Err(_) => Err(Refusal::new(Status::Limited, format!("a request has at most {most} connections"))),
        }
    }
}

async fn connect(addresses: &[IpAddr], port: u16) -> std::io::Result<TcpStream> {
    let mut result = Err(std::io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        result = TcpStream::connect((*address, port)).await;
        if let Ok(stream) = &result {
            stream.set_nodelay(true)?;
            break;
        }
    }
    result
}

/// A socket that sends to this address, and receives from nowhere else.
async fn socket(address: IpAddr, port: u16) -> std::io::Result<UdpSocket> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect((address, port)).await?;
    Ok(socket)
}

/// A connection and its guest.
struct Pipe<'a> {
    net: &'a Net,
    call: &'a Call,
    figures: &'a Figures,
}

impl Pipe<'_> {
    /// Counts bytes, which are to be passed on.
    async fn moved(&self, direction: usize, bytes: usize) -> Result<(), Refusal> {
        self.figures.moved(direction, bytes);
        let before = self.call.session().bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(most) = self.net.spec.limits.bytes
            && before + bytes as u64 > most
        {
            return Err(Refusal::new(
                Status::Limited,
                format!("the connections of a request move at most {most} bytes"),
            ));
        }
        self.net.pace.pay(bytes).await;
        if let Some(tenant) = &self.net.tenant {
            tenant.pace.pay(bytes).await;
        }
        Ok(())
    }

    fn broken(error: &std::io::Error) -> Refusal {
        Refusal::new(Status::Failed, error.to_string())
    }

    async fn stream(&self, stream: TcpStream) -> Result<(), Refusal> {
        let (mut reader, mut writer) = stream.into_split();
        let out = async {
            while let Some(bytes) = self.call.data().await? {
                self.moved(1, bytes.len()).await?;
                writer.write_all(&bytes).await.map_err(|error| Self::broken(&error))?;
            }
            // The other side may go on. A connection that is gone is noticed there.
            let _ = writer.shutdown().await;
            std::future::pending::<Result<(), Refusal>>().await
        };
        let inward = async {
            let mut bytes = vec![0; PIECE];
            loop {
                let count = reader.read(&mut bytes).await.map_err(|error| Self::broken(&error))?;
                if count == 0 {
                    return Ok(());
                }
                self.moved(0, count).await?;
                self.call.send(&bytes[..count]).await?;
            }
        };
        tokio::pin!(out, inward);
        tokio::select! {
            result = &mut inward => result,
            result = &mut out => result,
        }
    }

    async fn datagrams(&self, socket: &UdpSocket) -> Result<(), Refusal> {
        let out = async {
            while let Some(bytes) = self.call.data().await? {
                self.moved(1, bytes.len()).await?;
                // One that cannot be sent is lost, as on any network: the answer of a port where nobody listens comes here, too.
                let _ = socket.send(&bytes).await;
            }
            Ok(())
        };
        let inward = async {
            let mut bytes = vec![0; DATA_MAX as usize];
            loop {
                let Ok(count) = socket.recv(&mut bytes).await else { continue };
                self.moved(0, count).await?;
                // A guest that does not read loses datagrams.
                self.call.send_datagram(&bytes[..count])?;
            }
        };
        tokio::select! {
            result = out => result,
            result = inward => result,
        }
    }
}
