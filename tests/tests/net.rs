//! Networks, end to end: both directions of the user-mode network, captures,
//! and a tap device with a DHCP server at its other end.

use hv::device::net::user::{UserConfig, UserNet};
use hv::device::stdio::Buffer;
use hv::{Builder, Image, Outcome};
use hv_tests::{
    Finished, Platform, Running, Service, eventually, free_port, guest, guest_test, has_tools, hv, tool,
};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Sends a datagram until it is answered; the answer.
fn exchange(socket: &UdpSocket, bytes: &[u8]) -> Vec<u8> {
    socket.set_read_timeout(Some(SECOND)).unwrap();
    let mut answer = vec![0; 65_536];
    eventually("an answer", || {
        socket.send(bytes).ok()?;
        let count = socket.recv(&mut answer).ok()?;
        // A late answer to an earlier one.
        (answer[..count] == *bytes).then(|| answer[..count].to_vec())
    })
}

#[guest_test]
fn udp_echo_by_a_published_port(platform: Platform) {
    let echo = Service::start(platform, "udp-echo", &[], "7/udp");
    let sockets: Vec<UdpSocket> = (0..5)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(("127.0.0.1", echo.port)).unwrap();
            socket
        })
        .collect();
    for len in [1, 2, 100, 1472, 1473, 9000, 32_000] {
        for (n, socket) in sockets.iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + n + len) as u8).collect();
            assert!(exchange(socket, &bytes) == bytes);
        }
    }
    echo.end();
}

/// A server on the loopback interface that serves one connection.
fn one_connection(serve: impl FnOnce(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || serve(listener.accept().unwrap().0));
    port
}

/// Answers the request of probe's `net-get`.
fn answer(mut stream: TcpStream, text: &str) {
    let mut request = [0; 18];
    stream.read_exact(&mut request).unwrap();
    assert_eq!(&request, b"GET / HTTP/1.0\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
}

#[guest_test]
fn a_guest_reaches_the_host_as_its_gateway(platform: Platform) {
    let port = one_connection(|stream| answer(stream, "HTTP/1.0 200 OK\r\n\r\nfrom the host\n"));
    let text = platform
        .ran("probe", &["--net", "user,host=allow"], &["net-get", "10.0.2.2", &port.to_string()])
        .expect(0)
        .text();
    assert_eq!(text, "address 10.0.2.15/24\nHTTP/1.0 200 OK\r\n\r\nfrom the host\n");
    let refused = platform
        .ran("probe", &["--net=user,host=allow"], &["net-get", "10.0.2.2", &free_port().to_string()])
        .expect(1);
    assert!(refused.text().contains("connect: ConnectionReset"), "{}", refused.text());
}

#[guest_test]
fn the_hosts_loopback_is_closed_unless_it_is_opened(platform: Platform) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for options in
        [&["--net"][..], &["--net", "user"], &["--net=user,host=deny"], &["--publish", "127.0.0.1:0:80"]]
    {
        for address in ["10.0.2.2", "127.0.0.1", "127.0.0.53", "10.0.2.77"] {
            let refused = platform.ran("probe", options, &["net-get", address, &port]).expect(1);
            assert!(refused.text().contains("connect: ConnectionReset"), "{}", refused.text());
        }
    }
    assert!(listener.accept().is_err(), "it came through");
}

#[guest_test]
fn a_connection_of_the_guest_carries_bytes_both_ways(platform: Platform) {
    let port = one_connection(|mut stream| {
        let mut writer = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut writer).unwrap();
    });
    let arguments = ["net-echo", "10.0.2.2", &port.to_string(), "20"];
    let text = platform.ran("probe", &["--net", "user,host=allow"], &arguments).expect(0).text();
    assert!(text.ends_with("20971520 bytes returned\n"), "{text}");
}

#[guest_test]
fn datagrams_of_the_guest_are_answered(platform: Platform) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut bytes = [0; 100];
        while let Ok((count, from)) = server.recv_from(&mut bytes) {
            bytes[..count].reverse();
            let _ = server.send_to(&bytes[..count], from);
        }
    });
    let arguments = ["net-udp", "10.0.2.2", &port.to_string(), "datagram"];
    let text = platform.ran("probe", &["--net", "user,host=allow"], &arguments).expect(0).text();
    assert!(text.ends_with(&format!("margatad from 10.0.2.2:{port}\n")), "{text}");
}

