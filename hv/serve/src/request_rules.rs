//! What makes a request one that no function gets, whatever its path: RFC 9110, RFC 9112 and RFC 9113.
#![forbid(unsafe_code)]

use super::front_response::FrontResponse;
use super::upgrade;
use http::header::{EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, StatusCode, Version};

/// The answer to a request that breaks the rules, or that hv answers for all functions.
pub(super) fn answer(parts: &Parts) -> Option<FrontResponse> {
    if let Err((status, text)) = check(parts) {
        return Some(FrontResponse::new(status, text).last());
    }
    // It asks about the server as a whole (RFC 9110, section 9.3.7).
    (parts.uri.path() == "*").then(|| FrontResponse::empty(StatusCode::NO_CONTENT))
}

fn check(parts: &Parts) -> Result<(), (StatusCode, &'static str)> {
    let is_h1 = parts.version < Version::HTTP_2;
    if upgrade::is_asked_for(parts) {
        upgrade::check(parts)?;
    } else if parts.method == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "this server is no proxy: it has no CONNECT"));
    }
    check_host(parts, is_h1).map_err(|text| (StatusCode::BAD_REQUEST, text))?;
    let path = parts.uri.path();
    if !(path.starts_with('/') || path == "*" && parts.method == Method::OPTIONS) {
        return Err((
            StatusCode::BAD_REQUEST,
            "the target of a request is a path, or a URI with http or https",
        ));
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err((StatusCode::NOT_IMPLEMENTED, "the only Transfer-Encoding here is chunked"));
    }
    let mut expectations = parts.headers.get_all(EXPECT).iter();
    if expectations.any(|expectation| !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err((StatusCode::EXPECTATION_FAILED, "nothing but 100-continue can be expected"));
    }
    Ok(())
}

/// RFC 9112, section 3.2; RFC 9113, section 8.3.1.
fn check_host(parts: &Parts, is_h1: bool) -> Result<(), &'static str> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("a request has one Host");
    }
    if host.is_some_and(|host| !is_host(host)) {
        return Err("the Host is a name or an address, and maybe a port");
    }
    let authority = parts.uri.authority();
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the target of a request names no user");
    }
    match (host, authority) {
        (None, _) if parts.version == Version::HTTP_11 => Err("a request of HTTP/1.1 has a Host"),
        (None, None) if !is_h1 => Err("a request has an :authority or a host"),
        (Some(host), Some(authority)) if !is_h1 && host.as_bytes() != authority.as_str().as_bytes() => {
            Err(":authority and host are the same, if there are both")
        }
        _ => Ok(()),
    }
}

fn is_host(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    bytes.is_empty() || !bytes.contains(&b'@') && Authority::try_from(bytes).is_ok_and(|host| is_port(&host))
}

/// Whether what stands behind the name is a port, if there is something.
fn is_port(authority: &Authority) -> bool {
    let rest = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    rest.is_empty() || rest == ":" || authority.port_u16().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: http::request::Builder) -> Option<u16> {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts).err().map(|(status, _)| status.as_u16())
    }

    #[test]
    fn a_host_is_there_once_and_is_one() {
        let h1 = |version, hosts: &[&str]| {
            let request = http::Request::builder().uri("/").version(version);
            status(hosts.iter().fold(request, |request, host| request.header("host", *host)))
        };
        for good in ["a", "a.example:80", "127.0.0.1:8080", "[::1]:80", "", "a:"] {
            assert_eq!(h1(Version::HTTP_11, &[good]), None, "{good}");
        }
        for bad in ["a b", "a/b", "u@a", "a:b", "a:80:80", "a\u{fc}", "a:99999"] {
            assert_eq!(h1(Version::HTTP_11, &[bad]), Some(400), "{bad}");
        }
        assert_eq!(h1(Version::HTTP_11, &[]), Some(400));
        assert_eq!(h1(Version::HTTP_11, &["a", "a"]), Some(400));
        assert_eq!(h1(Version::HTTP_10, &[]), None);
        assert_eq!(h1(Version::HTTP_2, &[]), Some(400));
        let h2 = http::Request::builder().version(Version::HTTP_2);
        assert_eq!(status(h2.uri("http://a/").header("host", "a")), None);
        let h2 = http::Request::builder().version(Version::HTTP_2);
        assert_eq!(status(h2.uri("http://a/").header("host", "b")), Some(400));
    }

    #[test]
    fn methods_targets_codings_and_expectations() {
        let with = |method: &str, uri: &str, name: &str, value: &str| {
            status(http::Request::builder().method(method).uri(uri).header("host", "a").header(name, value))
        };
        for (method, uri, name, value, expected) in [
            ("GET", "http://u@b/", "x", "", Some(400)),
            ("GET", "http://b/", "x", "", None),
            ("OPTIONS", "*", "x", "", None),
            ("GET", "*", "x", "", Some(400)),
            ("GET", "b:80", "x", "", Some(400)),
            ("CONNECT", "b:80", "x", "", Some(501)),
            ("POST", "/", "transfer-encoding", "chunked", None),
            ("POST", "/", "transfer-encoding", "gzip, chunked", Some(501)),
            ("POST", "/", "expect", "100-Continue", None),
            ("POST", "/", "expect", "wonders", Some(417)),
        ] {
            assert_eq!(with(method, uri, name, value), expected, "{method} {uri} {name}: {value}");
        }
    }
}
