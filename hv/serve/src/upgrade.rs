//! Connections that go on as WebSockets: over HTTP/1.1 by `Upgrade` (RFC 6455), over HTTP/2 by CONNECT (RFC 8441).
//!
//! hv does the handshake; the messages are the guest's. What comes behind the head of its answer is passed in both
//! directions as it is.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};
use hyper::ext::Protocol;
use sha1::{Digest, Sha1};

/// The protocol that connections can go on with.
pub(super) const WEBSOCKET: &str = "websocket";

/// The version of it (RFC 6455, section 4.1).
const VERSION: &str = "13";

/// What a server shows that it has understood the key with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request asks to go on with WebSocket.
pub(super) fn is_asked_for(parts: &Parts) -> bool {
    if parts.version >= Version::HTTP_2 {
        let protocol = parts.extensions.get::<Protocol>();
        return parts.method == Method::CONNECT && protocol.is_some_and(|name| name.as_str() == WEBSOCKET);
    }
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && has_token(&parts.headers, &CONNECTION, "upgrade")
        && has_token(&parts.headers, &UPGRADE, WEBSOCKET)
}

fn has_token(headers: &HeaderMap, name: &http::HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// What is wrong with such a request, if something is.
pub(super) fn check(parts: &Parts) -> Result<(), (StatusCode, &'static str)> {
    let version = parts.headers.get(SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version.as_bytes() != VERSION.as_bytes()) {
        return Err((StatusCode::UPGRADE_REQUIRED, "the version of WebSocket here is 13"));
    }
    if parts.version >= Version::HTTP_2 {
        return Ok(());
    }
    let mut keys = parts.headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().and_then(|key| STANDARD.decode(key.as_bytes()).ok());
    if key.is_none_or(|key| key.len() != 16) || keys.next().is_some() {
        return Err((
            StatusCode::BAD_REQUEST,
            "a WebSocket begins with a Sec-WebSocket-Key of 16 bytes in base64",
        ));
    }
    Ok(())
}

/// The head of the answer with which the connection goes on: status, and fields beside the guest's own.
pub(super) fn accept(parts: &Parts, headers: &mut HeaderMap) -> StatusCode {
    if parts.version >= Version::HTTP_2 {
        return StatusCode::OK;
    }
    let key = parts.headers.get(SEC_WEBSOCKET_KEY).map_or(&[][..], HeaderValue::as_bytes);
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize());
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_maybe_shared(accept).expect("base64 is plain"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    StatusCode::SWITCHING_PROTOCOLS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(fields: &[(&str, &str)]) -> Parts {
        let request = http::Request::builder().uri("/");
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let parts = parts(&[
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ]);
        assert!(is_asked_for(&parts) && check(&parts).is_ok());
        let mut headers = HeaderMap::new();
        assert_eq!(accept(&parts, &mut headers), 101);
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn other_requests_are_not() {
        for fields in [
            &[("upgrade", "websocket")][..],
            &[("connection", "upgrade")],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
        ] {
            assert!(!is_asked_for(&parts(fields)), "{fields:?}");
        }
        let ask = [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")];
        for (more, status) in [
            (&[][..], 400),
            (&[("sec-websocket-key", "c2hvcnQ=")], 400),
            (&[("sec-websocket-key", "no base64")], 400),
        ] {
            let parts = parts(&[&ask, more].concat());
            assert!(is_asked_for(&parts));
            assert_eq!(check(&parts).unwrap_err().0, status, "{more:?}");
        }
        assert_eq!(check(&parts(&ask[..2])).unwrap_err().0, 426);
    }
}
