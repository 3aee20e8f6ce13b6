//! A row for each thing, with its value as a marker on a logarithmic axis that all rows share.

use super::svg::{SHAPES, SMALL, Scale, Shape, WIDTH, begin, escape, fitting, marker, text, width};
use std::fmt::Write;

const ROW: f64 = 36.0;
const HEAD: f64 = 26.0;
const LEFT: f64 = 3.0;
const RIGHT: f64 = WIDTH - 3.0;
/// Room for the axis' labels and its title.
const AXIS: f64 = 40.0;
/// Where the text of a row stands, and its markers, below its top.
const TEXT: f64 = 14.0;
const TRACK: f64 = 25.0;

/// A thing.
pub(super) struct Row {
    /// Stands above the row, if it is the first of several.
    pub(super) head: Option<String>,
    /// What it is.
    pub(super) label: String,
    /// Its value in words.
    pub(super) value: String,
    /// The class of its colour.
    pub(super) class: &'static str,
    /// Its values with their shapes.
    pub(super) marks: Vec<(f64, Shape)>,
    /// Its interval, or how far its values reach.
    pub(super) range: Option<[f64; 2]>,
    /// Whether its value is known without an interval only.
    pub(super) hollow: bool,
}

/// The whole plot.
pub(super) struct Rows<'a> {
    pub(super) class: &'a str,
    /// Its name for those who cannot see it.
    pub(super) name: &'a str,
    pub(super) rows: Vec<Row>,
    /// The title of the axis.
    pub(super) axis: &'a str,
    /// The label of a value of the axis.
    pub(super) tick: fn(f64) -> String,
    /// A value with a line of its own, and what lies left and right of it.
    pub(super) line: Option<(f64, [&'a str; 2])>,
    /// What the shapes mean, where that is not said by the rows.
    pub(super) key: &'a [&'a str],
}

impl Rows<'_> {
    pub(super) fn svg(&self) -> String {
        let values = self
            .rows
            .iter()
            .flat_map(|row| row.marks.iter().map(|(at, _)| *at).chain(row.range.into_iter().flatten()));
        let scale = Scale::new(values.chain(self.line.map(|(at, _)| at)), LEFT + 5.0, RIGHT - 5.0);
        let top = if self.line.is_some() || !self.key.is_empty() { 24.0 } else { 4.0 };
        let heads = self.rows.iter().filter(|row| row.head.is_some()).count() as f64;
        let bottom = top + ROW * self.rows.len() as f64 + HEAD * heads;
        let mut svg = begin(self.class, bottom + AXIS, self.name);
        self.axis(&mut svg, &scale, top, bottom);
        self.key(&mut svg);
        let mut y = top;
        for row in &self.rows {
            if let Some(head) = &row.head {
                text(&mut svg, "head", [LEFT, y + 18.0], "start", head);
                y += HEAD;
            }
            row.draw(&mut svg, &scale, y);
            y += ROW;
        }
        svg + "</svg>\n"
    }

    fn axis(&self, svg: &mut String, scale: &Scale, top: f64, bottom: f64) {
        for tick in scale.ticks(54.0) {
            let (x, label) = (scale.at(tick), (self.tick)(tick));
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {top:.0}V{bottom:.0}\"/>");
            let half = width(&label) / 2.0;
            let place = x.clamp(half, WIDTH - half);
            text(svg, "tick", [place, bottom + 15.0], "middle", &label);
        }
        text(svg, "axis", [WIDTH / 2.0, bottom + 33.0], "middle", self.axis);
        if let Some((at, [left, right])) = self.line {
            let x = scale.at(at);
            let _ = writeln!(svg, "<path class=\"one\" d=\"M{x:.1} {:.0}V{bottom:.0}\"/>", top - 4.0);
            if width(left) + 8.0 < x {
                text(svg, "side", [x - 8.0, 14.0], "end", left);
            }
            if width(right) + 8.0 < WIDTH - x {
                text(svg, "side", [x + 8.0, 14.0], "start", right);
            }
        }
    }

    fn key(&self, svg: &mut String) {
        let mut x = LEFT;
        for (name, shape) in self.key.iter().zip(SHAPES) {
            marker(svg, shape, "key", x + 5.0, 10.0, false);
            text(svg, "side", [x + 14.0, 14.0], "start", name);
            x += width(name) + 26.0;
        }
    }
}

impl Row {
    fn draw(&self, svg: &mut String, scale: &Scale, top: f64) {
        let y = top + TRACK;
        let label = fitting(&self.label, RIGHT - LEFT - SMALL * width(&self.value) - 8.0);
        let _ = writeln!(svg, "<g><title>{}: {}</title>", escape(&self.label), escape(&self.value));
        text(svg, "label", [LEFT, top + TEXT], "start", &label);
        text(svg, "value", [RIGHT, top + TEXT], "end", &self.value);
        let _ = writeln!(svg, "<path class=\"track\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>");
        if let Some([low, high]) = self.range {
            let (low, high) = (scale.at(low), scale.at(high));
            let (up, down) = (y - 4.0, y + 4.0);
            let _ = writeln!(
                svg,
                "<path class=\"range {}\" d=\"M{low:.1} {y:.1}H{high:.1}M{low:.1} {up:.1}V{down:.1}M{high:.1} {up:.1}V{down:.1}\"/>",
                self.class
            );
        }
        for &(at, shape) in &self.marks {
            marker(svg, shape, self.class, scale.at(at), y, self.hollow);
        }
        *svg += "</g>\n";
    }
}
