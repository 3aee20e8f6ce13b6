//! Clients that are not as they should be. hv goes on, and so does its guest.

use super::ignoring;
use hv_tests::control::{Client, Controlled};
use hv_tests::{Platform, guest_test};
use std::io::Read;
use std::net::Shutdown;

/// The guest and other clients are as well off as before.
#[track_caller]
fn goes_on(guest: Controlled) {
    guest.set(&["vcpus=2"]);
    guest.shows(r#""target":2,"#);
    let end = guest.stop().expect(0);
    assert!(!end.err.contains("panicked"), "{}", end.err);
}

#[guest_test]
fn garbage_is_answered_with_what_is_wrong(platform: Platform) {
    let guest = ignoring(platform);
    let mut client = guest.client();
    for (bad, named) in [
        ("", "not understood"),
        ("get", "not understood"),
        ("{\"get\":{}", "not understood"),
        (r#"{"gett":{}}"#, "unknown variant `gett`"),
        (r#"{"set":{"vcpu":4}}"#, "unknown field `vcpu`"),
        (r#"{"set":{"vcpus":0}}"#, "use 1 to 4"),
        (r#"{"set":{"vcpus":18446744073709551615}}"#, "use 1 to 4"),
        (r#"{"set":{"memory":18446744073709551615}}"#, "use 1 to 16777216"),
        (r#"{"set":{"weight":65536}}"#, "1 to 65535"),
        (r#"{"set":{"cap":6401}}"#, "6400"),
        ("\u{0}\u{1}\u{7f}", "not understood"),
    ] {
        let answer = client.ask(bad);
        assert!(answer.starts_with(r#"{"error":""#) && answer.contains(named), "{bad:?}: {answer}");
    }
    // The same client is answered as before.
    assert!(client.ask(r#"{"get":{}}"#).starts_with(r#"{"ok":{"name":"targets""#));
    // Any bytes.
    let mut state = 7u32;
    for _ in 0..50 {
        let mut client = guest.client();
        let bytes: Vec<u8> = (0..3000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let _ = client.send(&bytes);
        let _ = client.stream.get_ref().shutdown(Shutdown::Write);
        while !client.answer().is_empty() {}
    }
    goes_on(guest);
}

#[guest_test]
fn a_line_without_an_end_is_refused(platform: Platform) {
    let guest = ignoring(platform);
    let mut client = guest.client();
    // More than hv reads: it may close the connection meanwhile.
    let _ = client.send(&vec![b' '; 10 << 20]);
    let answer = client.answer();
    assert!(answer.is_empty() || answer.contains("at most 4096 bytes"), "{answer}");
    let mut client = guest.client();
    client.send(&[b'{'; 4096]).unwrap();
    assert!(client.answer().contains("at most 4096 bytes"));
    assert_eq!(client.answer(), "");
    goes_on(guest);
}

#[guest_test]
fn who_sends_no_more_is_answered(platform: Platform) {
    let guest = ignoring(platform);
    let mut client = guest.client();
    // The last line has no end.
    client.send(b"{\"set\":{\"vcpus\":3}}\n{\"get\":{}}\n{\"pause\":{}}\n{\"resume\":{}}").unwrap();
    client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    for _ in 0..4 {
        let answer = client.answer();
        assert!(answer.starts_with(r#"{"ok":{"#) && answer.contains(r#""target":3,"#), "{answer}");
    }
    assert_eq!(client.answer(), "", "and the connection is closed");
    // Who has gone away before the answer.
    for _ in 0..20 {
        guest.client().send(b"{\"get\":{}}\n").unwrap();
    }
    goes_on(guest);
}

#[guest_test]
fn a_client_that_does_not_read_is_not_waited_for(platform: Platform) {
    let guest = ignoring(platform);
    let mut slow = guest.client();
    slow.stream.get_ref().set_nonblocking(true).unwrap();
    // Until hv takes no more from it.
    let requests = b"{\"get\":{}}\n".repeat(100);
    while slow.send(&requests).is_ok() {}
    let mut other = guest.client();
    assert!(other.ask(r#"{"get":{}}"#).starts_with(r#"{"ok":"#));
    // What it reads after all is whole.
    slow.stream.get_ref().set_nonblocking(false).unwrap();
    for _ in 0..1000 {
        let answer = slow.answer();
        assert!(answer.starts_with(r#"{"ok":{"#) && answer.ends_with("}\n"), "{answer}");
    }
    drop(slow);
    goes_on(guest);
}

#[guest_test]
fn a_hundred_connections_lock_nobody_out(platform: Platform) {
    let guest = ignoring(platform);
    let mut silent: Vec<Client> = (0..100).map(|_| guest.client()).collect();
    guest.shows(r#""target":1,"#);
    let mut one = guest.client();
    for _ in 0..30 {
        let _others: Vec<Client> = (0..5).map(|_| guest.client()).collect();
        // Those that say nothing make room, and not this one.
        assert!(one.ask(r#"{"get":{}}"#).starts_with(r#"{"ok":"#));
    }
    // Most of them were closed.
    let is_open = |client: &mut Client| {
        let stream = client.stream.get_mut();
        let _ = stream.set_nonblocking(true);
        !matches!(stream.read(&mut [0]), Ok(0))
    };
    let open = silent.iter_mut().map(is_open).filter(|open| *open);
    assert!(open.count() <= 16);
    goes_on(guest);
}
