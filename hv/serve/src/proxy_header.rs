//! The header of the PROXY protocol, versions 1 and 2: who a client is, as a proxy that passes its bytes on as they are tells it
//! before them. Pure, but for [`read`].
//!
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How headers of version 2 begin.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How those of version 1 begin.
const PREFIX: &[u8; 6] = b"PROXY ";

/// Most bytes of a header of version 1, its line end among them.
const LINE_MAX: usize = 107;

/// Bytes of a header of version 2 before what it says the length of.
const FIXED: usize = 16;

/// Most bytes of a header of version 2: addresses, and what a proxy adds about TLS.
const MAX: usize = FIXED + 4096;

/// Who is at the other end of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// This client.
    Client(SocketAddr),
    /// The proxy itself, or somebody whom it cannot name.
    Proxy,
}

/// How far a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on.
    More,
    /// It has so many bytes.
    Whole(usize, Told),
}

/// What is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("the connection does not begin with a header of the PROXY protocol")]
    None,
    #[error("a header of the PROXY protocol has more bytes than any needs")]
    TooLong,
    #[error("a header of the PROXY protocol, version 1, is wrong")]
    Line,
    #[error("a header of the PROXY protocol, version 2, is wrong")]
    Binary,
    #[error("a header of the PROXY protocol speaks of datagrams")]
    Datagrams,
}

