//! What each client may take of `hv serve`, and which connections end when there are too many.

use hv_tests::http::Client;
use hv_tests::serve::{Serve, probe};
use hv_tests::{Platform, eventually, guest_test};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[guest_test]
fn idle_connections_make_room_and_busy_ones_do_not(platform: Platform) {
    // Nothing but room for others ends a connection within the time of this test.
    let config = format!("connections = 8\nheader_time = \"10m\"\nadmin = \"127.0.0.1:0\"\n{}", probe(""));
    let serve = Serve::start(platform, &config);
    let mut busy = serve.client();
    busy.send(b"GET /nap?ms=3000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("a guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
    // Some have asked for something, some have said nothing.
    let mut used: Vec<Client> = (0..4).map(|_| serve.client()).collect();
    used.iter_mut().for_each(|client| drop(client.ask("GET", "/ok", "", b"").unwrap().expect(200)));
    let _silent: Vec<Client> = (0..3).map(|_| serve.client()).collect();
    let mut later: Vec<Client> = Vec::new();
    for _ in 0..30 {
        let mut client = serve.client();
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
        later.push(client);
    }
    // The last ones have been idle the shortest. The first ones are told that their connections have ended.
    for client in later.iter_mut().rev().take(3) {
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    }
    assert!(used[0].ask("GET", "/ok", "", b"").is_err(), "it was idle the longest");
    busy.answer("GET").unwrap().expect(200);
    // hv's own pages have places of their own.
    assert!(serve.metric("hv_requests_total") >= 30.0);
    serve.end();
}

#[guest_test]
fn a_client_has_no_more_connections_than_it_may(platform: Platform) {
    let serve =
        Serve::start(platform, &format!("client_connections = 2\nadmin = \"127.0.0.1:0\"\n{}", probe("")));
    let (mut first, mut second) = (serve.client(), serve.client());
    for client in [&mut first, &mut second] {
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    }
    let closed =
        |client: Result<Client, _>| client.and_then(|mut client| client.ask("GET", "/ok", "", b"")).is_err();
    assert!(closed(Client::connect(serve.port)), "a third connection");
    eventually("the count", || (serve.metric("hv_connections_refused_total") >= 1.0).then_some(()));
    first.ask("GET", "/ok", "", b"").unwrap().expect(200);
    drop(first);
    eventually("a place", || (!closed(Client::connect(serve.port))).then_some(()));
    serve.end();
}

#[guest_test]
fn a_client_asks_no_more_often_than_it_may(platform: Platform) {
    let serve = Serve::start(platform, &format!("client_rate = 1\nadmin = \"127.0.0.1:0\"\n{}", probe("")));
    let mut client = serve.client();
    client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    let refused = eventually("a refusal", || {
        let answer = client.ask("GET", "/ok", "", b"").unwrap();
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert!(refused.text().contains("too many requests of this client"), "{}", refused.text());
    // After a while it may.
    eventually("an answer", || (client.ask("GET", "/ok", "", b"").unwrap().status == 200).then_some(()));
    assert!(serve.log_line(" 429 ").contains("GET /ok"));
    serve.end();
}

/// Connections of the next test at a time.
const MANY: usize = 3000;

#[guest_test]
fn memory_of_connections_that_are_over_goes_back(platform: Platform) {
    // This program has the other ends.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let serve = Serve::start(platform, &format!("connections = {MANY}\nheader_time = \"2m\"\n{}", probe("")));
    let open = || {
        let mut clients: Vec<_> = (0..MANY).map(|_| serve.client()).collect();
        for client in &mut clients {
            client.ask("GET", "/ok", "", b"").unwrap().expect(200);
        }
        clients
    };
    serve.get("/ok").expect(200);
    let before = serve.resident();
    for _ in 0..2 {
        let clients = open();
        let most = serve.resident();
        assert!(
            most > before + (16 << 20),
            "{most} bytes, {before} before: they take less than this test looks for"
        );
        drop(clients);
        eventually("memory that goes back", || (serve.resident() < before + (12 << 20)).then_some(()));
    }
    serve.end();
}
