//! Which plots a page has, and what they are made of.

use super::figure;
use super::lines::{Plot, Series, short_time};
use super::rows::{Row, Rows};
use super::svg::{SHAPES, Shape};
use crate::compare::Compared;
use crate::operation::Kind;
use crate::result::{Curve, Measurement};
use crate::table::{power, range, ratio_digits, time};
use hv_stats::{Estimate, Verdict};

/// What colours and shapes mean.
pub(super) const KEY: &str = concat!(
    "<p class=\"kinds\"><span><svg class=\"sign\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><circle class=\"mark hv\" cx=\"6\" cy=\"6\" r=\"4\"/></svg>hv</span> ",
    "<span><svg class=\"sign\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><path class=\"mark emulated\" d=\"M6 1l5 5l-5 5l-5 -5z\"/></svg>emulated device</span> ",
    "<span><svg class=\"sign\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><rect class=\"mark floor\" x=\"2.4\" y=\"2.4\" width=\"7.2\" height=\"7.2\"/></svg>bare calls of the host</span> ",
    "<span><svg class=\"sign\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><path class=\"mark process\" d=\"M6 1.2l4.8 8.4h-9.6z\"/></svg>hv without KVM</span></p>\n",
);

/// Ratios within this factor of 1 have a plot of their own, where they can be told apart.
const NEAR: f64 = 2.5;

fn class(kind: Kind) -> (&'static str, Shape) {
    match kind {
        Kind::Hv => ("hv", SHAPES[0]),
        Kind::Emulated => ("emulated", SHAPES[1]),
        Kind::Floor | Kind::Other => ("floor", SHAPES[2]),
        Kind::Process => ("process", SHAPES[3]),
    }
}

fn number(value: f64) -> String {
    match value {
        v if !(0.001..=1000.0).contains(&v) => power(v),
        v => {
            let text = format!("{v:.3}");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text
            }
        }
    }
}

/// How many rounds there are, in a sentence.
fn rounds(all: impl Iterator<Item = u32>) -> String {
    let (least, most) = all.fold((u32::MAX, 0), |(least, most), n| (least.min(n), most.max(n)));
    match least < most {
        true => format!("n = {least} to {most} rounds."),
        false => format!("n = {most} rounds."),
    }
}

fn ratio_words(ratio: &Estimate) -> String {
    format!("{} {}", ratio_digits(ratio.median), range(ratio))
}

/// Each operation beside the one that it is compared with.
pub(super) fn forests(operations: &[Measurement]) -> String {
    let is_near = |m: &&Measurement| {
        let ratio = &m.against.as_ref().expect("it is compared").ratio;
        let [low, high] = ratio.interval.unwrap_or([ratio.median; 2]);
        low > 1.0 / NEAR && high < NEAR
    };
    let compared = || operations.iter().filter(|m| m.against.is_some());
    let near: Vec<_> = compared().filter(is_near).collect();
    let far: Vec<_> = compared().filter(|m| !is_near(m)).collect();
    let mut html = String::new();
    let caption = |members: &[&Measurement]| {
        format!(
            "Time of the operation by that of what it is compared with: median of the rounds' ratios, with its 95 % interval; \
             hollow where there are too few rounds for one. {} Logarithmic.",
            rounds(members.iter().filter_map(|m| Some(m.against.as_ref()?.ratio.n)))
        )
    };
    for (question, members) in [
        ("Where both take about as long: which of the two takes less time?", near),
        ("Where they are far apart: how far?", far),
    ] {
        if !members.is_empty() {
            html += &figure(question, &caption(&members), &forest(question, &members));
        }
    }
    html
}

fn forest(name: &str, members: &[&Measurement]) -> String {
    let mut last = None;
    let rows = members.iter().map(|m| {
        let against = m.against.as_ref().expect("it is compared");
        let head = (last.replace(m.group) != Some(m.group)).then(|| m.group.title().to_owned());
        let (class, shape) = class(m.kind);
        Row {
            head,
            label: format!("{} / {}", m.name, against.name),
            value: ratio_words(&against.ratio),
            class,
            marks: vec![(against.ratio.median, shape)],
            range: against.ratio.interval,
            hollow: against.ratio.interval.is_none(),
        }
    });
    Rows {
        class: "forest",
        name,
        rows: rows.collect(),
        axis: "time of the operation by that of the other",
        tick: number,
        line: Some((1.0, ["← less time", "more time →"])),
        key: &[],
    }
    .svg()
}

