//! Spans and metrics in the JSON form of OTLP 1.x. Pure.

use super::spans::{Finished, part_of};
use http::Method;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use serde_json::{Value, json};
use std::sync::Arc;

/// Kinds of spans.
const INTERNAL: u32 = 1;
const SERVER: u32 = 2;

/// The status of a span whose request the server could not answer.
const ERROR: u32 = 2;

/// Sums since the start.
const CUMULATIVE: u32 = 2;

fn text(key: &str, value: impl Into<String>) -> Value {
    json!({"key": key, "value": {"stringValue": value.into()}})
}

fn resource(service: &str) -> Value {
    json!({ "attributes": [text("service.name", service)] })
}

fn scope() -> Value {
    json!({"name": "hv serve", "version": env!("CARGO_PKG_VERSION")})
}

/// The body of a request to `/v1/traces`.
pub(super) fn traces(service: &str, requests: &[Arc<Finished>]) -> String {
    let spans: Vec<_> = requests.iter().flat_map(|request| spans(request)).collect();
    let scoped = json!([{"scope": scope(), "spans": spans}]);
    json!({"resourceSpans": [{"resource": resource(service), "scopeSpans": scoped}]}).to_string()
}

fn spans(request: &Finished) -> Vec<Value> {
    let Some(trace) = &request.trace else { return Vec::new() };
    let (id, own) = (trace.name(), format!("{:016x}", trace.span));
    // Clients make up methods; names of spans are few.
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
    ];
    let method =
        if known.iter().any(|known| known == request.method.as_str()) { &request.method } else { "HTTP" };
    let function = request.function.as_deref();
    let mut attributes = vec![
        text("http.request.method", if method == "HTTP" { "_OTHER" } else { method }),
        text("url.path", &request.path),
        text("client.address", request.client.to_string()),
        text("hv.request", &request.request),
        json!({"key": "http.response.status_code", "value": {"intValue": request.status.to_string()}}),
    ];
    let more = [
        ("hv.function", function),
        ("hv.tenant", request.tenant.as_deref()),
        ("hv.instance", request.instance),
        ("error.type", request.failure),
        ("hv.crash", request.crash.as_deref()),
    ];
    attributes.extend(more.into_iter().filter_map(|(key, value)| Some(text(key, value?))));
    if method == "HTTP" {
        attributes.push(text("http.request.method_original", &request.method));
    }
    let name = function.map_or_else(|| method.to_owned(), |function| format!("{method} {function}"));
    let mut whole = json!({
        "traceId": id, "spanId": own, "name": name, "kind": SERVER,
        "startTimeUnixNano": request.nanos(request.begun).to_string(),
        "endTimeUnixNano": request.nanos(request.ended).to_string(),
        "attributes": attributes, "flags": u32::from(trace.sampled),
    });
    if let Some(parent) = trace.parent {
        whole["parentSpanId"] = format!("{parent:016x}").into();
    }
    if request.status >= 500 || request.failure.is_some() {
        whole["status"] = json!({ "code": ERROR });
    }
    let parts = request.parts().into_iter().map(|(part, from, time)| {
        json!({
            "traceId": id, "spanId": format!("{:016x}", part_of(trace.span, part)), "parentSpanId": own,
            "name": part.name(), "kind": INTERNAL, "flags": u32::from(trace.sampled),
            "startTimeUnixNano": request.nanos(from).to_string(),
            "endTimeUnixNano": request.nanos(from + time).to_string(),
        })
    });
    std::iter::once(whole).chain(parts).collect()
}

/// The body of a request to `/v1/metrics`: these, as they are `now`, counted since `start`, in nanoseconds since 1970.
pub(super) fn metrics(service: &str, families: &[MetricFamily], start: u64, now: u64) -> String {
    let metrics: Vec<_> = families.iter().filter_map(|family| metric(family, start, now)).collect();
    let scoped = json!([{"scope": scope(), "metrics": metrics}]);
    json!({"resourceMetrics": [{"resource": resource(service), "scopeMetrics": scoped}]}).to_string()
}

