//! Lines between points on two logarithmic axes, each with its name at its end.

use super::svg::{SHAPES, Scale, WIDTH, begin, fitting, marker, text, width};
use crate::table::digits;
use std::fmt::Write;

const LEFT: f64 = 58.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 236.0;
const HEIGHT: f64 = BOTTOM + 40.0;
/// Most room for the names of lines, and the least distance between two of them.
const NAMES: f64 = 150.0;
const NAME: f64 = 15.0;

/// Classes of colours, in the order in which series take them.
const CLASSES: [&str; 4] = ["hv", "process", "floor", "emulated"];

/// A line of a plot.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// The interval of each point's y; as many as points, or none.
    pub(super) ranges: Vec<Option<[f64; 2]>>,
}

/// Something against something.
pub(super) struct Plot<'a> {
    pub(super) class: &'a str,
    /// Its name for those who cannot see it.
    pub(super) name: &'a str,
    pub(super) series: Vec<Series>,
    /// The titles of the axes.
    pub(super) axes: [&'a str; 2],
    /// Labels of round values of the horizontal axis; `None`: it has those of the points, which are numbers.
    pub(super) x: Option<fn(f64) -> String>,
    /// Labels of values of the vertical axis.
    pub(super) y: fn(f64) -> String,
    /// Whether these values are bytes.
    pub(super) bytes: bool,
}

/// A time as short as can be.
pub(super) fn short_time(nanos: f64) -> String {
    let short = |value: f64, unit: &str| match digits(value) {
        text if text.contains('.') => format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.')),
        text => format!("{text} {unit}"),
    };
    match nanos {
        n if n < 999.0 => short(n, "ns"),
        n if n < 999_000.0 => short(n / 1e3, "µs"),
        n if n < 999_000_000.0 => short(n / 1e6, "ms"),
        n => short(n / 1e9, "s"),
    }
}

impl Plot<'_> {
    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let ranges = self.series.iter().flat_map(|series| series.ranges.iter().flatten().flatten().copied());
        let longest = self.series.iter().map(|series| width(&series.name)).fold(0.0, f64::max);
        let right = WIDTH - longest.min(NAMES) - 12.0;
        let x = Scale::new(points().map(|(x, _)| x), LEFT, right);
        let y = Scale::new(points().map(|(_, y)| y).chain(ranges), BOTTOM, TOP);
        let mut svg = begin(self.class, HEIGHT, self.name);
        self.grid(&mut svg, &x, &y, right);
        for (n, series) in self.series.iter().enumerate() {
            line(&mut svg, n, series, &x, &y);
        }
        self.names(&mut svg, &y, right);
        svg + "</svg>\n"
    }

    fn grid(&self, svg: &mut String, x: &Scale, y: &Scale, right: f64) {
        for tick in if self.bytes { y.binary_ticks(24.0) } else { y.ticks(24.0) } {
            let at = y.at(tick);
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right:.1}\"/>");
            text(svg, "tick", [LEFT - 6.0, at + 4.0], "end", &(self.y)(tick));
        }
        for (at, label) in self.places(x) {
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>");
            text(svg, "tick", [at, BOTTOM + 15.0], "middle", &label);
        }
        text(svg, "axis", [f64::midpoint(LEFT, right), BOTTOM + 33.0], "middle", self.axes[0]);
        text(svg, "axis", [4.0, 12.0], "start", self.axes[1]);
    }

    /// Where the horizontal axis has labels, and which.
    fn places(&self, x: &Scale) -> Vec<(f64, String)> {
        if let Some(label) = self.x {
            return x.ticks(56.0).into_iter().map(|tick| (x.at(tick), label(tick))).collect();
        }
        let mut last = f64::NEG_INFINITY;
        let places = self.series.iter().flat_map(|series| series.points.iter().map(|(x, _)| *x));
        let mut places: Vec<f64> = places.collect();
        places.sort_by(f64::total_cmp);
        // The points' own places, as far as there is room for their labels.
        let labelled = places.into_iter().map(|place| (x.at(place), format!("{place:.0}")));
        labelled
            .filter(|(at, label)| {
                let has_room = at - last >= width(label) + 8.0;
                last = if has_room { *at } else { last };
                has_room
            })
            .collect()
    }

    /// Names at the ends of lines, moved apart where ends are near each other.
    fn names(&self, svg: &mut String, y: &Scale, right: f64) {
        let mut ends: Vec<(f64, usize)> = self
            .series
            .iter()
            .enumerate()
            .filter_map(|(n, series)| Some((y.at(series.points.last()?.1), n)))
            .collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut above = TOP - NAME;
        for (at, _) in &mut ends {
            *at = at.max(above + NAME);
            above = *at;
        }
        // Those that were moved below the plot push the others up again.
        let mut below = BOTTOM + NAME;
        for (at, _) in ends.iter_mut().rev() {
            *at = at.min(below - NAME);
            below = *at;
        }
        for (at, n) in ends {
            let name = fitting(&self.series[n].name, NAMES);
            let class = format!("name {}", CLASSES[n % CLASSES.len()]);
            text(svg, &class, [right + 10.0, at + 4.0], "start", &name);
        }
    }
}

fn line(svg: &mut String, n: usize, series: &Series, x: &Scale, y: &Scale) {
    let (class, shape) = (CLASSES[n % CLASSES.len()], SHAPES[n % SHAPES.len()]);
    let mut path = String::new();
    for (n, &(at, value)) in series.points.iter().enumerate() {
        let letter = if n == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{:.1} {:.1}", x.at(at), y.at(value));
    }
    let _ = writeln!(svg, "<path class=\"line {class}\" d=\"{path}\"/>");
    for (&(at, _), range) in series.points.iter().zip(&series.ranges) {
        let Some([low, high]) = *range else { continue };
        let (at, low, high) = (x.at(at), y.at(low), y.at(high));
        let _ = writeln!(svg, "<path class=\"range {class}\" d=\"M{at:.1} {low:.1}V{high:.1}\"/>");
    }
    for &(at, value) in &series.points {
        marker(svg, shape, class, x.at(at), y.at(value), false);
    }
}
