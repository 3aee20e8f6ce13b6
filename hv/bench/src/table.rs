//! Results as a table for a terminal.
#![forbid(unsafe_code)]

use super::operation::Group;
use super::result::{Comparison, Measurement, Results};
use hv_host::machine::Machine;
use hv_stats::{Estimate, Verdict};
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

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

/// A ratio with two or three digits that count, however small or large it is.
pub fn ratio_digits(value: f64) -> String {
    match value {
        v if v >= 999.5 => {
            // Three digits count; the rest are zeroes.
            let step = 10f64.powf(v.log10().floor() - 2.0);
            grouped((v / step).round() * step)
        }
        v if v >= 0.995 => digits(v),
        v if v >= 0.0995 => format!("{v:.2}"),
        v if v >= 0.00995 => format!("{v:.3}"),
        v if v >= 0.000995 => format!("{v:.4}"),
        v if v > 0.0 => power(v),
        _ => "0".into(),
    }
}

/// A whole number with commas between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(",")
}

/// A number as a power of ten: 4.9×10⁻⁵; a power alone as 10⁻⁵.
pub fn power(value: f64) -> String {
    let text = format!("{value:.1e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let raised = exponent.chars().map(|c| match c {
        '-' => '⁻',
        c => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][c.to_digit(10).unwrap_or(0) as usize],
    });
    let factor = if digits == "1.0" { String::new() } else { format!("{digits}×") };
    format!("{factor}10{}", raised.collect::<String>())
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

/// A ratio of times in words, by what may be said of it: `1.04 × pio-exit (1.02 to 1.06)`, or, where the operation wins,
/// `520 × as fast as …`.
pub fn ratio(against: &Comparison) -> String {
    let name = &against.name;
    match against.verdict {
        Verdict::Faster => format!(
            "{} × as fast as {name} {}",
            factor(&against.ratio.inverse()),
            range(&against.ratio.inverse())
        ),
        Verdict::Slower => format!("{} × {name} {}", factor(&against.ratio), range(&against.ratio)),
        Verdict::Alike => format!("as {name} {}", range(&against.ratio)),
        Verdict::NotShown => format!("no difference to {name} shown {}", range(&against.ratio)),
        Verdict::NotCompared => {
            format!("{} × {name}, not compared {}", factor(&against.ratio), range(&against.ratio))
        }
    }
}

fn factor(ratio: &Estimate) -> String {
    ratio_digits(ratio.median)
}

/// The interval of a ratio in parentheses, or how many rounds were too few for one.
pub fn range(ratio: &Estimate) -> String {
    match ratio.interval {
        Some([low, high]) => format!("({} to {})", ratio_digits(low), ratio_digits(high)),
        None => format!("(n = {})", ratio.n),
    }
}

/// The interval of a time, or a dash.
pub fn time_range(estimate: &Estimate) -> String {
    match estimate.interval {
        Some([low, high]) => format!("{} to {}", time(low), time(high)),
        None => "–".into(),
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

/// The machine, the program and the settings in a few lines.
pub fn machine(results: &Results) -> Vec<String> {
    let [hardware, virtualization] = host(&results.machine);
    let (program, settings) = (&results.program, &results.settings);
    let rounds = match settings.rounds {
        least if least == settings.most_rounds => format!("{least} rounds"),
        least => format!("{least} to {} rounds", settings.most_rounds),
    };
    let pinned = settings.pinned.as_ref().map(|on| format!(" · on processors {on}")).unwrap_or_default();
    vec![
        hardware,
        virtualization,
        format!(
            "hv {}{} (build {}) · {} · {rounds} of {} ms, seed {}{pinned}",
            program.version,
            if program.optimised { "" } else { " (not optimised)" },
            if program.build.is_empty() { "unknown" } else { &program.build },
            date(results.time),
            settings.round_ms,
            settings.seed,
        ),
    ]
}

/// A moment as people write it, in UTC.
pub fn date(seconds: u64) -> String {
    /// The end of the year 9999: none of these results is younger.
    const LAST: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))).to_string()
}

/// A percentile, or a dash where there are too few samples for it.
pub fn percentile(m: &Measurement, percent: f64) -> String {
    m.latency_ns.at(percent).map_or("–".into(), time)
}

fn row(m: &Measurement) -> [String; 9] {
    [
        m.name.clone(),
        time(m.median_ns.median),
        time_range(&m.median_ns),
        percentile(m, 99.0),
        percentile(m, 99.9),
        rate(m.per_second),
        digits(m.exits_per_operation()),
        time(m.cpu_ns.median),
        m.median_ns.n.to_string(),
    ]
}

const HEADINGS: [&str; 9] =
    ["operation", "median", "95 %", "p99", "p99.9", "per s", "exits/op", "CPU/op", "n"];
const WIDTHS: [usize; 9] = [22, 10, 22, 10, 10, 10, 10, 10, 5];

/// The whole table.
pub fn text(results: &Results, style: Style) -> String {
    let mut text = String::new();
    for line in machine(results) {
        let _ = writeln!(text, "{line}");
    }
    for group in Group::of_results() {
        let members: Vec<_> = results.operations.iter().filter(|m| m.group == group).collect();
        if members.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{}", style.bold(group.title()));
        let line = |cells: &[String; 9]| {
            let mut line = format!("  {:<1$}", cells[0], WIDTHS[0]);
            for (cell, width) in cells.iter().zip(WIDTHS).skip(1) {
                let _ = write!(line, "{cell:>width$}");
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
        for (ratio, text) in [
            (87_733.0, "87,700"),
            (1_234_567.0, "1,230,000"),
            (999.4, "999"),
            (12.34, "12.3"),
            (1.04, "1.04"),
            (0.5, "0.50"),
            (0.0312, "0.031"),
            (0.00124, "0.0012"),
            (4.94e-5, "4.9×10⁻⁵"),
            (1e-12, "10⁻¹²"),
            (0.0, "0"),
        ] {
            assert_eq!(ratio_digits(ratio), text);
        }
    }

    #[test]
    fn ratios_say_who_wins_and_claim_nothing_that_is_not_shown() {
        let against = |median, low, high, verdict| {
            let ratio = Estimate { median, interval: Some([low, high]), n: 20 };
            let (name, by) = ("uart".into(), crate::result::Figure::Median);
            super::ratio(&Comparison { name, by, ratios: Vec::new(), ratio, verdict, apart_ms: 90.0 })
        };
        assert_eq!(against(1.04, 1.02, 1.06, Verdict::Slower), "1.04 × uart (1.02 to 1.06)");
        assert_eq!(against(0.002, 0.001, 0.004, Verdict::Faster), "500 × as fast as uart (250 to 1,000)");
        assert_eq!(against(1.2, 0.9, 1.3, Verdict::NotShown), "no difference to uart shown (0.90 to 1.30)");
        assert_eq!(against(1.0, 0.99, 1.01, Verdict::Alike), "as uart (0.99 to 1.01)");
    }

    #[test]
    fn dates_are_those_of_the_calendar_and_absurd_ones_are_shown() {
        assert_eq!(date(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(date(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
