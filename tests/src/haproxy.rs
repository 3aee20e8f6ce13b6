//! HAProxy, which passes connections on.

use crate::{eventually, has_tools, system_tool};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use tempfile::TempDir;

/// Where it listens: nobody else takes these ports before it does.
pub const ADDRESS: &str = "127.0.79.1";

/// HAProxy, until it is dropped.
pub struct Haproxy {
    child: Child,
    /// The ports that it listens at, in the order of the sections.
    pub ports: Vec<u16>,
    _folder: TempDir,
}

impl Haproxy {
    /// Each section has what stands behind its address, and its further lines. `None`: it is not here, and the test is left out.
    pub fn start(sections: &[(&str, &str)]) -> Option<Haproxy> {
        if !has_tools(&["haproxy"]) {
            return None;
        }
        let folder = TempDir::new().expect("room for a folder");
        let mut config = String::from(
            "global\n maxconn 200\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n",
        );
        let mut places = Vec::new();
        for (number, (options, lines)) in sections.iter().enumerate() {
            let place = TcpListener::bind((ADDRESS, 0)).expect("a port");
            let port = place.local_addr().expect("it has one").port();
            config += &format!("listen s{number}\n bind {ADDRESS}:{port} {options}\n {lines}\n");
            places.push((place, port));
        }
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, config).expect("room for a file");
        let ports = places.into_iter().map(|(_, port)| port).collect();
        let mut command = system_tool("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        let mut proxy = Haproxy { child: command.spawn().expect("it runs"), ports, _folder: folder };
        eventually("haproxy", || {
            assert!(proxy.child.try_wait().expect("a child").is_none(), "haproxy ended");
            // What it says on standard error is shown where this fails.
            proxy.ports.iter().all(|port| is_listening(*port)).then_some(())
        });
        Some(proxy)
    }
}

/// Whether somebody listens, without a connection, which it would pass on.
fn is_listening(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let wanted = format!("014F007F:{port:04X} 00000000:0000 0A");
    table.contains(&wanted)
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection from this address of the loopback interface.
pub fn connect_from(source: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::from((source, 0)))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(crate::LIMIT))?;
    Ok(stream)
}
