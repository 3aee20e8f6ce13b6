//! Density as a page: start and answer times, and memory, against the number of guests.

use super::lines::{Plot, Series, short_time};
use super::svg::escape;
use super::{CLOSING, data, figure, opening, section, table};
use crate::density::{Density, DensityPoint, Times, memory, rows};
use crate::table::{date, host};
use std::fmt::Write;

/// The page.
pub fn page(density: &Density) -> String {
    let mut html = opening("What the Nth guest costs");
    for line in host(&density.machine) {
        let _ = writeln!(html, "<p class=\"machine\">{}</p>", escape(&line));
    }
    let _ = writeln!(html, "<p class=\"machine\">{} guests · {}</p>", density.guests, date(density.time));
    let plots = figure(
        "Does a guest start and answer later when there are many?",
        "Medians, with the range from the 10th to the 90th percentile where there are times enough; both axes are logarithmic.",
        &times(density),
    ) + &figure(
        "How much memory does one more guest take?",
        "On average over all that are live; both axes are logarithmic.",
        &sizes(density),
    );
    let mut rows = rows(density).into_iter();
    let heads = rows.next().unwrap_or_default();
    let table = table(
        "Times and memory by the number of live guests",
        &heads,
        &[],
        rows.map(|row| (row, Vec::new())),
    );
    html += &section("density", "Density", &format!("<div class=\"plots\">\n{plots}</div>\n{table}"));
    html += &data(density);
    html + CLOSING
}

fn times(density: &Density) -> String {
    let series = |name: &str, of: fn(&DensityPoint) -> Times| Series {
        name: name.into(),
        points: density.points.iter().map(|point| (f64::from(point.live), of(point).median)).collect(),
        ranges: density
            .points
            .iter()
            .map(|point| of(point).p10.zip(of(point).p90).map(|(a, b)| [a, b]))
            .collect(),
    };
    Plot {
        class: "density",
        name: "Start and answer times by the number of live guests",
        series: vec![
            series("start to answer", |point| point.start_ns),
            series("answer", |point| point.answer_ns),
        ],
        axes: ["live guests", "time"],
        x: None,
        y: short_time,
        bytes: false,
    }
    .svg()
}

fn sizes(density: &Density) -> String {
    let series = |name: &str, of: fn(&DensityPoint) -> u64| Series {
        name: name.into(),
        points: density.points.iter().map(|point| (f64::from(point.live), of(point).max(1) as f64)).collect(),
        ranges: Vec::new(),
    };
    let shared = density.shared as f64;
    let part = |point: &DensityPoint| (f64::from(point.live), shared / f64::from(point.live));
    let share = Series {
        name: "part of shared".into(),
        points: density.points.iter().map(part).collect(),
        ranges: Vec::new(),
    };
    Plot {
        class: "density",
        name: "Memory of one guest by the number of live guests",
        series: vec![
            series("with the kernel's", |point| point.whole),
            series("its own", |point| point.private),
            share,
        ],
        axes: ["live guests", "memory of one"],
        x: None,
        y: |bytes| memory(bytes).replace(".00 ", " ").replace(".0 ", " "),
        bytes: true,
    }
    .svg()
}