/// Looks at the first bytes of a connection.
pub(super) fn parse(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let begins = |with: &[u8]| {
        let len = bytes.len().min(with.len());
        bytes[..len] == with[..len]
    };
    if begins(PREFIX) {
        let line = &bytes[..bytes.len().min(LINE_MAX)];
        return match line.windows(2).position(|end| end == b"\r\n") {
            Some(end) => Ok(Progress::Whole(end + 2, of_line(&line[..end])?)),
            None if bytes.len() >= LINE_MAX => Err(HeaderError::TooLong),
            None => Ok(Progress::More),
        };
    }
    if !begins(SIGNATURE) {
        return Err(HeaderError::None);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(Progress::More) };
    let len = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED + len > MAX {
        return Err(HeaderError::TooLong);
    }
    match rest.get(..len) {
        None => Ok(Progress::More),
        Some(rest) => Ok(Progress::Whole(FIXED + len, of_binary(fixed[12], fixed[13], rest)?)),
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`.
fn of_line(line: &[u8]) -> Result<Told, HeaderError> {
    let line = std::str::from_utf8(line).map_err(|_| HeaderError::Line)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever else it says.
        return Ok(Told::Proxy);
    }
    let mut address = || -> Result<IpAddr, HeaderError> {
        let word = words.next().ok_or(HeaderError::Line)?;
        match family {
            Some("TCP4") => word.parse::<Ipv4Addr>().map(Into::into).map_err(|_| HeaderError::Line),
            Some("TCP6") => word.parse::<Ipv6Addr>().map(Into::into).map_err(|_| HeaderError::Line),
            _ => Err(HeaderError::Line),
        }
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || -> Result<u16, HeaderError> {
        let word = words.next().ok_or(HeaderError::Line)?;
        let is_plain =
            word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        word.parse().ok().filter(|_| is_plain).ok_or(HeaderError::Line)
    };
    let (source_port, _destination_port) = (port()?, port()?);
    match words.next() {
        None => Ok(Told::Client(SocketAddr::new(source, source_port))),
        Some(_) => Err(HeaderError::Line),
    }
}

fn of_binary(command: u8, family: u8, rest: &[u8]) -> Result<Told, HeaderError> {
    match command {
        // The proxy asks for itself, whether hv is there.
        0x20 => return Ok(Told::Proxy),
        0x21 => {}
        _ => return Err(HeaderError::Binary),
    }
    let port = |at: usize| -> Option<u16> { Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk()?)) };
    let client = match family {
        // Unknown, and sockets of the proxy's own host.
        0x00 | 0x31 => return Ok(Told::Proxy),
        0x11 => rest
            .first_chunk::<4>()
            .map(|source| IpAddr::from(*source))
            .zip(port(8))
            .filter(|_| rest.len() >= 12),
        0x21 => rest
            .first_chunk::<16>()
            .map(|source| IpAddr::from(*source))
            .zip(port(32))
            .filter(|_| rest.len() >= 36),
        0x12 | 0x22 | 0x32 => return Err(HeaderError::Datagrams),
        _ => return Err(HeaderError::Binary),
    };
    let (source, port) = client.ok_or(HeaderError::Binary)?;
    Ok(Told::Client(SocketAddr::new(source, port)))
}

/// Reads a header from the beginning of a connection, and nothing behind it: what comes there may be TLS.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Told> {
    let mut seen = Vec::new();
    let mut ahead = [0; MAX];
    loop {
        let count = stream.peek(&mut ahead[..MAX - seen.len()]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = seen.len();
        seen.extend_from_slice(&ahead[..count]);
        let (take, told) = match parse(&seen).map_err(io::Error::other)? {
            Progress::More if seen.len() == MAX => return Err(io::Error::other(HeaderError::TooLong)),
            Progress::More => (count, None),
            Progress::Whole(len, told) => (len - before, Some(told)),
        };
        stream.read_exact(&mut ahead[..take]).await?;
        if let Some(told) = told {
            return Ok(told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn whole(bytes: &[u8]) -> Result<Told, HeaderError> {
        match parse(bytes)? {
            Progress::Whole(len, told) if len == bytes.len() => Ok(told),
            other => panic!("{other:?} of {bytes:?}"),
        }
    }

    fn client(text: &str) -> Result<Told, HeaderError> {
        Ok(Told::Client(text.parse().unwrap()))
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &len, rest].concat()
    }

    #[test]
    fn lines_of_version_1() {
        assert_eq!(whole(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n"), client("192.0.2.7:56324"));
        assert_eq!(whole(b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n"), client("[2001:db8::7]:1"));
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), Ok(Told::Proxy));
        assert_eq!(whole(b"PROXY UNKNOWN ff:: a b c d e\r\n"), Ok(Told::Proxy));
        let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(longest.len(), 104);
        assert!(whole(longest.as_bytes()).is_ok());
        for wrong in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.7  10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n",
            "PROXY tcp4 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(wrong.as_bytes()), Err(HeaderError::Line), "{wrong}");
        }
        let endless = format!("PROXY UNKNOWN {}", "a".repeat(LINE_MAX));
        assert_eq!(parse(endless.as_bytes()), Err(HeaderError::TooLong));
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0xdc, 4, 1, 187];
        assert_eq!(whole(&binary(0x21, 0x11, &v4)), client("192.0.2.7:56324"));
        assert_eq!(whole(&binary(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat())), client("192.0.2.7:56324"));
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (7, 1, 9, 80);
        assert_eq!(whole(&binary(0x21, 0x21, &v6)), client("[::7]:9"));
        assert_eq!(whole(&binary(0x20, 0x00, b"")), Ok(Told::Proxy));
        assert_eq!(whole(&binary(0x20, 0x11, &v4)), Ok(Told::Proxy));
        assert_eq!(whole(&binary(0x21, 0x00, b"any")), Ok(Told::Proxy));
        assert_eq!(whole(&binary(0x21, 0x31, &[0; 216])), Ok(Told::Proxy));
        for (command, family, rest) in [
            (0x11, 0x11, &v4[..]),
            (0x22, 0x11, &v4),
            (0x21, 0x11, &v4[..11]),
            (0x21, 0x21, &v6[..35]),
            (0x21, 0x41, &v6),
        ] {
            assert_eq!(parse(&binary(command, family, rest)), Err(HeaderError::Binary));
        }
        assert_eq!(parse(&binary(0x21, 0x12, &v4)), Err(HeaderError::Datagrams));
        assert_eq!(parse(&binary(0x21, 0x11, &[0; 4097])), Err(HeaderError::TooLong));
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(HeaderError::None));
        assert_eq!(parse(b"\x16\x03\x01"), Err(HeaderError::None));
    }

    #[tokio::test]
    async fn nothing_behind_a_header_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let headers = [
            b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n".to_vec(),
            binary(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0xdc, 4, 1, 187]),
        ];
        for header in headers {
            // As a whole with what is behind it, and byte by byte.
            for step in [usize::MAX, 1] {
                let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                client.set_nodelay(true).unwrap();
                let (mut stream, _) = listener.accept().await.unwrap();
                let bytes = [&header[..], b"GET"].concat();
                let reading = tokio::spawn(async move {
                    let told = read(&mut stream).await.unwrap();
                    let mut rest = [0; 3];
                    stream.read_exact(&mut rest).await.unwrap();
                    (told, rest)
                });
                for piece in bytes.chunks(step.min(bytes.len())) {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                let told = Told::Client("192.0.2.7:56324".parse().unwrap());
                assert_eq!(reading.await.unwrap(), (told, *b"GET"));
            }
        }
    }

    proptest! {
        #[test]
        fn a_beginning_is_never_wrong(source: [u8; 4], port: u16, version2: bool, at: proptest::sample::Index) {
            let address = Ipv4Addr::from(source);
            let header = match version2 {
                true => binary(0x21, 0x11, &[&source[..], &[0; 4], &port.to_be_bytes(), &[0; 2]].concat()),
                false => format!("PROXY TCP4 {address} 10.0.0.1 {port} 443\r\n").into_bytes(),
            };
            let told = Told::Client(SocketAddr::new(address.into(), port));
            prop_assert_eq!(parse(&header), Ok(Progress::Whole(header.len(), told)));
            let part = &header[..at.index(header.len())];
            prop_assert_eq!(parse(part), Ok(Progress::More));
        }

        #[test]
        fn any_bytes_are_a_header_or_an_error(mut bytes: Vec<u8>, version2: bool) {
            let _ = parse(&bytes);
            let start: &[u8] = if version2 { SIGNATURE } else { PREFIX };
            bytes.splice(..0, start.iter().copied());
            if let Ok(Progress::Whole(len, _)) = parse(&bytes) {
                prop_assert!(len <= bytes.len() && len <= MAX);
            }
        }
    }
}
