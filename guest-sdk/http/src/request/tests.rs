use super::*;
use alloc::format;
use alloc::string::ToString;
use proptest::prelude::*;

/// The status that refuses it; 0 for a request, 1 for the start of one.
fn validate(bytes: &[u8]) -> u16 {
    match parse(bytes) {
        Parsed::Request(..) => 0,
        Parsed::Incomplete(_) => 1,
        Parsed::Refused(status) => status,
    }
}

#[track_caller]
fn whole(bytes: &str) -> Request<'_> {
    match parse(bytes.as_bytes()) {
        Parsed::Request(request, used) => {
            assert_eq!(used, bytes.len());
            request
        }
        Parsed::Incomplete(needed) => panic!("incomplete: {needed}"),
        Parsed::Refused(status) => panic!("refused: {status}"),
    }
}

#[test]
fn the_parts_of_a_request() {
    let request = whole("GET /a%20b?c=d#e HTTP/1.1\r\nHost: x\r\nX-Y:  z \r\nText: ü\r\n\r\n");
    assert_eq!((request.method(), request.path(), request.query()), ("GET", "/a%20b", Some("c=d#e")));
    assert_eq!(request.header("HOST"), Some("x"));
    assert_eq!(request.header("x-y"), Some("z"));
    assert_eq!(request.header("text"), Some("ü"));
    assert_eq!(request.header("absent"), None);
    assert_eq!(request.body(), b"");
    assert_eq!(whole("GET / HTTP/1.1\r\n\r\n").query(), None);
    // Any method is a method; what it means is the handler's business.
    assert_eq!(whole("BREW /pot HTTP/1.1\r\n\r\n").method(), "BREW");
}

#[test]
fn bodies() {
    let request = whole("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(request.body(), b"hello");
    let head = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n";
    let needed = match parse(head.as_bytes()) {
        Parsed::Incomplete(needed) => needed,
        _ => panic!("the body is missing"),
    };
    assert_eq!(needed, head.len() + 5);
    let with = |fields: &str| validate(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes());
    assert_eq!(with("Content-Length: 0"), 0);
    assert_eq!(with(&format!("Content-Length: {MAX_BODY}")), 1);
    assert_eq!(with(&format!("Content-Length: {}", MAX_BODY + 1)), 413);
    assert_eq!(with("Content-Length: 18446744073709551615"), 413);
    // Lengths that another reader may understand differently.
    for wrong in ["+5", "-5", "5 5", "0x5", "5,5", "18446744073709551616"] {
        assert_eq!(with(&format!("Content-Length: {wrong}")), 400, "{wrong}");
    }
    assert_eq!(with("Content-Length: 5\r\nContent-Length: 5"), 400);
    assert_eq!(with("Transfer-Encoding: chunked"), 501);
    assert_eq!(with("Transfer-Encoding: chunked\r\nContent-Length: 5"), 501);
}

#[test]
fn what_is_refused() {
    for wrong in [
        "GET\r\n\r\n",
        "G(T / HTTP/1.1\r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nNo colon\r\n\r\n",
        "GET / HTTP/1.1\r\nName : value\r\n\r\n",
        "GET / HTTP/1.1\r\nFolded: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
        "\x16\x03\x01\x02\x00",
    ] {
        assert_eq!(validate(wrong.as_bytes()), 400, "{wrong:?}");
    }
    assert_eq!(validate(b"GET / HTTP/2.0\r\n\r\n"), 505);
    let fields = |count: usize| {
        let fields: String = (0..count).map(|n| format!("F{n}: x\r\n")).collect();
        validate(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes())
    };
    assert_eq!(fields(FIELDS), 0);
    assert_eq!(fields(FIELDS + 1), 431);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2 * MAX_HEAD));
    assert_eq!(validate(&long.as_bytes()[..MAX_HEAD - 1]), 1);
    assert_eq!(validate(&long.as_bytes()[..MAX_HEAD]), 431);
}

#[test]
fn every_start_of_a_request_is_incomplete() {
    let request = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    for end in 0..request.len() {
        match parse(&request[..end]) {
            Parsed::Incomplete(needed) => assert!(end < needed && needed <= request.len(), "{end}"),
            _ => panic!("{end}"),
        }
    }
    assert_eq!(validate(request), 0);
}

#[test]
fn whether_a_connection_goes_on() {
    let keeps = |version: &str, connection: &str| {
        whole(&format!("GET / HTTP/{version}\r\nConnection: {connection}\r\n\r\n")).keep_alive()
    };
    assert!(whole("GET / HTTP/1.1\r\n\r\n").keep_alive());
    assert!(!whole("GET / HTTP/1.0\r\n\r\n").keep_alive());
    assert!(keeps("1.1", "keep-alive") && keeps("1.1", "Upgrade") && keeps("1.0", "x, Keep-Alive"));
    assert!(!keeps("1.1", "close") && !keeps("1.1", "x , CLOSE") && !keeps("1.0", "Upgrade"));
}

#[test]
fn percent_encoding() {
    for (text, decoded) in [
        ("/plain", Some("/plain")),
        ("/a%20b+c", Some("/a b+c")),
        ("%c3%BC", Some("ü")),
        ("%252e", Some("%2e")),
        ("", Some("")),
        ("%", None),
        ("%2", None),
        ("%2g", None),
        ("%+2", None),
        ("%ff", None),
        ("a%00", None),
    ] {
        assert_eq!(decode(text).as_deref(), decoded, "{text}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_validated(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        validate(&bytes);
    }

    #[test]
    fn almost_a_request_is_validated(
        at in 0usize..70,
        with in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut bytes = b"POST /some/path?query HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab".to_vec();
        let at = at.min(bytes.len());
        bytes.splice(at..(at + with.len()).min(bytes.len()), with);
        if let Parsed::Request(request, used) = parse(&bytes) {
            prop_assert!(used <= bytes.len() && request.body().len() <= used);
        }
    }

    #[test]
    fn any_text_is_decoded_or_not(text in "\\PC*") {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        prop_assert_eq!(decode(&encoded), Some(text.to_string()));
        let _ = decode(&text);
    }
}
