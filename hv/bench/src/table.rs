//! Results as a table for a terminal.
#![forbid(unsafe_code)]

use super::operation::Group;
use super::result::{Comparison, Measurement, Results};
use super::stats::Spread;
use hv_host::machine::Machine;
use std::fmt::Write;

/// How text is emphasised: not at all, or with the codes of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether the reader is a terminal that shows colours.
    pub colour: bool,
}

impl Style {
    /// Text in the colour or weight of this code.
    pub(super) fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn warning(self, text: &str) -> String {
        self.paint("33", text)
    }
}

/// A time with three digits and a unit that suits it.
pub fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        n if n < 999.5 => (n, "ns"),
        n if n < 999_500.0 => (n / 1e3, "µs"),
        n if n < 999_500_000.0 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// A number with three digits.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v < 9.995 => format!("{value:.2}"),
        v if v < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A rate with three digits and a prefix.
pub fn rate(per_second: f64) -> String {
    match per_second {
        r if r < 999.5 => digits(r),
        r if r < 999_500.0 => format!("{} k", digits(r / 1e3)),
        r if r < 999_500_000.0 => format!("{} M", digits(r / 1e6)),
        r => format!("{} G", digits(r / 1e9)),
    }
}

/// A ratio of times in words: `1.04 × pio-exit`, or, where the operation wins, `520 × as fast as …`.
pub fn ratio(against: &Comparison) -> String {
    let Spread { median, low, high } = against.ratio;
    if median < 0.8 {
        let faster = |ratio: f64| digits(1.0 / ratio.max(1e-9));
        format!("{} × as fast as {} ({} to {})", faster(median), against.name, faster(high), faster(low))
    } else {
        format!("{} × {} ({} to {})", digits(median), against.name, digits(low), digits(high))
    }
}

/// The machine, in two lines.
pub fn host(machine: &Machine) -> [String; 2] {
    let how =
        if machine.hardware_virtualization { "hardware virtualization" } else { "software virtualization" };
    let nested = if machine.nested { "inside a virtual machine" } else { "on bare hardware" };
    [
        format!(
            "{} · {} cores · {} GiB · {}",
            machine.cpu,
            machine.cores,
            (machine.memory + (1 << 29)) >> 30,
            machine.kernel
        ),
        format!(
            "{} ({how}, {nested}) · clock {} at {:.0} MHz · frequency scaling: {}",
            machine.kvm,
            machine.clock_source,
            f64::from(machine.tsc_khz) / 1e3,
            machine.frequency_scaling
        ),
    ]
}

/// The machine in a few lines.
pub fn machine(results: &Results) -> Vec<String> {
    let [hardware, virtualization] = host(&results.machine);
    vec![
        hardware,
        virtualization,
        format!(
            "hv {}{} · {} rounds of {} ms",
            results.program.version,
            if results.program.optimised { "" } else { " (not optimised)" },
            results.settings.rounds,
            results.settings.round_ms
        ),
    ]
}

fn row(m: &Measurement) -> [String; 8] {
    let l = &m.latency_ns;
    [
        m.name.clone(),
        time(l.p50),
        time(l.p90),
        time(l.p99),
        time(l.p999),
        rate(m.per_second),
        digits(m.exits_per_operation()),
        time(m.cpu_ns.median),
    ]
}

const HEADINGS: [&str; 8] = ["operation", "p50", "p90", "p99", "p99.9", "per s", "exits/op", "CPU/op"];

/// The whole table.
pub fn text(results: &Results, style: Style) -> String {
    let mut text = String::new();
    for line in machine(results) {
        let _ = writeln!(text, "{line}");
    }
    for group in Group::ALL {
        let members: Vec<_> = results.operations.iter().filter(|m| m.group == *group).collect();
        if members.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{}", style.bold(group.title()));
        let line = |cells: &[String; 8]| {
            let mut line = format!("  {:<18}", cells[0]);
            for cell in &cells[1..] {
                let _ = write!(line, "{cell:>10}");
            }
            line
        };
        let _ = writeln!(text, "{}   compared", line(&HEADINGS.map(str::to_owned)));
        for m in members {
            let against = m.against.as_ref().map(ratio).unwrap_or_default();
            let _ = writeln!(text, "{}", format!("{}   {against}", line(&row(m))).trim_end());
        }
    }
    for warning in &results.noise.warnings {
        let _ = writeln!(text, "\n{} {warning}", style.warning("noisy:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(time(0.256), "0.26 ns");
        assert_eq!(time(14_060.0), "14.1 µs");
        assert_eq!(time(999.9), "1.00 µs");
        assert_eq!(time(2.5e9), "2.50 s");
        assert_eq!(rate(71_123.0), "71.1 k");
        assert_eq!(rate(4.0e9), "4.00 G");
        assert_eq!(digits(1.0), "1.00");
    }

    #[test]
    fn ratios_say_who_wins() {
        let against =
            |median, low, high| Comparison { name: "uart".into(), ratio: Spread { median, low, high } };
        assert_eq!(ratio(&against(1.04, 1.01, 1.06)), "1.04 × uart (1.01 to 1.06)");
        assert_eq!(ratio(&against(0.002, 0.001, 0.004)), "500 × as fast as uart (250 to 1000)");
    }
}
