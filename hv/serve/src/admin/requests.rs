//! What became of a request, by its id or its trace's: its trace, and what its guest printed.

use super::answer::{json_value, problem};
use crate::events::Stream;
use crate::front_response::FrontResponse;
use crate::server::Server;
use crate::trace::{Finished, Found};
use http::StatusCode;
use serde_json::{Value, json};

/// The requests with this id, or of the trace with this id, the newest first.
pub(super) fn show(server: &Server, id: &str) -> Result<FrontResponse, FrontResponse> {
    let found = server.telemetry.invocations.of(id);
    if found.is_empty() {
        let detail =
            "no such request among the last ones; `requests` of the configuration says how many are kept";
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    let requests: Vec<_> = found.iter().map(request).collect();
    Ok(json_value(StatusCode::OK, &json!({ "requests": requests })))
}

fn request(found: &Found) -> Value {
    let lines = found.lines.iter().map(|line| {
        let stream = match line.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        json!({"seconds": line.at.as_secs_f64(), "stream": stream, "line": line.text})
    });
    let mut value = json!({
        "request": found.id,
        "trace": found.trace.map(|trace| format!("{trace:032x}")),
        "time": humantime::format_rfc3339_micros(found.started).to_string(),
        "running": found.finished.is_none(),
        "logs": lines.collect::<Vec<_>>(),
        "bytes_left_out": found.left_out,
    });
    if let (Some(finished), Value::Object(fields)) = (&found.finished, &mut value) {
        let Value::Object(more) = outcome(finished) else { unreachable!("it is made as one") };
        fields.extend(more);
    }
    value
}

fn outcome(finished: &Finished) -> Value {
    let spans = finished.parts().into_iter().map(|(part, from, time)| {
        let after = from.saturating_duration_since(finished.begun);
        json!({"name": part.name(), "after": after.as_secs_f64(), "seconds": time.as_secs_f64()})
    });
    json!({
        "method": finished.method,
        "path": finished.path,
        "status": finished.status,
        "client": finished.client,
        "function": finished.function.as_deref(),
        "tenant": finished.tenant.as_deref(),
        "instance": finished.instance,
        "failure": finished.failure,
        "crash": finished.crash,
        "seconds": finished.ended.saturating_duration_since(finished.begun).as_secs_f64(),
        "spans": spans.collect::<Vec<_>>(),
    })
}
