//! Lines between points on two logarithmic axes, with a key.

use super::svg::{Scale, WIDTH, colour, escape};
use crate::table::digits;
use std::fmt::Write;

const LEFT: f64 = 46.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 230.0;
const AXIS: f64 = 24.0;
const KEY_ROW: f64 = 18.0;

/// A line of a plot.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// How far the y of each point spreads; as many as points, or none.
    pub(super) ranges: Vec<(f64, f64)>,
}

/// The horizontal axis.
pub(super) struct Axis {
    /// What stands at a value.
    pub(super) label: fn(f64) -> String,
    /// The factor between two lines of the grid.
    pub(super) between: f64,
}

/// Something against something, both with logarithmic axes.
pub(super) struct Plot {
    pub(super) class: &'static str,
    pub(super) series: Vec<Series>,
    pub(super) x: Axis,
    /// The label of a value of the vertical axis.
    pub(super) y: fn(f64) -> String,
    /// Whether the points themselves are shown.
    pub(super) marks: bool,
}

/// A power of ten of nanoseconds, as short as can be.
pub(super) fn short_time(nanos: f64) -> String {
    let short = |value: f64, unit: &str| match digits(value) {
        text if text.contains('.') => format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.')),
        text => format!("{text}{unit}"),
    };
    match nanos {
        n if n < 999.0 => short(n, " ns"),
        n if n < 999_000.0 => short(n / 1e3, " µs"),
        n if n < 999_000_000.0 => short(n / 1e6, " ms"),
        n => short(n / 1e9, " s"),
    }
}

impl Plot {
    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let ranges = self.series.iter().flat_map(|series| series.ranges.iter().flat_map(|&(a, b)| [a, b]));
        let x = Scale::new(points().map(|(x, _)| x), self.x.between, LEFT, RIGHT);
        let y = Scale::new(points().map(|(_, y)| y).chain(ranges), 10.0, BOTTOM, TOP);
        let height = BOTTOM + AXIS + KEY_ROW * self.series.len() as f64 + 4.0;
        let mut svg = format!(
            "<svg class=\"{}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Lines\">\n",
            self.class
        );
        self.grid(&mut svg, &x, &y);
        for (n, series) in self.series.iter().enumerate() {
            self.line(&mut svg, n, series, &x, &y);
            let row = BOTTOM + AXIS + KEY_ROW * (n as f64 + 0.5);
            let text = row + 4.0;
            let end = LEFT + 20.0;
            let _ = writeln!(svg, "<path class=\"line {}\" d=\"M{LEFT} {row}H{end}\"/>", colour(n));
            let after = end + 6.0;
            let _ = writeln!(svg, "<text x=\"{after}\" y=\"{text}\">{}</text>", escape(&series.name));
        }
        svg += "</svg>\n";
        svg
    }

    fn grid(&self, svg: &mut String, x: &Scale, y: &Scale) {
        for tick in y.ticks() {
            let at = y.at(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\"/>"
            );
            let (left, text) = (LEFT - 5.0, at + 4.0);
            let label = (self.y)(tick);
            let _ = writeln!(
                svg,
                "<text class=\"tick\" x=\"{left}\" y=\"{text:.1}\" text-anchor=\"end\">{label}</text>"
            );
        }
        for tick in x.ticks() {
            let at = x.at(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{BOTTOM}\"/>"
            );
            let text = BOTTOM + 15.0;
            let anchor = if at > RIGHT - 20.0 { "end" } else { "middle" };
            let label = (self.x.label)(tick);
            let _ = writeln!(
                svg,
                "<text class=\"tick\" x=\"{at:.1}\" y=\"{text}\" text-anchor=\"{anchor}\">{label}</text>"
            );
        }
    }

    fn line(&self, svg: &mut String, n: usize, series: &Series, x: &Scale, y: &Scale) {
        let mut path = String::new();
        for (n, &(at, value)) in series.points.iter().enumerate() {
            let letter = if n == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", x.at(at), y.at(value));
        }
        let class = colour(n);
        let _ = writeln!(svg, "<path class=\"line {class}\" d=\"{path}\"/>");
        for (&(at, _), &(low, high)) in series.points.iter().zip(&series.ranges) {
            let (at, low, high) = (x.at(at), y.at(low), y.at(high));
            let _ = writeln!(svg, "<path class=\"range\" d=\"M{at:.1} {low:.1}V{high:.1}\"/>");
        }
        for &(at, value) in series.points.iter().filter(|_| self.marks) {
            let (at, value) = (x.at(at), y.at(value));
            let _ =
                writeln!(svg, "<circle class=\"mark {class}\" cx=\"{at:.1}\" cy=\"{value:.1}\" r=\"4\"/>");
        }
    }
}
