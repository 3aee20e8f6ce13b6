//! Bytes of requests and answers, counted as HTTP/1.1 has them: heads as lines, bodies without their framing. In HTTP/2 heads are compressed,
//! over TLS everything is longer; how long it was on the wire is between hv and the client, and no function's doing.
#![forbid(unsafe_code)]

use http::request::Parts;
use http::{HeaderMap, StatusCode};

/// The version in a first line, and the end of a line.
const VERSION: u64 = "HTTP/1.1".len() as u64;
const LINE_END: u64 = "\r\n".len() as u64;

/// Bytes of header lines, and of the empty line behind them.
fn fields(headers: &HeaderMap) -> u64 {
    let separator = ": ".len();
    let line = |name: &str, value: &[u8]| (name.len() + separator + value.len()) as u64 + LINE_END;
    headers.iter().map(|(name, value)| line(name.as_str(), value.as_bytes())).sum::<u64>() + LINE_END
}

/// Bytes of the head of a request.
pub(super) fn request_head(parts: &Parts) -> u64 {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let first = (parts.method.as_str().len() + 1 + target.len() + 1) as u64 + VERSION + LINE_END;
    first + fields(&parts.headers)
}

/// Bytes of the head of an answer.
pub(super) fn answer_head(status: StatusCode, headers: &HeaderMap) -> u64 {
    let reason = status.canonical_reason().unwrap_or("<unknown>");
    VERSION + 1 + status.as_str().len() as u64 + 1 + reason.len() as u64 + LINE_END + fields(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn heads_count_as_their_lines() {
        let request = Request::get("/a?b=c").header("host", "test").header("x", "").body(()).unwrap();
        let (parts, ()) = request.into_parts();
        assert_eq!(request_head(&parts), b"GET /a?b=c HTTP/1.1\r\nhost: test\r\nx: \r\n\r\n".len() as u64);
        let mut headers = HeaderMap::new();
        headers.insert("content-length", "5".parse().unwrap());
        let text = b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\n";
        assert_eq!(answer_head(StatusCode::NOT_FOUND, &headers), text.len() as u64);
    }
}
