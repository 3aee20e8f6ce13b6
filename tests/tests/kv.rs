//! The `kv` guest, as the tools of Redis see it.

use hv_tests::{Platform, Service, eventually, guest_test, has_tools, tool};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

fn kv(platform: Platform, options: &[&str]) -> Option<Service> {
    if !has_tools(&["redis-cli", "redis-benchmark"]) {
        return None;
    }
    Some(Service::start(platform, "kv", options, "6379"))
}

fn redis(program: &str, kv: &Service) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &kv.port.to_string()]);
    command
}

/// What redis-cli prints for a command, in the form for people.
#[track_caller]
fn ask(kv: &Service, words: &[&str]) -> String {
    tool(redis("redis-cli", kv).arg("--no-raw").args(words)).text().trim_end().to_owned()
}

#[guest_test]
fn every_command_by_redis_cli(platform: Platform) {
    let Some(kv) = kv(platform, &[]) else { return };
    let expect = |words: &[&str], answer: &str| assert_eq!(ask(&kv, words), answer, "{words:?}");

    expect(&["PING"], "PONG");
    expect(&["PING", "hello there"], "\"hello there\"");
    expect(&["ping"], "PONG");
    expect(&["DBSIZE"], "(integer) 0");

    expect(&["SET", "greeting", "hello"], "OK");
    expect(&["GET", "greeting"], "\"hello\"");
    expect(&["GET", "nothing"], "(nil)");
    expect(&["SET", "greeting", "ünïcödé\r\n\u{1}"], "OK");
    assert_eq!(tool(redis("redis-cli", &kv).args(["--raw", "GET", "greeting"])).text(), "ünïcödé\r\n\u{1}\n");
    expect(&["SET", "greeting", "x", "NX"], "(nil)");
    expect(&["SET", "new", "x", "XX"], "(nil)");
    expect(&["SET", "new", "", "NX"], "OK");
    expect(&["GET", "new"], "\"\"");

    expect(&["EXISTS", "greeting", "new", "nothing", "new"], "(integer) 3");
    expect(&["DEL", "greeting", "nothing"], "(integer) 1");
    expect(&["EXISTS", "greeting"], "(integer) 0");

    expect(&["INCR", "counter"], "(integer) 1");
    expect(&["INCR", "counter"], "(integer) 2");
    expect(&["SET", "counter", "9223372036854775806"], "OK");
    expect(&["INCR", "counter"], "(integer) 9223372036854775807");
    expect(&["INCR", "counter"], "(error) ERR increment or decrement would overflow");
    expect(&["SET", "text", "abc"], "OK");
    expect(&["INCR", "text"], "(error) ERR value is not an integer or out of range");

    expect(&["TTL", "nothing"], "(integer) -2");
    expect(&["TTL", "text"], "(integer) -1");
    expect(&["EXPIRE", "nothing", "10"], "(integer) 0");
    expect(&["EXPIRE", "text", "1000"], "(integer) 1");
    let left = ask(&kv, &["TTL", "text"]);
    let left: u32 = left.strip_prefix("(integer) ").unwrap().parse().unwrap();
    assert!((800..=1000).contains(&left), "{left}");
    expect(&["EXPIRE", "text", "soon"], "(error) ERR value is not an integer or out of range");
    expect(&["SET", "short", "x", "PX", "30"], "OK");
    expect(&["EXPIRE", "new", "1"], "(integer) 1");
    eventually("the end of a key", || (ask(&kv, &["GET", "short"]) == "(nil)").then_some(()));
    eventually("the end of a key", || (ask(&kv, &["EXISTS", "new"]) == "(integer) 0").then_some(()));
    expect(&["TTL", "short"], "(integer) -2");
    expect(&["EXPIRE", "text", "-1"], "(integer) 1");
    expect(&["GET", "text"], "(nil)");

    expect(&["FLUSHALL"], "OK");
    expect(&["DBSIZE"], "(integer) 0");
    expect(&["KEYS", "*"], "(empty array)");
    expect(&["MSET", "a1", "1", "a2", "2", "b1", "3"], "OK");
    expect(&["DBSIZE"], "(integer) 3");
    expect(&["MGET", "a1", "none", "b1"], "1) \"1\"\n2) (nil)\n3) \"3\"");
    let keys = |pattern: &str| {
        let text = tool(redis("redis-cli", &kv).args(["--raw", "KEYS", pattern])).text();
        let mut keys: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys("*"), ["a1", "a2", "b1"]);
    assert_eq!(keys("a?"), ["a1", "a2"]);
    assert_eq!(keys("?[1]"), ["a1", "b1"]);
    assert_eq!(keys("none*"), [""; 0]);

    let info = tool(redis("redis-cli", &kv).args(["--raw", "INFO"])).text();
    for part in ["redis_version:", "used_memory:", "db0:keys=3"] {
        assert!(info.contains(part), "{part} in {info}");
    }
    expect(&["CONFIG", "GET", "save"], "1) \"save\"\n2) \"\"");
    expect(&["CONFIG", "GET", "append*"], "1) \"appendonly\"\n2) \"no\"");
    expect(&["CONFIG", "SET", "save", "1"], "(error) ERR this server has no settings to change");

    for words in
        [&["GET"][..], &["SET", "a"], &["MSET", "a"], &["MGET"], &["INCR"], &["EXPIRE", "a"], &["KEYS"]]
    {
        let name = words[0].to_lowercase();
        expect(words, &format!("(error) ERR wrong number of arguments for '{name}' command"));
    }
    assert!(ask(&kv, &["NOSUCH", "x"]).starts_with("(error) ERR unknown command"));
    kv.end();
}

