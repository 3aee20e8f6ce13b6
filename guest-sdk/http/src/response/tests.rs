use super::*;
use alloc::string::String;

fn head(response: &Response, keep_alive: bool) -> String {
    let mut output = Vec::new();
    response.head(&mut output, keep_alive);
    String::from_utf8(output).unwrap()
}

#[test]
fn heads() {
    assert_eq!(
        head(&Response::text(200, "four").header("X", "y"), true),
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nX: y\r\n\
         Content-Length: 4\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        head(&Response::new(299, Body::Empty), false),
        "HTTP/1.1 299 Unknown\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    for status in [204, 304] {
        assert!(!head(&Response::new(status, Body::Empty), true).contains("Length"));
    }
}

#[test]
fn fields_stay_in_their_line() {
    let split = Response::new(200, Body::Empty).header("Location", "/a\r\nSet-Cookie: b\n\0\t");
    assert!(head(&split, true).contains("\r\nLocation: /aSet-Cookie: b\r\n"));
}