/// Answers queries for `name`'s address with 10.0.2.2, and that others do not exist.
fn name_server(name: &'static str) -> SocketAddr {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, from)) = server.recv_from(&mut query) {
            let question = &query[12..count];
            let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
            let known = question.starts_with(&labels.chain([0, 0, 1]).collect::<Vec<_>>());
            // RFC 1035, 4.1: the query's number and question, and one answer that refers to the question.
            let (code, answers) = if known { (0x80, 1) } else { (0x83, 0) };
            let mut answer = [&query[..2], &[0x81, code, 0, 1, 0, answers, 0, 0, 0, 0], question].concat();
            if known {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 2, 2]);
            }
            let _ = server.send_to(&answer, from);
        }
    });
    address
}

/// Runs probe in this process, on a network with this name server.
fn probe_with_name_server(platform: Platform, server: SocketAddr, arguments: &[&str]) -> (Outcome, String) {
    let engine = platform.engine(0);
    let config = UserConfig {
        nameservers: Some(vec![server]),
        host_loopback: true,
        ..UserConfig::new([2, 0, 0, 0, 0, 1])
    };
    let output = Buffer::default();
    let mut builder = Builder::new(Image::open(&guest("probe")).unwrap())
        .output(output.clone())
        .network(Box::new(UserNet::new(config).unwrap()), None);
    for argument in arguments {
        builder = builder.argument(argument);
    }
    (builder.spawn(&engine).unwrap().wait(), output.text())
}

#[guest_test]
fn names_are_looked_up_by_the_hosts_name_server(platform: Platform) {
    let server = name_server("host.example");
    let port = one_connection(|stream| answer(stream, "found\n")).to_string();
    let (outcome, text) = probe_with_name_server(platform, server, &["net-get", "host.example", &port]);
    assert!(matches!(outcome, Outcome::Exited(0)) && text.ends_with("\nfound\n"), "{outcome:?}\n{text}");
    let (outcome, text) = probe_with_name_server(platform, server, &["net-get", "other.example", &port]);
    assert!(matches!(outcome, Outcome::Exited(1)) && text.contains("other.example"), "{outcome:?}\n{text}");
    // There is no answer from there.
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (outcome, text) = probe_with_name_server(platform, nobody, &["net-get", "host.example", &port]);
    assert!(matches!(outcome, Outcome::Exited(1)) && text.contains("host.example"), "{outcome:?}\n{text}");
}

/// A name server with as many addresses for each name as no datagram of 512 bytes holds.
fn many_addresses(address: &str, port: u16) -> SocketAddr {
    let answer = |query: &[u8]| {
        let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, 100, 0, 0, 0, 0], &query[12..]].concat();
        for n in 0..100 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, n]);
        }
        answer
    };
    let (udp, tcp) = eventually("a port that is free for both", || {
        let udp = UdpSocket::bind((address, port)).ok()?;
        let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
        Some((udp, tcp))
    });
    let server = udp.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, from)) = udp.recv_from(&mut query) {
            let _ = udp.send_to(&answer(&query[..count]), from);
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut query = vec![0; u16::from_be_bytes(len).into()];
            stream.read_exact(&mut query).unwrap();
            let answer = answer(&query);
            stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &answer[..]].concat()).unwrap();
        }
    });
    server
}

#[guest_test]
fn an_answer_that_is_too_long_for_udp_comes_over_tcp(platform: Platform) {
    let server = many_addresses("127.0.0.1", 0);
    let (outcome, text) = probe_with_name_server(platform, server, &["net-resolve", "many.example", "0"]);
    assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?}\n{text}");
    assert!(text.ends_with("100 addresses, the last is 192.0.2.99\n"), "{text}");
}

