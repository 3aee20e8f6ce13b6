use super::*;
use crate::decode;
use proptest::prelude::*;

#[test]
fn types_by_ending() {
    for (path, expected) in [
        ("/", "text/html; charset=utf-8"),
        ("/docs/", "text/html; charset=utf-8"),
        ("/a.HTM", "text/html; charset=utf-8"),
        ("/a.tar.gz", "application/gzip"),
        ("/folder.css/file", "application/octet-stream"),
        ("/.png", "image/png"),
        ("/no-ending", "application/octet-stream"),
    ] {
        assert_eq!(content_type(path), expected, "{path}");
    }
}

#[test]
fn names_on_a_page() {
    assert_eq!(escape("<a href=\"x\">&amp;"), "&lt;a href=&quot;x&quot;&gt;&amp;amp;");
    assert_eq!(encode("a b/%?#~ü.txt"), "a%20b%2F%25%3F%23~%C3%BC.txt");
}

proptest! {
    #[test]
    fn encoding_is_undone_by_decoding(name in "[^\0]*") {
        prop_assert_eq!(decode(&encode(&name)), Some(name));
    }
}
