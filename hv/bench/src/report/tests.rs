use super::*;
use crate::noise::Noise;
use crate::result::{Comparison, CurvePoint, Latency, ProgramInfo, SCHEMA, Settings};
use crate::stats::Spread;
use hv_host::machine::Machine;
use std::collections::BTreeMap;

/// A time that spreads a little.
fn spread(median: f64) -> Spread {
    Spread { median, low: median * 0.97, high: median * 1.05 }
}

fn measurement(name: &str, group: Group, nanos: f64) -> Measurement {
    Measurement {
        name: name.into(),
        group,
        what: format!("What {name} does."),
        bytes: 0,
        count: 1000,
        latency_ns: Latency {
            min: nanos * 0.9,
            p50: nanos,
            p90: nanos * 1.2,
            p99: nanos * 2.0,
            p999: nanos * 9.0,
            max: nanos * 20.0,
            curve: vec![(0.0, nanos * 0.9), (50.0, nanos), (90.0, nanos * 1.2), (100.0, nanos * 20.0)],
        },
        median_ns: spread(nanos),
        time_ns: spread(nanos * 1.1),
        per_second: 1e9 / nanos,
        cpu_ns: spread(nanos * 1.5),
        exits: BTreeMap::from([("nop".into(), 1.0)]),
        against: None,
    }
}

/// A whole result, as a run could have given it.
pub(crate) fn sample() -> Results {
    let mut operations = vec![
        measurement("pio-exit", Group::Exits, 14_000.0),
        measurement("hypercall", Group::Exits, 14_500.0),
        measurement("clock-page", Group::Time, 19.0),
    ];
    operations[1].against = Some(Comparison { name: "pio-exit".into(), ratio: spread(1.04) });
    Results {
        schema: SCHEMA,
        program: ProgramInfo { name: "hv".into(), version: "0.1.0".into(), optimised: true },
        time: 1_700_000_000,
        settings: Settings { rounds: 5, round_ms: 25 },
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
            warnings: Vec::new(),
        },
        operations,
        curves: vec![Curve {
            name: "ring".into(),
            points: vec![
                CurvePoint { at: 1, time_ns: spread(90.0) },
                CurvePoint { at: 64, time_ns: spread(40.0) },
            ],
        }],
    }
}

#[test]
fn the_page_shows_every_operation_and_loads_nothing() {
    let results = sample();
    let page = page(&results);
    for m in &results.operations {
        assert!(page.contains(&m.what) && page.matches(&m.name).count() >= 3, "{}", m.name);
    }
    assert_eq!(page.matches("<svg class=\"bars\"").count(), 2);
    assert_eq!(page.matches("<svg class=\"distribution\"").count(), 2);
    assert_eq!(page.matches("<svg class=\"batching\"").count(), 1);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    for outside in ["<script", "http:", "https:", "url(", "@import", "src=", "href="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    assert!(!page.contains("NaN") && !page.contains("inf"), "a number is none");
}

#[test]
fn text_of_the_machine_is_text() {
    let page = page(&sample());
    assert!(page.contains("A &lt;processor&gt;") && !page.contains("<processor>"));
    assert!(page.contains("Mitigation: &quot;all&quot;"));
}

#[test]
fn nothing_measured_is_still_a_page() {
    let mut results = sample();
    results.operations.clear();
    results.curves.clear();
    let page = page(&results);
    assert!(page.contains("</html>") && !page.contains("<svg"));
    // And operations that took no time at all.
    results.operations = vec![measurement("none", Group::Exits, 0.0)];
    assert!(!super::page(&results).contains("NaN"));
}

#[test]
fn percentages_have_the_digits_that_they_need() {
    for (percent, text) in [(90.0, "90"), (99.9, "99.9"), (99.99, "99.99"), (0.0, "0")] {
        assert_eq!(digits_of_percent(percent), text);
    }
}