/// The command in its jail, with the host's own files and an IPv6 name server, in namespaces of the test's own.
#[guest_test]
fn the_hosts_files_say_whom_to_ask(platform: Platform) {
    if !has_tools(&["ip", "mount"]) {
        return;
    }
    // SAFETY: no memory is passed.
    if unsafe { libc::geteuid() } != 0 {
        hv_tests::skip("needs root");
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let files = ["resolv.conf", "hosts"].map(|name| folder.path().join(name));
    fs::write(&files[0], "nameserver ::1\noptions timeout:60\n").unwrap();
    fs::write(&files[1], "192.0.2.7 listed.example\n").unwrap();
    let inside = std::thread::spawn(move || {
        // SAFETY: no memory is passed; only this thread, and what it starts, is somewhere else from now on.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
        assert_eq!(moved, 0, "{}", std::io::Error::last_os_error());
        tool(Command::new("mount").args(["--make-rprivate", "/"]));
        for (file, name) in files.iter().zip(["/etc/resolv.conf", "/etc/hosts"]) {
            tool(Command::new("mount").arg("--bind").arg(file).arg(name));
        }
        tool(Command::new("ip").args(["link", "set", "lo", "up"]));
        assert_eq!(many_addresses("::1", 53).port(), 53);
        let asked =
            |name: &str| platform.ran("probe", &["--net"], &["net-resolve", name, "0"]).expect(0).text();
        let text = asked("many.example");
        assert!(text.ends_with("100 addresses, the last is 192.0.2.99\n"), "{text}");
        let text = asked("Listed.Example");
        assert!(text.ends_with("1 addresses, the last is 192.0.2.7\n"), "{text}");
    });
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}

#[guest_test]
fn a_datagram_that_is_too_long_is_an_error(platform: Platform) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (count, from) = server.recv_from(&mut [0; 65_536]).unwrap();
        server.send_to(count.to_string().as_bytes(), from).unwrap();
    });
    let arguments = ["net-longest", "10.0.2.2", &port.to_string()];
    let text = platform.ran("probe", &["--net=user,host=allow"], &arguments).expect(0).text();
    assert!(text.contains("\n32727 bytes: Err(PacketTooLarge)\n"), "{text}");
    assert!(text.ends_with("\n32726 bytes: Ok(())\nthe server had 32726\n"), "{text}");
}

/// The lines that tshark prints of a capture: these fields of the packets that pass the filter.
fn tshark(file: &str, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r", file, "-Y", filter, "-T", "fields"]);
    for check in ["ip", "tcp", "udp"] {
        tshark.args(["-o", &format!("{check}.check_checksum:TRUE")]);
    }
    for field in fields {
        tshark.args(["-e", field]);
    }
    tool(&mut tshark).text().lines().map(str::to_owned).collect()
}

#[guest_test]
fn a_capture_shows_the_handshake_with_good_checksums(platform: Platform) {
    if !has_tools(&["tshark", "curl"]) {
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("index.html"), vec![b'x'; 100_000]).unwrap();
    let capture = tempfile::NamedTempFile::new().unwrap();
    let file = capture.path().to_str().unwrap();
    let options = ["--disk", folder.path().to_str().unwrap(), "--pcap", file];
    let web = Service::start(platform, "web", &options, "80");
    let url = format!("http://127.0.0.1:{}/", web.port);
    assert_eq!(tool(Command::new("curl").args(["-sf", "--noproxy", "*", &url])).out.len(), 100_000);
    // Each side says that it is done.
    let ends = || tshark(file, "tcp.stream == 0 && tcp.flags.fin == 1", &["frame.number"]).len();
    eventually("the end of the connection", || (ends() == 2).then_some(()));
    web.end();

    let stream = tshark(file, "tcp.stream == 0", &["ip.src", "ip.dst", "tcp.flags.str"]);
    let flags =
        |line: &str| line.rsplit('\t').next().unwrap().chars().filter(|c| c.is_alphabetic()).collect();
    let all: Vec<String> = stream.iter().map(|line| flags(line)).collect();
    // The first request may travel with the end of the handshake.
    assert!(all[..2] == ["S", "AS"] && all[2].starts_with('A'), "{stream:#?}");
    assert!(stream[0].starts_with("10.0.2.2\t10.0.2.15\t"), "{}", stream[0]);
    assert!(stream[1].starts_with("10.0.2.15\t10.0.2.2\t"), "{}", stream[1]);
    let requests = tshark(file, "http.request", &["http.request.method", "http.request.uri"]);
    assert_eq!(requests, ["GET\t/"]);
    let answers = tshark(file, "http.response", &["http.response.code", "http.content_length"]);
    assert_eq!(answers, ["200\t100000"]);
    // 1 is good: neither bad (0) nor unknown (2, 3).
    for layer in ["ip", "tcp", "udp"] {
        let bad = tshark(file, &format!("{layer} && !({layer}.checksum.status == 1)"), &["frame.number"]);
        assert_eq!(bad, [""; 0], "{layer}");
    }
    assert_eq!(tshark(file, "_ws.malformed || tcp.analysis.retransmission", &["frame.number"]), [""; 0]);
}

#[guest_test]
fn a_capture_of_an_interrupted_run_is_whole(platform: Platform) {
    if !has_tools(&["tshark"]) {
        return;
    }
    let capture = tempfile::NamedTempFile::new().unwrap();
    let file = capture.path().to_str().unwrap();
    let echo = Service::start(platform, "udp-echo", &["--pcap", file], "7/udp");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", echo.port)).unwrap();
    exchange(&socket, b"captured");
    eventually("the packets in the file", || {
        let lines = tshark(file, "udp.port == 7 && !icmp", &["ip.src", "udp.payload"]);
        let wanted = |from: &str| lines.iter().any(|line| line == &format!("{from}\t6361707475726564"));
        (wanted("10.0.2.2") && wanted("10.0.2.15")).then_some(())
    });
    echo.guest.signal(libc::SIGKILL);
    echo.guest.finish();
    assert!(!tshark(file, "udp", &["frame.number"]).is_empty());
}

