//! Heads of messages: the client's for the guest, and the guest's, validated.
#![forbid(unsafe_code)]

use super::trace::{Part, TRACEPARENT, TRACESTATE, Trace, part_of};
use super::upgrade;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use hv_abi::io::function::HEAD_MAX;
use std::net::IpAddr;

/// Most header lines of a guest's answer.
pub(super) const MAX_ANSWER_FIELDS: usize = 64;

/// Names the request in logs and headers.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The scheme that the client has used, `http` or `https`.
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Longest request id of a client that is taken over.
const MAX_REQUEST_ID: usize = 128;

/// The fields that belong to a connection, not to a message, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether a field with this name is not passed on.
fn is_hop_by_hop(name: &HeaderName, connection: &[HeaderName]) -> bool {
    HOP_BY_HOP.contains(name) || connection.contains(name)
}

/// The names that the `Connection` fields name.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lists = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = lists.flat_map(|list| list.split(','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect()
}

/// The id that the client gave the request, if it is one to log.
pub(super) fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(REQUEST_ID)?;
    let plain = |&byte: &u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let bytes = value.as_bytes();
    (!bytes.is_empty() && bytes.len() <= MAX_REQUEST_ID && bytes.iter().all(plain)).then(|| value.clone())
}

/// The head is longer than a guest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Writes the head of a request as the guest gets it: without the fields of
/// the connection, with the client's address and the request's id.
pub(super) fn write_request(
    parts: &Parts,
    client: IpAddr,
    id: &HeaderValue,
    trace: Option<&Trace>,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    out.clear();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    // Over HTTP/2 a client asks for another protocol by CONNECT (RFC 8441): to a guest it is the same.
    let upgrades = upgrade::is_asked_for(parts);
    let method = if upgrades { Method::GET.as_str() } else { parts.method.as_str() };
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    // What the target names comes before the field (RFC 9112, section 3.2.2; RFC 9113, section 8.3.1).
    if let Some(authority) = parts.uri.authority() {
        field(out, header::HOST.as_str(), authority.as_str().as_bytes());
    }
    let connection = named_by_connection(&parts.headers);
    for (name, value) in &parts.headers {
        let replaced = name == FORWARDED_FOR
            || name == REQUEST_ID
            || name == header::EXPECT
            || name == header::COOKIE
            || trace.is_some() && name == TRACEPARENT
            || name == TRACESTATE && trace.is_some_and(|trace| !trace.continues)
            || name == header::HOST && parts.uri.authority().is_some();
        if !replaced && !is_hop_by_hop(name, &connection) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    if upgrades {
        field(out, header::CONNECTION.as_str(), b"upgrade");
        field(out, header::UPGRADE.as_str(), upgrade::WEBSOCKET.as_bytes());
    }
    // HTTP/2 may cut it into several fields (RFC 9113, section 8.2.3).
    let cookies: Vec<_> = parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !cookies.is_empty() {
        field(out, header::COOKIE.as_str(), &cookies.join(&b"; "[..]));
    }
    out.extend_from_slice(b"x-forwarded-for: ");
    for before in parts.headers.get_all(FORWARDED_FOR) {
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(client.to_canonical().to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    field(out, REQUEST_ID.as_str(), id.as_bytes());
    if let Some(trace) = trace {
        // What the guest asks others is a part of its run.
        field(out, TRACEPARENT.as_str(), trace.header(part_of(trace.span, Part::Run)).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if out.len() > HEAD_MAX as usize { Err(TooLong) } else { Ok(()) }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The head of an answer that has been validated.
#[derive(Debug)]
pub(super) struct AnswerHead {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Bytes of the body, if the guest has declared them. For one without a body: what it would have.
    pub(super) length: Option<u64>,
}

/// Validates what a guest wrote as the head of its answer. An error is the
/// guest's fault, in one line. `may_upgrade`: the client has asked for another protocol.
pub(super) fn validate_answer(bytes: &[u8], may_upgrade: bool) -> Result<AnswerHead, String> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_ANSWER_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let wrong = |what: &str| format!("the head of its answer {what}");
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
        Ok(httparse::Status::Complete(_)) => return Err(wrong("goes on behind its end")),
        Ok(httparse::Status::Partial) => return Err(wrong("has no end")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(wrong(&format!("has more than {MAX_ANSWER_FIELDS} fields")));
        }
        Err(error) => return Err(wrong(&format!("is no HTTP: {error}"))),
    }
    let status = response.code.unwrap_or_default();
    if !((200..=599).contains(&status) || status == 101 && may_upgrade) {
        return Err(wrong(&format!("has the status {status}, which is not from 200 to 599")));
    }
    let status = StatusCode::from_u16(status).map_err(|_| wrong("has no status"))?;
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 1);
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| wrong("has a field with an invalid name"))?;
        let value = HeaderValue::from_bytes(field.value);
        let value = value.map_err(|_| wrong(&format!("has an invalid value of {name}")))?;
        headers.append(name, value);
    }
    let length = declared_length(&headers).map_err(|()| wrong("has a Content-Length that is no number"))?;
    // The front frames the answer: these mean nothing here.
    let connection = named_by_connection(&headers);
    for name in HOP_BY_HOP.iter().chain(&connection).chain([&header::CONTENT_LENGTH]) {
        // Which fields come behind the body is said of the message.
        if name != header::TRAILER {
            headers.remove(name);
        }
    }
    Ok(AnswerHead { status, headers, length })
}

/// Validates the fields that a guest wrote behind its answer. An error is the guest's fault, in one line.
pub(super) fn validate_trailers(lines: &[u8]) -> Result<HeaderMap, String> {
    let wrong = |what: &str| format!("behind its answer stands {what}");
    let mut fields = [httparse::EMPTY_HEADER; MAX_ANSWER_FIELDS];
    let text = [lines, b"\r\n"].concat();
    let fields = match httparse::parse_headers(&text, &mut fields) {
        Ok(httparse::Status::Complete((len, fields))) if len == text.len() => fields,
        Ok(_) => return Err(wrong("more, or less, than lines of fields")),
        Err(error) => return Err(wrong(&format!("what is no field: {error}"))),
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| wrong("a field with an invalid name"))?;
        let value = HeaderValue::from_bytes(field.value);
        let value = value.map_err(|_| wrong(&format!("an invalid value of {name}")))?;
        // What frames or routes a message has no meaning behind it (RFC 9110, section 6.5.1).
        let frames = [header::CONTENT_LENGTH, header::HOST, header::CONTENT_TYPE, header::CONTENT_ENCODING];
        if !HOP_BY_HOP.contains(&name) && !frames.contains(&name) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

/// What `Content-Length` says (RFC 9110, section 8.6).
fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.as_bytes().iter().all(u8::is_ascii_digit) => {
            let number = value.to_str().map_err(|_| ())?;
            number.parse().map(Some).map_err(|_| ())
        }
        _ => Err(()),
    }
}

