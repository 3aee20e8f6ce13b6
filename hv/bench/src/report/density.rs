//! Density as a page: start and answer times, and memory, against the number of guests.

use super::lines::{Axis, Plot, Series, short_time};
use super::svg::escape;
use super::{CLOSING, figure, opening};
use crate::density::{Density, DensityPoint, Times, memory, rows};
use crate::table::host;
use std::fmt::Write;

/// The page.
pub fn page(density: &Density) -> String {
    let mut html = opening("What the Nth guest costs");
    for line in host(&density.machine) {
        let _ = writeln!(html, "<p class=\"machine\">{}</p>", escape(&line));
    }
    html += "<section id=\"density\">\n<h2>Density</h2>\n<div class=\"plots\">\n";
    html +=
        &figure("Time by the number of live guests, with most of its spread (logarithmic)", &times(density));
    html += &figure("Memory of one guest by the number of live guests (logarithmic)", &sizes(density));
    html += "</div>\n<div class=\"scroll\"><table>\n<thead><tr>";
    let mut rows = rows(density).into_iter();
    for cell in rows.next().into_iter().flatten() {
        let _ = write!(html, "<th>{}", escape(&cell));
    }
    html += "</tr></thead>\n<tbody>\n";
    for row in rows {
        html += "<tr>";
        for cell in row {
            let _ = write!(html, "<td>{}", escape(&cell));
        }
        html += "</tr>\n";
    }
    html += "</tbody>\n</table></div>\n</section>\n";
    html + CLOSING
}

fn times(density: &Density) -> String {
    let series = |name: &str, of: fn(&DensityPoint) -> Times| Series {
        name: name.into(),
        points: density.points.iter().map(|point| (f64::from(point.live), of(point).spread.median)).collect(),
        ranges: density.points.iter().map(|point| (of(point).spread.low, of(point).spread.high)).collect(),
    };
    plot(
        vec![
            series("start to first answer", |point| point.start_ns),
            series("answer of a live guest", |point| point.answer_ns),
        ],
        short_time,
    )
}

fn sizes(density: &Density) -> String {
    let series = |name: &str, of: fn(&DensityPoint) -> u64| Series {
        name: name.into(),
        points: density.points.iter().map(|point| (f64::from(point.live), of(point).max(1) as f64)).collect(),
        ranges: Vec::new(),
    };
    let shared = density.shared as f64;
    let share = Series {
        name: "its part of what all share".into(),
        points: density
            .points
            .iter()
            .map(|point| (f64::from(point.live), shared / f64::from(point.live)))
            .collect(),
        ranges: Vec::new(),
    };
    plot(
        vec![
            series("all, the kernel's part included", |point| point.whole),
            series("its own in this process", |point| point.private),
            share,
        ],
        memory,
    )
}

fn plot(series: Vec<Series>, y: fn(f64) -> String) -> String {
    let x = Axis { label: |at| format!("{at:.0}"), between: 2.0 };
    Plot { class: "density", series, x, y, marks: true }.svg()
}
