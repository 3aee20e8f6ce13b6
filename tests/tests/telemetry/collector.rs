//! A collector of OTLP over HTTP, with JSON.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What it was told in one request.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) path: String,
    fields: Vec<(String, String)>,
    body: Value,
}

pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Collector {
    pub(crate) fn start() -> Collector {
        Collector::at(([127, 0, 0, 1], 0).into())
    }

    pub(crate) fn at(address: SocketAddr) -> Collector {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().unwrap();
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let all = told.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let all = all.clone();
                thread::spawn(move || listen(stream, &all));
            }
        });
        Collector { address, told }
    }

    /// All requests so far.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }
}

fn listen(stream: TcpStream, all: &Mutex<Vec<Told>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(told) = read(&mut reader) {
        all.lock().unwrap().push(told);
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Told> {
    let mut line = || {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let path = first.strip_prefix("POST ")?.strip_suffix(" HTTP/1.1").expect("HTTP/1.1").to_owned();
    let mut fields = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        fields.push((name.to_lowercase(), value.to_owned()));
    }
    let length =
        fields.iter().find(|(name, _)| name == "content-length").expect("a length").1.parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Told { path, fields, body: serde_json::from_slice(&body).expect("JSON") })
}

impl Told {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The name of the service that tells it.
    pub(crate) fn service(&self) -> String {
        let resource = ["resourceSpans", "resourceMetrics"].iter().find_map(|key| self.body.get(*key));
        attribute(&resource.unwrap()[0]["resource"], "service.name")
    }

    /// All spans in it.
    pub(crate) fn spans(&self) -> Vec<Value> {
        each(self.body.get("resourceSpans"), "scopeSpans", "spans")
    }

    /// A metric in it.
    pub(crate) fn metric(&self, name: &str) -> Option<Value> {
        let all = each(self.body.get("resourceMetrics"), "scopeMetrics", "metrics");
        all.into_iter().find(|metric| metric["name"] == name)
    }
}

fn each(resources: Option<&Value>, scopes: &str, items: &str) -> Vec<Value> {
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let resources = resources.map(array).unwrap_or_default();
    let scopes = resources.iter().flat_map(|resource| array(&resource[scopes]));
    scopes.flat_map(|scope| array(&scope[items])).collect()
}

/// The value of an attribute as text; empty: there is none.
pub(crate) fn attribute(of: &Value, key: &str) -> String {
    let all = of["attributes"].as_array().cloned().unwrap_or_default();
    let found =
        all.iter().find(|attribute| attribute["key"] == key).map(|attribute| attribute["value"].clone());
    let value = found.unwrap_or_default();
    let text = value.get("stringValue").or_else(|| value.get("intValue"));
    text.and_then(Value::as_str).unwrap_or_default().to_owned()
}
