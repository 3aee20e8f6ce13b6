use super::*;
use crate::testing::{Site, play};
use alloc::string::ToString;
use std::vec;

fn site() -> Files<Site> {
    let large: Vec<u8> = (0..100_000).map(|n: u32| b'a' + (n % 26) as u8).collect();
    let files = [
        ("/index.html", Some(b"home".to_vec())),
        ("/small.txt", Some(b"0123456789".to_vec())),
        ("/empty.txt", Some(vec![])),
        ("/large.bin", Some(large)),
        ("/bad.txt", None),
        ("/folder/a b.txt", Some(b"ab".to_vec())),
        ("/folder/<z>/x", Some(b"x".to_vec())),
    ];
    Files::new(Site(files.into_iter().collect()), 1 << 20)
}

/// Status and fields, and body.
fn ask(files: &Files<Site>, method: &str, path: &str, fields: &str) -> (String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\n{fields}\r\n");
    let socket = play([request.as_bytes()], |request| crate::testing::now(files.respond(request)));
    let text = socket.text();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.strip_prefix("HTTP/1.1 ").unwrap().to_string(), body.to_string())
}

#[test]
fn files_and_folders() {
    let files = site();
    // Twice: from the disk, then from memory.
    for _ in 0..2 {
        for (path, body) in
            [("/", "home"), ("/small.txt", "0123456789"), ("/empty.txt", ""), ("/folder/a%20b.txt", "ab")]
        {
            let (head, answer) = ask(&files, "GET", path, "");
            assert!(head.starts_with("200 OK"), "{path}: {head}");
            assert!(head.contains("Accept-Ranges: bytes"));
            assert_eq!(answer, body, "{path}");
        }
        let (head, body) = ask(&files, "GET", "/large.bin", "");
        assert!(head.contains("Content-Length: 100000") && body.len() == 100_000);
    }
    let (head, page) = ask(&files, "GET", "/folder/", "");
    assert!(head.contains("Content-Type: text/html"));
    assert!(page.contains("<a href=\"./a%20b.txt\">a b.txt</a> 2 bytes"), "{page}");
    assert!(page.find("&lt;z&gt;/</a>") < page.find("a b.txt"), "folders first: {page}");
}

#[test]
fn what_cannot_be_served() {
    let files = site();
    for (path, status) in [
        ("/absent", "404"),
        ("/small.txt/", "404"),
        ("/folder", "301"),
        ("/bad.txt", "500"),
        ("/../small.txt", "403"),
        ("/%2e%2e/small.txt", "403"),
        ("/a\\..\\b", "403"),
        ("/%zz", "400"),
        ("small.txt", "400"),
        ("*", "400"),
    ] {
        assert!(ask(&files, "GET", path, "").0.starts_with(status), "{path}");
    }
    assert!(ask(&files, "GET", "/folder?x", "").0.contains("Location: /folder/\r\n"));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
        let (head, _) = ask(&files, method, "/small.txt", "");
        assert!(head.starts_with("405 ") && head.contains("Allow: GET, HEAD"), "{method}");
    }
}

#[test]
fn heads_are_those_of_gets() {
    let files = site();
    for path in ["/", "/small.txt", "/large.bin", "/folder/", "/absent"] {
        let (head, body) = ask(&files, "HEAD", path, "");
        assert_eq!(head, ask(&files, "GET", path, "").0);
        assert_eq!(body, "");
    }
}

#[test]
fn ranges() {
    let files = site();
    for path in ["/small.txt", "/large.bin"] {
        let all = ask(&files, "GET", path, "").1;
        for (asked, given) in [("2-5", 2..6), ("-3", all.len() - 3..all.len()), ("7-", 7..all.len())] {
            let (head, body) = ask(&files, "GET", path, &format!("Range: bytes={asked}\r\n"));
            let place = format!("Content-Range: bytes {}-{}/{}", given.start, given.end - 1, all.len());
            assert!(head.starts_with("206 ") && head.contains(&place), "{head}");
            assert_eq!(body, all[given]);
        }
        let (head, _) = ask(&files, "GET", path, "Range: bytes=100000-\r\n");
        assert!(head.starts_with("416 ") && head.contains(&format!("Content-Range: bytes */{}", all.len())));
        assert!(ask(&files, "GET", path, "Range: bytes=5-2\r\n").0.starts_with("200 "));
    }
}
