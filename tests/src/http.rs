//! A client of HTTP/1.1 that shows everything as it is on the connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer, its body put together.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header lines; names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Whether the body came in chunks.
    pub chunked: bool,
}

impl Answer {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Itself, if the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{:?} {}", self.fields, self.text());
        self
    }
}

/// A connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to a port of this host.
    pub fn connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(crate::LIMIT))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Has the connection end with a reset: what was not read or sent is lost, and the other end is not told why.
    pub fn reset_at_end(&self) -> io::Result<()> {
        Ok(rustix::net::sockopt::set_socket_linger(self.socket(), Some(Duration::ZERO))?)
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a request with these extra header lines (each ended by CR LF) and reads the answer.
    pub fn ask(&mut self, method: &str, path: &str, fields: &str, body: &[u8]) -> io::Result<Answer> {
        let length = match body {
            [] => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{fields}{length}\r\n");
        self.send(&[head.as_bytes(), body].concat())?;
        self.answer(method)
    }

    /// Reads one line without its end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().into())
    }

    /// Reads the head of an answer.
    pub fn head(&mut self) -> io::Result<Answer> {
        let odd = |line: &str| io::Error::other(format!("odd line: {line:?}"));
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| odd(&line))?;
            fields.push((name.to_lowercase(), value.to_owned()));
        }
        let status = status.ok_or_else(|| odd(&line))?;
        let mut answer = Answer { status, fields, body: Vec::new(), chunked: false };
        answer.chunked = answer.field("transfer-encoding") == Some("chunked");
        Ok(answer)
    }

    /// Reads a whole answer to a request of this method.
    pub fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.head()?;
        if method == "HEAD" || matches!(answer.status, 100..=199 | 204 | 304) {
            return Ok(answer);
        }
        if answer.chunked {
            while let Some(chunk) = self.chunk()? {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.field("content-length") {
            answer.body = vec![0; length.parse().map_err(io::Error::other)?];
            self.stream.read_exact(&mut answer.body)?;
        } else {
            self.stream.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Reads one chunk; `None` is the last one.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk)?;
        self.line()?;
        Ok(if length == 0 { None } else { Some(chunk) })
    }

    /// Reads all of these bytes.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.stream.read_exact(bytes)
    }

    /// Reads so many bytes and discards them.
    pub fn skip(&mut self, count: u64) -> io::Result<()> {
        let read = io::copy(&mut (&mut self.stream).take(count), &mut io::sink())?;
        if read < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Whether the other side has closed the connection in good order, with nothing left to read.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}
