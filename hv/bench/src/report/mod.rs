//! Results as one page: HTML with plots inside, without scripts, that loads nothing.
#![forbid(unsafe_code)]

mod bars;
mod density;
mod lines;
mod svg;

pub use density::page as density_page;

use super::operation::Group;
use super::result::{Curve, Measurement, Results};
use super::table::{self, digits, rate, time};
use lines::{Axis, Plot, Series};
use std::fmt::Write;
use svg::escape;

/// The page.
pub fn page(results: &Results) -> String {
    let mut html = opening("What a paravirtual operation costs");
    html += &head(results);
    for group in Group::ALL {
        let members: Vec<_> = results.operations.iter().filter(|m| m.group == *group).collect();
        if !members.is_empty() {
            html += &section(*group, &members);
        }
    }
    html += &curves(&results.curves);
    html += &conditions(results);
    html + CLOSING
}

/// The end of a page.
const CLOSING: &str = "</main>\n</body>\n</html>\n";

/// The beginning of a page with this heading.
fn opening(heading: &str) -> String {
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>hv bench</title>\n<style>\n",
    );
    html += include_str!("style.css");
    let _ = write!(html, "</style>\n</head>\n<body>\n<main>\n<h1>{}</h1>\n", escape(heading));
    html
}

fn head(results: &Results) -> String {
    let mut html = String::new();
    for line in table::machine(results) {
        let _ = writeln!(html, "<p class=\"machine\">{}</p>", escape(&line));
    }
    for warning in &results.noise.warnings {
        let _ = writeln!(html, "<p class=\"warning\"><strong>Noisy:</strong> {}</p>", escape(warning));
    }
    html
}

fn section(group: Group, members: &[&Measurement]) -> String {
    let mut html =
        format!("<section id=\"{}\">\n<h2>{}</h2>\n<div class=\"plots\">\n", group.name(), group.title());
    html += &figure("Median time and the range of most rounds (logarithmic)", &bars::plot(members));
    html += &figure("Latencies: so many per cent take no longer (logarithmic)", &distributions(members));
    html += "</div>\n";
    html += &rows(members);
    html += "</section>\n";
    html
}

fn figure(caption: &str, plot: &str) -> String {
    format!("<figure>\n<figcaption>{}</figcaption>\n{plot}</figure>\n", escape(caption))
}

/// Latency against how rare it is: a decade to the right is ten times as rare.
fn distributions(members: &[&Measurement]) -> String {
    let series = members.iter().map(|m| {
        let rarity = |percent: f64| 100.0 / (100.0 - percent);
        let points = m.latency_ns.curve.iter().filter(|(percent, _)| *percent < 100.0);
        Series {
            name: m.name.clone(),
            points: points.map(|&(percent, nanos)| (rarity(percent), nanos)).collect(),
            ranges: Vec::new(),
        }
    });
    let label = |rarity: f64| format!("{} %", digits_of_percent(100.0 - 100.0 / rarity));
    Plot {
        class: "distribution",
        series: series.collect(),
        x: Axis { label, between: 10.0 },
        y: lines::short_time,
        marks: false,
    }
    .svg()
}

/// A percentage without needless digits: 90, 99.9, 99.99.
fn digits_of_percent(percent: f64) -> String {
    let text = format!("{percent:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn curves(curves: &[Curve]) -> String {
    if curves.is_empty() {
        return String::new();
    }
    let series = curves.iter().map(|curve| Series {
        name: curve.name.clone(),
        points: curve.points.iter().map(|point| (f64::from(point.at), point.time_ns.median)).collect(),
        ranges: curve.points.iter().map(|point| (point.time_ns.low, point.time_ns.high)).collect(),
    });
    let x = Axis { label: |at| format!("{at:.0}"), between: 2.0 };
    let plot =
        Plot { class: "batching", series: series.collect(), x, y: lines::short_time, marks: true }.svg();
    format!(
        "<section id=\"batching\">\n<h2>Batches</h2>\n<div class=\"plots\">\n{}</div>\n</section>\n",
        figure("Time of one request, by how many come together", &plot)
    )
}

fn rows(members: &[&Measurement]) -> String {
    let mut html = String::from(
        "<div class=\"scroll\"><table>\n<thead><tr><th>operation<th>p50<th>p90<th>p99<th>p99.9<th>per second\
         <th>exits<th>CPU<th class=\"prose\">compared</tr></thead>\n<tbody>\n",
    );
    for m in members {
        let l = &m.latency_ns;
        let _ = write!(html, "<tr><th>{}", escape(&m.name));
        for nanos in [l.p50, l.p90, l.p99, l.p999] {
            let _ = write!(html, "<td>{}", time(nanos));
        }
        let against = m.against.as_ref().map(table::ratio).unwrap_or_default();
        let _ = writeln!(
            html,
            "<td>{}<td>{}<td>{}<td class=\"prose\">{}</tr>",
            rate(m.per_second),
            digits(m.exits_per_operation()),
            time(m.cpu_ns.median),
            escape(&against)
        );
    }
    html += "</tbody>\n</table></div>\n<dl>\n";
    for m in members {
        let _ = writeln!(html, "<dt>{}<dd>{}", escape(&m.name), escape(&m.what));
    }
    html += "</dl>\n";
    html
}

fn conditions(results: &Results) -> String {
    let mut html = String::from("<section id=\"conditions\">\n<h2>Conditions</h2>\n<dl>\n");
    let noise = &results.noise;
    let facts = [
        ("Load before", digits(noise.load_before)),
        ("Jitter of a fixed piece of work", format!("{} %", digits(noise.jitter_percent))),
        ("Time kept by the hypervisor below", format!("{} %", digits(noise.steal_percent))),
        ("Processors used by other programs", format!("{} %", digits(noise.others_percent))),
    ];
    for (what, value) in facts {
        let _ = writeln!(html, "<dt>{what}<dd>{value}");
    }
    for (name, state) in &results.machine.mitigations {
        let _ = writeln!(html, "<dt>Mitigation: {}<dd>{}", escape(name), escape(state));
    }
    html += "</dl>\n</section>\n";
    html
}

#[cfg(test)]
pub(super) mod tests;
