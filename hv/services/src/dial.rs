//! Connections of hv's own to services, with TLS or without.

use crate::names::Names;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes connections to one service.
pub struct Dialer {
    host: String,
    port: u16,
    names: Names,
    tls: Option<Arc<ClientConfig>>,
}

impl Dialer {
    /// To this host, a name or an address (of IPv6 with or without brackets); with `tls`, over TLS.
    pub fn new(host: &str, port: u16, names: &Names, tls: Option<Arc<ClientConfig>>) -> Dialer {
        Dialer { host: host.trim_matches(['[', ']']).into(), port, names: names.clone(), tls }
    }

    /// Makes a connection. It may take for ever: the caller knows how long it waits.
    ///
    /// # Errors
    ///
    /// For people: why there is none.
    pub async fn connect(&self) -> Result<Stream, String> {
        let addresses = self.names.addresses(&self.host).await?;
        let mut failed = "the name has no address".to_owned();
        for address in addresses {
            match TcpStream::connect((address, self.port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(|error| error.to_string())?;
                    return self.secure(stream).await;
                }
                Err(error) => failed = error.to_string(),
            }
        }
        Err(failed)
    }

    async fn secure(&self, stream: TcpStream) -> Result<Stream, String> {
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(stream)) };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| format!("{} can be the name of no certificate", self.host))?;
        let connected = TlsConnector::from(tls.clone()).connect(name, stream).await;
        let stream = connected.map_err(|error| format!("TLS: {error}"))?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// A connection.
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