fn metric(family: &MetricFamily, start: u64, now: u64) -> Option<Value> {
    let point = |metric: &Metric| {
        let attributes: Vec<_> = metric.get_label().iter().map(label).collect();
        json!({
            "attributes": attributes,
            "startTimeUnixNano": start.to_string(),
            "timeUnixNano": now.to_string(),
        })
    };
    let number = |metric: &Metric, value: f64| {
        let mut point = point(metric);
        point["asDouble"] = value.into();
        point
    };
    let all = family.get_metric().iter();
    let mut json = json!({"name": family.name(), "description": family.help()});
    match family.get_field_type() {
        MetricType::COUNTER => {
            let points: Vec<_> = all.map(|metric| number(metric, metric.get_counter().get_value())).collect();
            json["sum"] =
                json!({"aggregationTemporality": CUMULATIVE, "isMonotonic": true, "dataPoints": points});
        }
        MetricType::GAUGE => {
            let points: Vec<_> = all.map(|metric| number(metric, metric.get_gauge().get_value())).collect();
            json["gauge"] = json!({ "dataPoints": points });
        }
        MetricType::HISTOGRAM => {
            let points: Vec<_> = all.map(|metric| histogram(metric, point(metric))).collect();
            json["histogram"] = json!({"aggregationTemporality": CUMULATIVE, "dataPoints": points});
        }
        _ => return None,
    }
    Some(json)
}

fn label(label: &LabelPair) -> Value {
    text(label.name(), label.value())
}

/// Prometheus counts up to each bound, OTLP between them.
fn histogram(metric: &Metric, mut point: Value) -> Value {
    let histogram = metric.get_histogram();
    let (mut counts, mut bounds, mut before) = (Vec::new(), Vec::new(), 0);
    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
        counts.push((bucket.cumulative_count() - before).to_string());
        bounds.push(bucket.upper_bound());
        before = bucket.cumulative_count();
    }
    let count = histogram.get_sample_count();
    counts.push((count - before).to_string());
    point["count"] = count.to_string().into();
    point["sum"] = histogram.get_sample_sum().into();
    point["bucketCounts"] = counts.into();
    point["explicitBounds"] = bounds.into();
    point
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

    #[test]
    fn metrics_are_those_of_prometheus() {
        let registry = Registry::new();
        let counters = IntCounterVec::new(Opts::new("c", "Counts."), &["function"]).unwrap();
        counters.with_label_values(&["f"]).inc_by(7);
        let histogram =
            Histogram::with_opts(HistogramOpts::new("h", "Times.").buckets(vec![1.0, 2.0])).unwrap();
        [0.5, 1.5, 1.6, 9.0].iter().for_each(|value| histogram.observe(*value));
        registry.register(Box::new(counters)).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        let text = metrics("test", &registry.gather(), 5, 6);
        let value: Value = serde_json::from_str(&text).unwrap();
        let metrics = &value["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        let point = &metrics[0]["sum"]["dataPoints"][0];
        assert_eq!((&metrics[0]["name"], &metrics[0]["description"]), (&json!("c"), &json!("Counts.")));
        assert_eq!(point["asDouble"], 7.0);
        assert_eq!(point["attributes"][0], text_of("function", "f"));
        assert_eq!((&point["startTimeUnixNano"], &point["timeUnixNano"]), (&json!("5"), &json!("6")));
        let point = &metrics[1]["histogram"]["dataPoints"][0];
        assert_eq!((&point["bucketCounts"], &point["count"]), (&json!(["1", "2", "1"]), &json!("4")));
        assert_eq!(point["explicitBounds"], json!([1.0, 2.0]));
    }

    fn text_of(key: &str, value: &str) -> Value {
        text(key, value)
    }
}