/// What changed since the first file.
pub(super) fn changes(compared: &Compared) -> String {
    let mut html = String::new();
    for (n, file) in compared.files.iter().skip(1).enumerate() {
        let rows = compared.ratios.iter().filter_map(|row| {
            let change = row.changes[n].as_ref()?;
            let class = match change.verdict {
                Verdict::Faster => "hv",
                Verdict::Slower => "emulated",
                _ => "floor",
            };
            Some(Row {
                head: None,
                label: match change.verdict.claims() {
                    true => format!("{} / {}: {}", row.name, row.against, change.verdict.words()),
                    false => format!("{} / {}", row.name, row.against),
                },
                value: ratio_words(&change.ratio),
                class,
                marks: vec![(change.ratio.median, SHAPES[if change.verdict.claims() { 1 } else { 0 }])],
                range: change.ratio.interval,
                hollow: change.ratio.interval.is_none(),
            })
        });
        let question =
            format!("Which ratios of {} differ from those of {}?", file.name, compared.files[0].name);
        let rows: Vec<Row> = rows.collect();
        if rows.is_empty() {
            continue;
        }
        let svg = Rows {
            class: "forest",
            name: &question,
            rows,
            axis: "ratio in this run by that in the first one",
            tick: number,
            line: Some((1.0, ["← less time", "more time →"])),
            key: &[],
        }
        .svg();
        html += &figure(
            &question,
            "Change of each ratio with its 95 % interval; diamonds are claims: the interval lies on one side of 1, and the change is 5 % or more. \
             Logarithmic.",
            &svg,
        );
    }
    format!("<div class=\"plots\">\n{html}</div>\n")
}

/// Medians and percentiles of a group.
pub(super) fn of_group(members: &[&Measurement]) -> String {
    let medians = members.iter().map(|m| {
        let (class, shape) = class(m.kind);
        Row {
            head: None,
            label: m.name.clone(),
            value: time(m.median_ns.median),
            class,
            marks: vec![(m.median_ns.median, shape)],
            range: m.median_ns.interval,
            hollow: m.median_ns.interval.is_none(),
        }
    });
    let plot = |name, rows: Vec<Row>, key| {
        Rows { class: "rows", name, rows, axis: "time of one operation", tick: short_time, line: None, key }
            .svg()
    };
    let first = figure(
        "How long does one take?",
        &format!(
            "Median of the rounds' medians, with its 95 % interval; hollow where there are too few rounds for one. {} Logarithmic.",
            rounds(members.iter().map(|m| m.median_ns.n))
        ),
        &plot("Median times", medians.collect(), &[]),
    );
    const SHOWN: [f64; 4] = [50.0, 90.0, 99.0, 99.9];
    let tails: Vec<Row> = members.iter().filter_map(|m| tail(m, &SHOWN)).collect();
    if tails.is_empty() {
        return first;
    }
    first
        + &figure(
            "How much longer do slow ones take?",
            "Percentiles over all rounds, as far as there are samples enough: at least ten beyond. Logarithmic.",
            &plot("Percentiles", tails, &["median", "90 %", "99 %", "99.9 %"]),
        )
}

fn tail(m: &Measurement, shown: &[f64; 4]) -> Option<Row> {
    let marks: Vec<(f64, Shape)> = shown
        .iter()
        .zip(SHAPES)
        .filter_map(|(percent, shape)| Some((m.latency_ns.at(*percent)?, shape)))
        .collect();
    let (first, last) = (marks.first()?.0, marks.last()?.0);
    let percent = shown.iter().rev().find(|percent| m.latency_ns.at(**percent).is_some())?;
    Some(Row {
        head: None,
        label: m.name.clone(),
        value: format!("{percent} %: {}", time(last)),
        class: class(m.kind).0,
        marks,
        range: Some([first, last]),
        hollow: false,
    })
}

/// Time against how many come at a time.
pub(super) fn batches(curves: &[Curve]) -> String {
    if curves.is_empty() {
        return String::new();
    }
    let series = curves.iter().map(|curve| Series {
        name: curve.name.clone(),
        points: curve.points.iter().map(|point| (f64::from(point.at), point.time_ns.median)).collect(),
        ranges: curve.points.iter().map(|point| point.time_ns.interval).collect(),
    });
    let plot = Plot {
        class: "batching",
        name: "Time of one request by how many come together",
        series: series.collect(),
        axes: ["requests that come together", "time of one"],
        x: None,
        y: short_time,
        bytes: false,
    };
    let caption = "Median of the rounds' medians, with its 95 % interval. Both axes are logarithmic.";
    let figure =
        figure("How much less does a request cost when several come together?", caption, &plot.svg());
    format!("<div class=\"plots\">\n{figure}</div>\n")
}
