//! A client of the admin API.

use hv_tests::Platform;
use hv_tests::http::{Answer, Client};
use hv_tests::serve::{Serve, probe};
use serde_json::Value;
use std::fs;
use std::path::Path;

pub(crate) const TOKEN: &str = "a-token-that-nobody-guesses";

/// A configuration with the API, and further keys of that.
pub(crate) fn config(state: &Path, keys: &str) -> String {
    let api = format!("[api]\nstate = {state:?}\ntoken = \"file:api.token\"\n{keys}");
    format!("admin = \"127.0.0.1:0\"\n{api}\n{}", probe(""))
}

/// A server with the API.
#[track_caller]
pub(crate) fn start(platform: Platform, state: &Path, keys: &str) -> Serve {
    Serve::prepared(platform, &config(state, keys), |_, folder| {
        fs::write(folder.join("api.token"), format!("{TOKEN}\n")).unwrap();
    })
}

/// The API of a server.
pub(crate) struct Api {
    port: u16,
}

impl Api {
    pub(crate) fn new(serve: &Serve) -> Api {
        Api { port: serve.admin.expect("the configuration has `admin`") }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port).expect("it listens")
    }

    /// Asks with the token.
    pub(crate) fn raw(&self, method: &str, path: &str, fields: &str, body: &[u8]) -> Answer {
        let fields = format!("Authorization: Bearer {TOKEN}\r\n{fields}");
        let answer = self.client().ask(method, path, &fields, body).expect("it answers");
        let kind = answer.field("content-type").unwrap_or_default();
        let expected = if answer.status < 400 { "application/json" } else { "application/problem+json" };
        assert_eq!(kind, expected, "{method} {path}: {}", answer.text());
        assert!(path == "/v1/openapi.json" || answer.text().lines().count() == 1, "{}", answer.text());
        answer
    }

    fn json(answer: Answer, status: u16) -> Value {
        serde_json::from_slice(&answer.expect(status).body).expect("JSON")
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str, status: u16) -> Value {
        Api::json(self.raw("GET", path, "", b""), status)
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, status: u16) -> Value {
        Api::json(self.raw("POST", path, "", b""), status)
    }

    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value, status: u16) -> Value {
        let body = body.to_string();
        Api::json(self.raw(method, path, "Content-Type: application/json\r\n", body.as_bytes()), status)
    }

    #[track_caller]
    pub(crate) fn upload(&self, path: &str, image: &[u8], status: u16) -> Value {
        Api::json(self.raw("POST", path, "Content-Type: application/octet-stream\r\n", image), status)
    }
}