// ---------------------------------------------------------------- tap

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const LEASED: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 42);

/// A network namespace with a tap device in it, gone when dropped.
struct Namespace(String);

impl Namespace {
    /// Says why there cannot be one.
    fn new() -> Option<Namespace> {
        if !has_tools(&["ip"]) {
            return None;
        }
        // The tests of both platforms run at the same time.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("hvtest{}-{number}", std::process::id());
        let added = Running::new(Command::new("ip").args(["netns", "add", &name])).finish();
        if added.code() != Some(0) {
            hv_tests::skip(format_args!("needs the right to make network namespaces: {}", added.err.trim()));
            return None;
        }
        let namespace = Namespace(name);
        let address = format!("{HOST}/24");
        for arguments in [
            &["tuntap", "add", "dev", "tap0", "mode", "tap"][..],
            &["address", "add", &address, "dev", "tap0"],
            &["link", "set", "lo", "up"],
            &["link", "set", "tap0", "up"],
            // Where broadcasts go.
            &["route", "add", "default", "dev", "tap0"],
        ] {
            let done = namespace.run("ip", arguments);
            if done.code() != Some(0) {
                hv_tests::skip(format_args!("needs a tap device: {}", done.err.trim()));
                return None;
            }
        }
        Some(namespace)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        Running::new(&mut self.command(program, arguments)).finish()
    }

    /// Runs code on a thread that is inside.
    fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            // SAFETY: no memory is passed; only this thread moves.
            let moved = unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&file), libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "{}", std::io::Error::last_os_error());
            work()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// Answers one guest's DISCOVER and REQUEST (RFC 2131) with [`LEASED`].
fn lease(server: UdpSocket) {
    server.set_broadcast(true).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    loop {
        let mut message = [0; 1500];
        let Ok((count, _)) = server.recv_from(&mut message) else { return };
        // Options follow the fixed part and the magic number; 53 is the kind of message.
        let mut options = &message[240..count];
        let mut kind = 0;
        while let [code, rest @ ..] = options
            && *code != 255
        {
            let Some((len, rest)) = rest.split_first().filter(|_| *code != 0) else { break };
            if *code == 53 {
                kind = rest[0];
            }
            options = &rest[usize::from(*len)..];
        }
        let mut answer = message[..240].to_vec();
        answer[0] = 2;
        answer[16..20].copy_from_slice(&LEASED.octets());
        answer.extend([53, 1, if kind == 1 { 2 } else { 5 }, 1, 4, 255, 255, 255, 0, 51, 4, 0, 0, 14, 16]);
        answer.extend([&[54, 4][..], &HOST.octets(), &[3, 4], &HOST.octets(), &[255]].concat());
        server.send_to(&answer, "255.255.255.255:68").unwrap();
        if kind == 3 {
            return;
        }
    }
}

#[guest_test]
fn a_guest_on_a_tap_device(platform: Platform) {
    let Some(namespace) = Namespace::new() else { return };
    // A socket stays in the namespace that it was made in.
    let server = namespace.inside(|| UdpSocket::bind("0.0.0.0:67").unwrap()).join().unwrap();
    let dhcp = std::thread::spawn(move || lease(server));
    let image = guest("udp-echo");
    let arguments = ["run", image.to_str().unwrap(), "--net", "tap=tap0"];
    let mut guest = Running::new(platform.apply(&mut namespace.command(hv().to_str().unwrap(), &arguments)));
    dhcp.join().unwrap();
    let talk = namespace.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((LEASED, 7)).unwrap();
        for len in [1, 100, 1472] {
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            assert!(exchange(&socket, &bytes) == bytes, "{len} bytes");
        }
    });
    if let Err(panic) = talk.join() {
        std::panic::resume_unwind(panic);
    }
    // A tap device has one user.
    let second = namespace.run(hv().to_str().unwrap(), &arguments).expect(2);
    assert!(second.err.contains("tap=tap0") && second.err.contains("another program"), "{}", second.err);
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.wait().code(), Some(0));
    // It is free again, and as it was.
    let link = namespace.run("ip", &["link", "show", "tap0"]).expect(0);
    assert!(link.text().contains("tap0"), "{}", link.text());
}
