//! Horizontal bars on a logarithmic axis, with the spread of the rounds.

use super::svg::{Scale, WIDTH, colour, escape};
use crate::result::Measurement;
use crate::table::time;
use std::fmt::Write;

const ROW: f64 = 38.0;
const LEFT: f64 = 4.0;
/// Room for the longest value behind a bar.
const RIGHT: f64 = WIDTH - 72.0;
const AXIS: f64 = 22.0;

/// A bar for each median.
pub(super) fn plot(members: &[&Measurement]) -> String {
    let values = members.iter().flat_map(|m| [m.median_ns.low, m.median_ns.high]);
    // A bar begins left of the smallest value, or it could not be seen.
    let least = members.iter().map(|m| m.median_ns.low).fold(f64::INFINITY, f64::min);
    let scale = Scale::new(values.chain([least / 2.0]), 10.0, LEFT, RIGHT);
    let bottom = ROW * members.len() as f64;
    let height = bottom + AXIS;
    let mut svg = format!(
        "<svg class=\"bars\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Median times\">\n"
    );
    for tick in scale.ticks() {
        let x = scale.at(tick);
        let _ = writeln!(svg, "<line class=\"grid\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
        let anchor = if x < LEFT + 20.0 { "start" } else { "middle" };
        let y = height - 6.0;
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
            super::lines::short_time(tick)
        );
    }
    for (n, m) in members.iter().enumerate() {
        let top = ROW * n as f64;
        let spread = m.median_ns;
        let (end, low, high) = (scale.at(spread.median), scale.at(spread.low), scale.at(spread.high));
        let (text, bar, middle) = (top + 13.0, top + 18.0, top + 25.0);
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{text}\">{}</text>", escape(&m.name));
        let _ = writeln!(
            svg,
            "<rect class=\"bar {}\" x=\"{LEFT}\" y=\"{bar}\" width=\"{:.1}\" height=\"14\"/>",
            colour(n),
            end - LEFT
        );
        let _ = writeln!(
            svg,
            "<path class=\"range\" d=\"M{low:.1} {middle}H{high:.1}M{low:.1} {bar}v14M{high:.1} {bar}v14\"/>"
        );
        let (x, y) = (end.max(high) + 6.0, top + 30.0);
        let _ = writeln!(svg, "<text class=\"value\" x=\"{x:.1}\" y=\"{y}\">{}</text>", time(spread.median));
    }
    svg += "</svg>\n";
    svg
}
