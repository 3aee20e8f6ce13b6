//! How often a latency is exceeded: what `cyclictest` draws, as a share of all instead of counts, so that runs of different lengths compare.
#![forbid(unsafe_code)]

use super::figure;
use super::lines::{Plot, Series, short_time};
use crate::result::Measurement;

/// The plots: a question, and the operations that answer it.
const PLOTS: [(&str, &[&str]); 2] = [
    ("How late does a guest wake up, and how often?", &["timer-latency", "host-timer-latency"]),
    (
        "How long until a guest sees an event, and how often longer?",
        &["event-polled", "event-blocked", "event-upcall", "smp-event"],
    ),
];

/// Points of a line for each power of ten.
const STEPS: i32 = 4;
/// A share is shown if so many samples are beyond it.
const BEYOND: u64 = 10;

/// The figures, as far as their operations were measured.
pub(super) fn figures(operations: &[Measurement]) -> String {
    let mut html = String::new();
    for (question, names) in PLOTS {
        let members = names.iter().filter_map(|name| operations.iter().find(|m| m.name == *name));
        let series = members.filter_map(series).collect::<Vec<_>>();
        if series.is_empty() {
            continue;
        }
        let plot = Plot {
            class: "tails",
            name: question,
            series,
            axes: ["latency", "share of all that took longer"],
            x: Some(short_time),
            y: percent,
            bytes: false,
        };
        let caption = "All samples of all rounds, as far as ten are beyond. Both axes are logarithmic.";
        html += &figure(question, caption, &plot.svg());
    }
    match html.is_empty() {
        true => html,
        false => format!("<div class=\"plots\">\n{html}</div>\n"),
    }
}

/// The latencies that are exceeded by certain shares of the samples.
fn series(m: &Measurement) -> Option<Series> {
    let total: u64 = m.histogram_ps.iter().map(|(_, count)| count).sum();
    let mut points: Vec<(f64, f64)> = Vec::new();
    for step in 1.. {
        let share = 10f64.powf(-f64::from(step) / f64::from(STEPS));
        let beyond = (share * total as f64) as u64;
        if beyond < BEYOND {
            break;
        }
        let latency = exceeded(&m.histogram_ps, beyond).max(1) as f64 / 1000.0;
        points.push((latency, share));
    }
    (points.len() > 1).then(|| Series { name: m.name.clone(), ranges: vec![None; points.len()], points })
}

/// The bucket, in picoseconds, that so many samples are in or beyond.
fn exceeded(histogram: &[(u64, u64)], beyond: u64) -> u64 {
    let mut left = beyond;
    let found = histogram.iter().rev().find(|(_, count)| {
        let here = *count >= left;
        left = left.saturating_sub(*count);
        here
    });
    found.map_or(0, |(bucket, _)| *bucket)
}

fn percent(share: f64) -> String {
    let text = format!("{:.4}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_exceeded_by_what_is_beyond_it() {
        let histogram = [(1000, 900), (2000, 90), (50_000, 9), (900_000, 1)];
        for (beyond, latency) in
            [(1, 900_000), (2, 50_000), (10, 50_000), (11, 2000), (100, 2000), (101, 1000)]
        {
            assert_eq!(exceeded(&histogram, beyond), latency, "{beyond}");
        }
        assert_eq!(exceeded(&[], 1), 0);
    }

    #[test]
    fn shares_are_per_cent() {
        assert_eq!([0.5, 0.1, 0.01, 0.0001].map(percent), ["50 %", "10 %", "1 %", "0.01 %"]);
    }
}
