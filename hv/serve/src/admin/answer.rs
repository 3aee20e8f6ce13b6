//! Answers of the API, and bodies of requests to it.

use crate::front_response::FrontResponse;
use crate::upload::{Upload, UploadError};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// Most bytes of a body in JSON.
const JSON_MAX: u64 = 64 << 10;

/// How long a client may send nothing of its body.
const PATIENCE: Duration = Duration::from_secs(30);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// RFC 9457.
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// JSON that is text already.
pub(super) fn json_text(status: StatusCode, text: Vec<u8>) -> FrontResponse {
    FrontResponse::of(status, JSON, text)
}

/// A value as JSON.
pub(super) fn json_value(status: StatusCode, value: &impl Serialize) -> FrontResponse {
    json_text(status, ascii(value))
}

/// A refusal that says why, in a line.
pub(super) fn problem(status: StatusCode, detail: &str) -> FrontResponse {
    let title = status.canonical_reason().unwrap_or_default();
    let text = ascii(&json!({"title": title, "status": status.as_u16(), "detail": detail}));
    FrontResponse::of(status, PROBLEM, text)
}

/// A refusal that says nothing but the status.
pub(super) fn untold(status: StatusCode) -> FrontResponse {
    let title = status.canonical_reason().unwrap_or_default();
    FrontResponse::of(status, PROBLEM, ascii(&json!({"title": title, "status": status.as_u16()})))
}

/// JSON in a line whose characters are all printable ones of ASCII: what guests have printed does nothing to a terminal.
fn ascii(value: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_string(value).expect("maps have keys that are text");
    let mut line = Vec::with_capacity(text.len() + 1);
    for c in text.chars() {
        if matches!(c, ' '..='~') {
            line.push(c as u8);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                line.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
    line.push(b'\n');
    line
}

/// The next bytes of a body; `None` at its end.
pub(super) async fn next(body: &mut Upload) -> Result<Option<Bytes>, FrontResponse> {
    match timeout(PATIENCE, body.next()).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(UploadError::TooLarge)) => Err(too_large()),
        Ok(Err(UploadError::Client)) => {
            Err(problem(StatusCode::BAD_REQUEST, "the body did not come to its end"))
        }
        Err(_) => {
            Err(problem(StatusCode::REQUEST_TIMEOUT, "the body did not come to its end in time").last())
        }
    }
}

pub(super) fn too_large() -> FrontResponse {
    problem(
        StatusCode::PAYLOAD_TOO_LARGE,
        "the body is larger than allowed: 64 KiB of JSON, and the `upload` of the configuration",
    )
}

/// A whole body in JSON.
pub(super) async fn read_json<T: DeserializeOwned>(body: &mut Option<Upload>) -> Result<T, FrontResponse> {
    let mut text = Vec::new();
    if let Some(body) = body {
        if !body.allow(JSON_MAX) {
            return Err(too_large());
        }
        while let Some(bytes) = next(body).await? {
            text.extend_from_slice(&bytes);
        }
    }
    // A table, and no list of its values.
    let table = serde_json::from_slice::<Map<String, Value>>(&text);
    table.and_then(|table| serde_json::from_value(Value::Object(table))).map_err(|error| {
        let detail = format!("the body is not what is asked for: {error}; /v1/openapi.json describes it");
        problem(StatusCode::BAD_REQUEST, &detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_printable_ascii_is_sent() {
        let hostile = "\x1b[31mred\u{9b}1m \u{202e}\u{7f} π 🦀 \" \\ \n\0";
        let line = ascii(&json!({ "line": hostile }));
        assert!(line[..line.len() - 1].iter().all(|byte| (b' '..=b'~').contains(byte)), "{line:?}");
        let back: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(back["line"], hostile, "and programs get what it was");
    }
}