#[guest_test]
fn large_values_and_many_keys(platform: Platform) {
    for vcpus in ["1", "2"] {
        let Some(kv) = kv(platform, &["--memory", "64M", "--vcpus", vcpus]) else { return };
        large_and_many(&kv);
        kv.end();
    }
}

/// Commands that arrive together are executed by any virtual CPU.
#[guest_test]
fn commands_of_all_connections_change_the_same_store(platform: Platform) {
    for vcpus in ["1", "2", "4"] {
        let Some(kv) = kv(platform, &["--memory", "64M", "--vcpus", vcpus]) else { return };
        let connections = [(); 8].map(|()| {
            let mut connection = TcpStream::connect(("127.0.0.1", kv.port)).unwrap();
            let mut writer = connection.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                writer.write_all("INCR counter\r\n".repeat(5000).as_bytes()).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            std::thread::spawn(move || {
                let mut text = String::new();
                connection.read_to_string(&mut text).unwrap();
                writing.join().unwrap();
                let numbers: Vec<u32> = text.lines().map(|line| line[1..].parse().unwrap()).collect();
                assert!(numbers.len() == 5000 && numbers.is_sorted(), "each answer once, in order");
                numbers
            })
        });
        let mut all: Vec<u32> = connections.into_iter().flat_map(|answers| answers.join().unwrap()).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=40_000), "no increment is lost, none counts twice");
        kv.end();
    }
}

fn large_and_many(kv: &Service) {
    let value = "0123456789abcdef".repeat(30_000);
    let mut connection = TcpStream::connect(("127.0.0.1", kv.port)).unwrap();
    for n in 0..8 {
        let set = format!("*3\r\n$3\r\nSET\r\n$4\r\nbig{n}\r\n${}\r\n{value}\r\n", value.len());
        connection.write_all(set.as_bytes()).unwrap();
    }
    // All are asked for before any is read.
    for n in 0..8 {
        connection.write_all(format!("*2\r\n$3\r\nGET\r\n$4\r\nbig{n}\r\n").as_bytes()).unwrap();
    }
    connection.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    connection.read_to_string(&mut answers).unwrap();
    let one = format!("${}\r\n{value}\r\n", value.len());
    assert!(answers == "+OK\r\n".repeat(8) + &one.repeat(8), "{} bytes came back", answers.len());

    let mut commands = String::new();
    for n in 0..20_000 {
        commands += &format!("SET key:{n} {n}\r\n");
    }
    let mut connection = BufReader::new(TcpStream::connect(("127.0.0.1", kv.port)).unwrap());
    let mut writer = connection.get_ref().try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(commands.as_bytes()).unwrap());
    let mut line = String::new();
    for n in 0..20_000 {
        line.clear();
        connection.read_line(&mut line).unwrap();
        assert_eq!(line, "+OK\r\n", "key {n}");
    }
    writing.join().unwrap();
    assert_eq!(ask(kv, &["DBSIZE"]), "(integer) 20008");
    assert_eq!(ask(kv, &["MGET", "key:0", "key:19999"]), "1) \"0\"\n2) \"19999\"");
}

#[guest_test]
fn a_full_memory_refuses_more_and_goes_on(platform: Platform) {
    let Some(kv) = kv(platform, &["--memory", "16M"]) else { return };
    let value = "x".repeat(100_000);
    let answers: Vec<String> = (0..100).map(|n| ask(&kv, &["SET", &format!("k{n}"), &value])).collect();
    assert_eq!(answers[0], "OK");
    assert!(answers[99].starts_with("(error) OOM"), "{}", answers[99]);
    assert_eq!(ask(&kv, &["STRLEN", "k0"]), "(integer) 100000");
    assert_eq!(ask(&kv, &["FLUSHALL"]), "OK");
    assert_eq!(ask(&kv, &["SET", "k", "v"]), "OK");
    kv.end();
}

#[guest_test]
fn what_is_no_protocol_ends_the_connection_only(platform: Platform) {
    let Some(kv) = kv(platform, &[]) else { return };
    for nonsense in
        [&b"*3\r\n$x\r\n"[..], b"*99999999\r\n", b"*1\r\n$999999999\r\n", b"*-5\r\n$3\r\n", &[0xff; 100_000]]
    {
        let mut connection = TcpStream::connect(("127.0.0.1", kv.port)).unwrap();
        // The other side may have had enough before the end.
        let _ = connection.write_all(nonsense);
        let _ = connection.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        assert_eq!(ask(&kv, &["PING"]), "PONG", "after {:?}", &nonsense[..nonsense.len().min(20)]);
    }
    kv.end();
}

#[guest_test]
fn redis_benchmark_finds_no_errors(platform: Platform) {
    let Some(kv) = kv(platform, &["--memory", "64M"]) else { return };
    let mut benchmark = redis("redis-benchmark", &kv);
    benchmark.args(["-q", "-n", "20000", "-P", "16", "-t", "ping,set,get,incr,mset"]);
    let end = tool(&mut benchmark);
    assert!(!end.text().contains("rror") && !end.err.contains("rror"), "{}\n{}", end.text(), end.err);
    // Its progress overwrites itself; the results are what stays.
    let text = end.text().replace('\r', "\n");
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET"] {
        let result = |line: &str| line.starts_with(test) && line.contains("requests per second");
        assert!(text.lines().any(result), "{test} in {text}");
    }
    assert_eq!(ask(&kv, &["GET", "counter:__rand_int__"]), "\"20000\"");
    assert_eq!(ask(&kv, &["PING"]), "PONG");
    kv.end();
}
