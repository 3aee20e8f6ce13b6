use super::*;
use crate::compare::Named;
use crate::noise::Noise;
use crate::operation::Kind;
use crate::result::{
    Comparison, Curve, CurvePoint, Figure, KIND, Latency, ProgramInfo, RoundValues, SCHEMA, Settings,
};
use hv_host::machine::Machine;
use hv_stats::Estimate;
use std::collections::BTreeMap;

/// An estimate whose interval is a little wide.
pub(crate) fn estimate(median: f64) -> Estimate {
    Estimate { median, interval: Some([median * 0.97, median * 1.05]), n: 20 }
}

fn measurement(name: &str, group: Group, kind: Kind, nanos: f64) -> Measurement {
    let round = |n: u32| RoundValues {
        at_ms: f64::from(n) * 60.0,
        operations: 500,
        median_ns: nanos * (0.98 + 0.002 * f64::from(n)),
        time_ns: nanos * 1.1,
        cpu_ns: nanos * 1.5,
        noisy: false,
    };
    Measurement {
        name: name.into(),
        group,
        kind,
        what: format!("What {name} does."),
        bytes: 0,
        count: 10_000,
        samples: 10_000,
        overhead_ns: 25.0,
        latency_ns: Latency {
            min: nanos * 0.9,
            max: nanos * 20.0,
            percentiles: vec![(50.0, nanos), (90.0, nanos * 1.2), (99.0, nanos * 2.0), (99.9, nanos * 9.0)],
        },
        histogram_ps: vec![((nanos * 1000.0) as u64, 9000), ((nanos * 9000.0) as u64, 1000)],
        rounds: (0..20).map(round).collect(),
        median_ns: estimate(nanos),
        time_ns: estimate(nanos * 1.1),
        per_second: 1e9 / nanos,
        cpu_ns: estimate(nanos * 1.5),
        exits: BTreeMap::from([("nop".into(), 1.0)]),
        against: None,
    }
}

/// A comparison whose ratios lie around this one.
fn against(name: &str, ratio: f64) -> Comparison {
    let ratios: Vec<f64> = (0..20).map(|n| ratio * (0.99 + 0.001 * f64::from(n))).collect();
    let verdict = if ratio < 1.0 { Verdict::Faster } else { Verdict::Slower };
    let ratio = Estimate::of(ratios.iter().copied(), 1);
    Comparison { name: name.into(), by: Figure::Median, ratios, ratio, verdict, apart_ms: 120.0 }
}

/// A whole result, as a run could have given it.
pub(crate) fn sample() -> Results {
    let mut operations = vec![
        measurement("pio-exit", Group::Exits, Kind::Floor, 14_000.0),
        measurement("hypercall", Group::Exits, Kind::Hv, 14_500.0),
        measurement("clock-page", Group::Time, Kind::Hv, 19.0),
    ];
    operations[1].against = Some(against("pio-exit", 1.04));
    Results {
        schema: SCHEMA,
        kind: KIND.into(),
        program: ProgramInfo {
            name: "hv".into(),
            version: "0.1.0".into(),
            optimised: true,
            build: "0123456789abcdef".into(),
            guest: "fedcba9876543210".into(),
        },
        time: 1_700_000_000,
        settings: Settings {
            rounds: 20,
            most_rounds: 40,
            budget_s: 240,
            round_ms: 25,
            cool_down_ms: 10,
            seed: 1,
            confidence: 0.95,
            effect: 0.02,
            pinned: None,
            timer_ns: [25.0, 40.0],
        },
        machine: Machine {
            cpu: "A <processor>".into(),
            cores: 2,
            memory: 24 << 30,
            kernel: "Linux 6.18".into(),
            kvm: "kvm_pvm".into(),
            hardware_virtualization: false,
            nested: true,
            clock_source: "tsc".into(),
            tsc_khz: 2_700_000,
            frequency_scaling: "none".into(),
            mitigations: BTreeMap::from([("spectre_v2".into(), "Mitigation: \"all\"".into())]),
        },
        noise: Noise {
            load_before: 0.1,
            jitter_percent: 1.0,
            steal_percent: 0.0,
            others_percent: 1.0,
            repeated_rounds: 0,
            warnings: Vec::new(),
        },
        operations,
        curves: vec![Curve {
            name: "ring".into(),
            points: vec![
                CurvePoint { at: 1, time_ns: estimate(90.0) },
                CurvePoint { at: 64, time_ns: estimate(40.0) },
            ],
        }],
    }
}