/// Whether an answer to this method with this status has a body.
pub(super) fn has_body(method: &Method, status: StatusCode) -> bool {
    method != Method::HEAD && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(headers: &[(&str, &str)], uri: &str) -> Result<String, TooLong> {
        let mut request = http::Request::builder().method("PUT").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut out = b"old".to_vec();
        let client = "::ffff:192.0.2.7".parse().unwrap();
        write_request(&parts, client, &HeaderValue::from_static("id-1"), None, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn guests_see_the_message_and_not_the_connection() {
        let headers = [
            ("host", "example.org"),
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("x-request-id", "theirs"),
            ("x-forwarded-for", "198.51.100.1"),
            ("accept", "a"),
            ("accept", "b"),
        ];
        assert_eq!(
            written(&headers, "/a%20b?c=d").unwrap(),
            "PUT /a%20b?c=d HTTP/1.1\r\nhost: example.org\r\naccept: a\r\naccept: b\r\n\
             x-forwarded-for: 198.51.100.1, 192.0.2.7\r\nx-request-id: id-1\r\n\r\n"
        );
        let headers = [("host", "other"), ("cookie", "a=1"), ("x-b", "c"), ("cookie", "d=2")];
        let absolute = written(&headers, "http://example.org").unwrap();
        let expected = "PUT / HTTP/1.1\r\nhost: example.org\r\nx-b: c\r\ncookie: a=1; d=2\r\n";
        assert!(absolute.starts_with(expected), "{absolute}");
    }

    #[test]
    fn heads_that_no_guest_takes_are_refused() {
        let long = "x".repeat(HEAD_MAX as usize);
        assert_eq!(written(&[("a", &long)], "/"), Err(TooLong));
    }

    #[test]
    fn ids_are_taken_over_if_they_can_be_logged() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            request_id(&headers).is_some()
        };
        assert!(of("7f/a:1"));
        for bad in ["", "a b", "a\"b", "ü", &"x".repeat(129)] {
            assert!(!of(bad), "{bad}");
        }
    }

    #[test]
    fn answers_keep_their_own_fields_only() {
        let head = validate_answer(
            b"HTTP/1.1 418 Teapot\r\nContent-Type: text/tea\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\
              Connection: upgrade, x-a\r\nUpgrade: h2c\r\nX-A: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
            false,
        )
        .unwrap();
        assert_eq!((head.status.as_u16(), head.length), (418, Some(5)));
        let fields: Vec<_> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(fields, [("content-type", "text/tea"), ("set-cookie", "a"), ("set-cookie", "b")]);
    }

    #[test]
    fn fields_behind_an_answer_are_fields_and_frame_nothing() {
        let good = validate_trailers(b"grpc-status: 0\r\nContent-Length: 5\r\nTE: x\r\nx-a: b\r\n").unwrap();
        let names: Vec<_> = good.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["grpc-status", "x-a"]);
        for bad in ["a: b\r\n\r\nc: d\r\n", "a b: c\r\n", "a", "a: \x01\r\n", "\r\n"] {
            assert!(validate_trailers(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn another_protocol_only_if_it_was_asked_for() {
        let head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        assert!(validate_answer(head, true).is_ok() && validate_answer(head, false).is_err());
    }

    #[test]
    fn answers_that_are_none() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_ANSWER_FIELDS + 1));
        for (head, part) in [
            ("", "no end"),
            ("HTTP/1.1 200 OK\r\n", "no end"),
            ("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "behind its end"),
            ("HTTP/1.1 199 Odd\r\n\r\n", "199"),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "101"),
            ("HTTP/1.1 600 Odd\r\n\r\n", "600"),
            ("HTTP/1.1 20 OK\r\n\r\n", "no HTTP"),
            ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", "no HTTP"),
            ("HTTP/1.1 200 OK\r\na: b\x01\r\n\r\n", "no HTTP"),
            ("GET / HTTP/1.1\r\n\r\n", "no HTTP"),
            (&many, "more than 64"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "no number"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no number"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "no number"),
        ] {
            let error = validate_answer(head.as_bytes(), false).unwrap_err();
            assert!(error.contains(part), "{head:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = validate_answer(&bytes, true);
            let _ = validate_trailers(&bytes);
            let _ = validate_answer(&[b"HTTP/1.1 200 OK\r\n", bytes.as_slice(), b"\r\n\r\n"].concat(), true);
        }
    }
}
