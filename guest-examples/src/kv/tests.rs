use super::pattern::fits;
use super::*;
use std::string::String;
use std::vec::Vec;

fn run(store: &mut Store, now: u64, line: &str) -> String {
    let arguments: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let mut output = Vec::new();
    execute(store, &arguments, now, &mut output);
    String::from_utf8(output).unwrap()
}

#[test]
fn commands_off_the_wire() {
    assert_eq!(parse(b""), Parsed::Incomplete);
    assert_eq!(parse(b"PING"), Parsed::Incomplete);
    assert_eq!(parse(b"PING\r\n+"), Parsed::Command([b"PING".as_slice()].into(), 6));
    assert_eq!(parse(b" get  a \n"), Parsed::Command([b"get".as_slice(), b"a"].into(), 9));
    assert_eq!(parse(b"\r\n"), Parsed::Command([].into(), 2));
    let whole = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n";
    assert_eq!(parse(whole), Parsed::Command([b"GET".as_slice(), b"a\r\nb"].into(), whole.len()));
    for end in 0..whole.len() {
        assert_eq!(parse(&whole[..end]), Parsed::Incomplete);
    }
    for wrong in ["*x\r\n", "*1\r\n:3\r\n", "*1\r\n$-1\r\n", "*9999999\r\n", "*1\r\n$99999999999\r\n"] {
        assert!(matches!(parse(wrong.as_bytes()), Parsed::Wrong(_)), "{wrong}");
    }
}

#[test]
fn values_and_their_conditions() {
    let store = &mut Store::new(1 << 20);
    assert_eq!(run(store, 0, "GET a"), "$-1\r\n");
    assert_eq!(run(store, 0, "SET a 1 XX"), "$-1\r\n");
    assert_eq!(run(store, 0, "SET a 1 NX"), "+OK\r\n");
    assert_eq!(run(store, 0, "set a 2 nx"), "$-1\r\n");
    assert_eq!(run(store, 0, "GET a"), "$1\r\n1\r\n");
    assert_eq!(run(store, 0, "INCR a"), ":2\r\n");
    assert_eq!(run(store, 0, "MSET b x c y"), "+OK\r\n");
    assert_eq!(run(store, 0, "MGET a z c"), "*3\r\n$1\r\n2\r\n$-1\r\n$1\r\ny\r\n");
    assert!(run(store, 0, "INCR b").starts_with("-ERR value is not an integer"));
    assert_eq!(run(store, 0, "SET b 9223372036854775807"), "+OK\r\n");
    assert!(run(store, 0, "INCR b").starts_with("-ERR increment"));
    assert_eq!(run(store, 0, "EXISTS a b z a"), ":3\r\n");
    assert_eq!(run(store, 0, "DEL a z"), ":1\r\n");
    assert_eq!(run(store, 0, "KEYS *"), "*2\r\n$1\r\nb\r\n$1\r\nc\r\n");
    assert_eq!(run(store, 0, "DBSIZE"), ":2\r\n");
    assert_eq!(run(store, 0, "FLUSHALL"), "+OK\r\n");
    assert_eq!(run(store, 0, "DBSIZE"), ":0\r\n");
    assert!(run(store, 0, "GET").starts_with("-ERR wrong number"));
    assert!(run(store, 0, "NOPE").starts_with("-ERR unknown command 'NOPE'"));
    assert!(run(store, 0, "SET a 1 EX 0").starts_with("-ERR invalid expire"));
    assert!(run(store, 0, "SET a 1 EX 1 PX 1").starts_with("-ERR syntax"));
}

#[test]
fn keys_go_when_their_time_comes() {
    let store = &mut Store::new(1 << 20);
    run(store, 100, "SET a 1 PX 50");
    assert_eq!(run(store, 120, "PTTL a"), ":30\r\n");
    run(store, 120, "INCR a");
    assert_eq!(run(store, 149, "GET a"), "$1\r\n2\r\n");
    assert_eq!(run(store, 150, "GET a"), "$-1\r\n");
    run(store, 150, "SET a 1 EX 1");
    run(store, 150, "SET a 1");
    assert_eq!(run(store, 9000, "TTL a"), ":-1\r\n");
    assert_eq!(run(store, 9000, "EXPIRE a 10"), ":1\r\n");
    assert_eq!(run(store, 9000, "TTL a"), ":10\r\n");
    assert_eq!(run(store, 9000, "EXPIRE nope 10"), ":0\r\n");
    assert_eq!(run(store, 9000, "EXPIRE a -1"), ":1\r\n");
    assert_eq!(run(store, 9000, "TTL a"), ":-2\r\n");
    assert_eq!(store.bytes().0, 0);
}

#[test]
fn a_full_store_refuses_and_stays_whole() {
    let store = &mut Store::new(1000);
    while store.set(std::format!("{}", store.len()).as_bytes(), &[0; 100], None).is_ok() {}
    let (len, bytes) = (store.len(), store.bytes());
    assert!(run(store, 0, "SET big x").starts_with("-OOM"));
    assert_eq!((store.len(), store.bytes()), (len, bytes));
    assert_eq!(run(store, 0, "SET 0 x"), "+OK\r\n");
}

#[test]
fn patterns() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("a*c", "abc", true),
        ("a*c", "abcd", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("[a-c]x", "bx", true),
        ("[^a-c]x", "bx", false),
        ("[]x]", "]", true),
        ("a\\*", "a*", true),
        ("a\\*", "ab", false),
        ("[", "[", false),
        ("*a*b*c*", "xxaxxbxxcxx", true),
        ("", "", true),
        ("", "a", false),
    ] {
        assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
    }
    // Takes no exponential time.
    assert!(!fits("*a".repeat(30).as_bytes(), &[b'b'; 10_000]));
}