#[test]
fn the_page_shows_every_operation_and_loads_nothing() {
    let results = sample();
    let page = page(&results, None);
    for m in &results.operations {
        assert!(page.contains(&m.what) && page.matches(&m.name).count() >= 3, "{}", m.name);
    }
    // Ratios first, then medians and percentiles of two groups, then the curve.
    assert_eq!(page.matches("<svg class=\"forest\"").count(), 1);
    assert_eq!(page.matches("<svg class=\"rows\"").count(), 4);
    assert_eq!(page.matches("<svg class=\"batching\"").count(), 1);
    assert!(page.find("class=\"forest\"") < page.find("class=\"rows\""));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    for outside in ["http:", "https:", "url(", "@import", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<script").count(), page.matches("<script type=\"application/json\"").count());
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    assert!(!page.contains("NaN") && !page.contains("inf"), "a number is none");
    assert!(page.contains("2023-11-14T22:13:20Z") && page.contains("build 0123456789abcdef"));
}

#[test]
fn every_section_is_in_the_contents_and_every_figure_has_its_question() {
    let page = page(&sample(), None);
    let ids: Vec<&str> =
        page.split("<section id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(ids.starts_with(&["ratios", "exits"]) && ids.contains(&"conditions"), "{ids:?}");
    for id in ids {
        assert!(page.contains(&format!("<a href=\"#{id}\">")), "{id}");
    }
    for figure in page.split("<figure>").skip(1) {
        let figure = figure.split("</figure>").next().unwrap();
        let question = figure.split("</h3>").next().unwrap();
        assert!(question.contains("<h3>") && question.ends_with('?'), "{question}");
        assert!(figure.contains("<figcaption>") && figure.contains("<title>"), "{figure}");
    }
    for table in page.split("<table>").skip(1) {
        let table = table.split("</table>").next().unwrap();
        assert!(table.contains("<caption>"));
        assert_eq!(table.matches("<th ").count(), table.matches("<th scope=").count());
        assert_eq!(table.matches("<th>").count(), 0);
    }
}

#[test]
fn latencies_are_shown_as_how_often_they_are_exceeded() {
    let mut results = sample();
    assert!(!page(&results, None).contains("class=\"tails\""));
    results.operations.push(measurement("timer-latency", Group::Time, Kind::Hv, 60_000.0));
    let with = page(&results, None);
    assert_eq!(with.matches("<svg class=\"tails\"").count(), 1);
    assert!(with.contains("<a href=\"#latencies\">") && with.contains(">10 %</text>"), "{with}");
    // So few samples say nothing.
    results.operations.last_mut().unwrap().histogram_ps = vec![(60_000_000, 12)];
    assert!(!page(&results, None).contains("class=\"tails\""));
}

#[test]
fn a_comparison_is_shown_when_there_is_one() {
    let (old, mut new) = (sample(), sample());
    new.operations[1].against = Some(against("pio-exit", 1.4));
    let runs = [Named { name: "old.json", results: &old }, Named { name: "this run", results: &new }];
    let compared = Compared::of(&runs, false).unwrap();
    let page = page(&new, Some(&compared));
    assert!(page.contains("Which ratios of this run differ from those of old.json?"), "{page}");
    assert!(page.contains("hypercall / pio-exit: slower") && page.contains("<a href=\"#changes\">"));
}

#[test]
fn the_data_are_in_the_page_and_cannot_end_it() {
    let mut results = sample();
    results.operations[0].what = "</script><b>".into();
    let page = page(&results, None);
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    let read: Results = serde_json::from_str(json).unwrap();
    assert_eq!(read.operations[0].what, "</script><b>");
    assert_eq!(read.operations.len(), 3);
}

#[test]
fn text_of_the_machine_is_text() {
    let page = page(&sample(), None);
    assert!(page.contains("A &lt;processor&gt;") && !page.contains("<processor>"));
    assert!(page.contains("Mitigation: &quot;all&quot;"));
}

#[test]
fn nothing_measured_is_still_a_page() {
    let mut results = sample();
    results.operations.clear();
    results.curves.clear();
    assert!(page(&results, None).contains("</html>") && !page(&results, None).contains("<figure"));
    // And operations that took no time at all, without percentiles and intervals.
    let mut none = measurement("none", Group::Exits, Kind::Hv, 0.0);
    none.latency_ns.percentiles.clear();
    none.median_ns = Estimate { median: 0.0, interval: None, n: 2 };
    none.against = Some(Comparison { ratio: none.median_ns, ..against("none", 0.5) });
    results.operations = vec![none];
    assert!(!page(&results, None).contains("NaN"));
}
