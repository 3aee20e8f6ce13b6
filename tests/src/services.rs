//! What functions reach, with the test guest `fn-reach` and with real services.

use crate::http::Client;
use crate::serve::{Serve, checked};
use crate::{Platform, Running, eventually, free_port, guest};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use tempfile::TempDir;

/// Where Debian's modules are: another Python may come first in `PATH`.
const PYTHON: &str = "/usr/bin/python3";

/// The test function with these keys, after these tables.
pub fn reach(tables: &str, keys: &str) -> String {
    format!("{tables}\n[function.reach]\npath = \"/*\"\nimage = {:?}\n{keys}\n", guest("fn-reach"))
}

/// A server with folders of these names in its folder.
pub fn with_folders(platform: Platform, config: &str, folders: &[&str]) -> Serve {
    Serve::prepared(platform, config, |_, place| {
        folders.iter().for_each(|folder| fs::create_dir(place.join(folder)).unwrap());
    })
}

/// The body of an answer, which has this status.
pub fn ask(client: &mut Client, method: &str, path: &str, body: &[u8], status: u16) -> Vec<u8> {
    client.ask(method, path, "", body).unwrap().expect(status).body
}

/// The text at a path.
pub fn text(client: &mut Client, path: &str) -> String {
    String::from_utf8(ask(client, "GET", path, b"", 200)).unwrap()
}

/// `redis-server` on a port of its own, which ends with it.
pub struct Redis {
    child: Child,
    /// Its port.
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Redis {
    /// With these arguments.
    pub fn start(options: &[&str]) -> Redis {
        Redis::at(free_port(), options)
    }

    /// On this port.
    pub fn at(port: u16, options: &[&str]) -> Redis {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        // With TLS it has its port by another option.
        if !options.contains(&"--tls-port") {
            command.args(["--port", &port.to_string()]);
        }
        command.args(["--bind", "127.0.0.1", "--save", ""]).args(options);
        let child = command.current_dir(folder.path()).stdout(Stdio::null()).spawn().unwrap();
        eventually("redis-server", || TcpStream::connect(("127.0.0.1", port)).ok());
        Redis { child, port, _folder: folder }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What any store does, whatever is behind it.
pub fn a_store_works(serve: &Serve) {
    let mut client = serve.client();
    ask(&mut client, "GET", "/store?name=kv&key=none", b"", 404);
    ask(&mut client, "PUT", "/store?name=kv&key=a%2Fb", b"first", 200);
    assert_eq!(ask(&mut client, "GET", "/store?name=kv&key=a%2Fb", b"", 200), b"first");
    ask(&mut client, "PUT", "/store?name=kv&key=a%2Fb&if=absent", b"second", 409);
    ask(&mut client, "PUT", "/store?name=kv&key=a%2Fc&if=absent", b"", 200);
    assert_eq!(ask(&mut client, "GET", "/store?name=kv&key=a%2Fc", b"", 200), b"");
    // More than the ring holds, with all bytes there are.
    let large: Vec<u8> = (0..500_000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
    ask(&mut client, "PUT", "/store?name=kv&key=large", &large, 200);
    assert!(ask(&mut client, "GET", "/store?name=kv&key=large", b"", 200) == large);
    assert_eq!(text(&mut client, "/keys?name=kv&key=a"), "a/b 5\na/c 0\n");
    let many: String = (0..16).map(|n| format!("many{n:02} 6\n")).collect();
    assert_eq!(text(&mut client, "/many?name=kv&key=many"), many);
    assert_eq!(text(&mut client, "/keys?name=kv&key=many"), many);
    let delete = |client: &mut Client, key: &str| {
        ask(client, "DELETE", &format!("/store?name=kv&key={key}"), b"", 200)
    };
    assert_eq!(delete(&mut client, "large"), b"true\n");
    assert_eq!(delete(&mut client, "large"), b"false\n");
    // Clones that change the same value at the same time lose nothing.
    thread::scope(|scope| {
        for _ in 0..4 {
            let mut client = serve.client();
            scope.spawn(move || (0..25).for_each(|_| drop(text(&mut client, "/add?name=kv&key=n"))));
        }
    });
    assert_eq!(ask(&mut client, "GET", "/store?name=kv&key=n", b"", 200), b"100");
}

/// What `--check` says of this configuration, which is wrong.
pub fn refused(platform: Platform, config: &str, prepare: impl FnOnce(&Path)) -> String {
    let (mut command, folder) = checked(platform, config, &["--check"]);
    prepare(folder.path());
    command.env_remove("CREDENTIALS_DIRECTORY");
    Running::new(&mut command).finish().expect(2).err
}

/// An object store that speaks S3: Swift, with the bucket `pictures`.
pub struct ObjectStore {
    child: Child,
    /// Its port.
    pub port: u16,
    _folder: TempDir,
}

impl ObjectStore {
    /// Where it runs: with TLS if there is a certificate and its key. `None`: it is not here, and the test is left out.
    pub fn start(tls: Option<(&Path, &Path)>) -> Option<ObjectStore> {
        let found = Command::new(PYTHON).args(["-c", "import swift"]).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            crate::skip("needs python3 with its module swift");
            return None;
        }
        let folder = TempDir::new().expect("room for a folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/object_store.py");
        let mut command = Command::new(PYTHON);
        command.arg(script).arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some((certificate, key)) = tls {
            command.args([certificate, key]);
        }
        let mut child = command.spawn().expect("Python runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is captured")).read_line(&mut line).expect("its port");
        let port = line.trim().parse().expect("a port: it said on standard error what is wrong");
        Some(ObjectStore { child, port, _folder: folder })
    }

    /// The keys of a table that names it, with files of [`ObjectStore::secrets`].
    pub fn keys(&self, host: &str) -> String {
        format!(
            "url = \"{host}:{}\"\nbucket = \"pictures\"\nregion = \"eu-test-1\"\naccess_key = \"file:access\"\nsecret_key = \"file:secret\"\n",
            self.port
        )
    }

    /// Puts files with its keys into a folder.
    pub fn secrets(folder: &Path) {
        fs::write(folder.join("access"), "test:tester\n").unwrap();
        fs::write(folder.join("secret"), "testing\n").unwrap();
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate and its key, in PEM format, in files.
pub struct Identity {
    /// The certificate.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// An authority that vouches for services and for their clients.
pub struct Authority {
    folder: TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    /// A new one.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Authority {
        let folder = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name = named("an authority");
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority { folder, issuer: rcgen::Issuer::new(parameters, key) }
    }

    /// The file with its certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name or an address.
    pub fn identity(&self, name: &str) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        parameters.distinguished_name = named(name);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let [chain, key_file] =
            ["pem", "key"].map(|end| self.folder.path().join(format!("{}.{end}", name.replace('*', "any"))));
        fs::write(&chain, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        Identity { chain, key: key_file }
    }
}

fn named(name: &str) -> rcgen::DistinguishedName {
    let mut named = rcgen::DistinguishedName::new();
    named.push(rcgen::DnType::CommonName, name);
    named
}
