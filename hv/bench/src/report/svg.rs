//! What the plots share: text, logarithmic scales, markers.

use std::fmt::Write;

/// Text that may stand between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in a page at all.
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

/// Width of a plot, in its own units; a phone shows it at about this size.
pub(super) const WIDTH: f64 = 420.0;

/// Room for a character of the plots' text: that of wide fonts.
const CHARACTER: f64 = 7.2;

/// How much smaller the text of values, ticks and titles of axes is.
pub(super) const SMALL: f64 = 11.0 / 12.0;

/// About how wide a text is.
pub(super) fn width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// As much of a text as there is room for.
pub(super) fn fitting(text: &str, room: f64) -> String {
    let most = (room / CHARACTER).max(1.0) as usize;
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// A logarithmic scale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Maps the positive ones of some values to `from..to`. Some room is left at both ends.
    pub(super) fn new(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Scale {
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for value in values.into_iter().filter(|value| value.is_finite() && *value > 1e-12 && *value < 1e18) {
            least = least.min(value);
            most = most.max(value);
        }
        if least > most {
            (least, most) = (1.0, 10.0);
        }
        // At least 10 % above and below a single value.
        let room = ((most / least).ln() * 0.04).max(0.1).exp();
        Scale { low: (least / room).ln(), high: (most * room).ln(), from, to }
    }

    /// Where a value lies.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = (value.max(f64::MIN_POSITIVE).ln() - self.low) / (self.high - self.low);
        self.from + (self.to - self.from) * part.clamp(0.0, 1.0)
    }

    /// Round values within the scale that lie at least so far apart.
    pub(super) fn ticks(&self, apart: f64) -> Vec<f64> {
        let decades = (self.high - self.low) / std::f64::consts::LN_10;
        let (low, high) = (self.low.exp(), self.high.exp());
        let candidates: Vec<f64> = if decades > 2.0 {
            (-12..=18).map(|power| 10f64.powi(power)).collect()
        } else if decades > 0.7 {
            (-12..=18).flat_map(|power| [1.0, 2.0, 5.0].map(|n| n * 10f64.powi(power))).collect()
        } else {
            let step = [1.0, 2.0, 5.0, 10.0]
                .map(|n| n * 10f64.powf(((high - low) / 5.0).log10().floor()))
                .into_iter()
                .find(|step| (high - low) / step <= 6.0)
                .unwrap_or(high - low);
            (0..=12).map(|n| ((low / step).ceil() + f64::from(n)) * step).collect()
        };
        self.apart(candidates, apart)
    }

    /// Powers of two within the scale that lie at least so far apart: for bytes.
    pub(super) fn binary_ticks(&self, apart: f64) -> Vec<f64> {
        // As few steps of two between them as there is room for, so that all are equal.
        let one = (self.to - self.from).abs() * std::f64::consts::LN_2 / (self.high - self.low);
        let step = (apart / one).ceil().clamp(1.0, 20.0) as usize;
        self.apart((0..=60).step_by(step).map(|power| 2f64.powi(power)).collect(), apart)
    }

    /// Those of some ascending values within the scale that lie at least so far apart.
    fn apart(&self, candidates: Vec<f64>, apart: f64) -> Vec<f64> {
        let (low, high) = (self.low.exp(), self.high.exp());
        let mut ticks: Vec<f64> = Vec::new();
        for tick in candidates.into_iter().filter(|tick| (low..=high).contains(tick)) {
            let far = |other: &f64| (self.at(tick) - self.at(*other)).abs() >= apart;
            if ticks.last().is_none_or(far) {
                ticks.push(tick);
            }
        }
        ticks
    }
}

/// Shapes that can be told apart without their colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Diamond,
    Square,
    Triangle,
}

/// The shapes, in the order in which series take them.
pub(super) const SHAPES: [Shape; 4] = [Shape::Circle, Shape::Diamond, Shape::Square, Shape::Triangle];

/// A marker around a point; hollow if what it shows has no interval.
pub(super) fn marker(svg: &mut String, shape: Shape, class: &str, x: f64, y: f64, hollow: bool) {
    let class = if hollow { format!("mark hollow {class}") } else { format!("mark {class}") };
    let _ = match shape {
        Shape::Circle => writeln!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        Shape::Diamond => {
            writeln!(svg, "<path class=\"{class}\" d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"/>", y - 5.0)
        }
        Shape::Square => {
            let (x, y) = (x - 3.6, y - 3.6);
            writeln!(svg, "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"7.2\" height=\"7.2\"/>")
        }
        Shape::Triangle => {
            writeln!(svg, "<path class=\"{class}\" d=\"M{x:.1} {:.1}l4.8 8.4h-9.6z\"/>", y - 4.8)
        }
    };
}

/// The beginning of a plot of this height, with its name for those who cannot see it.
pub(super) fn begin(class: &str, height: f64, name: &str) -> String {
    format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n<title>{}</title>\n",
        escape(name)
    )
}

/// A piece of text at a place.
pub(super) fn text(svg: &mut String, class: &str, [x, y]: [f64; 2], anchor: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a b='\"&\u{1b}>"), "&lt;a b=&#39;&quot;&amp;\u{fffd}&gt;");
    }

    #[test]
    fn scales_span_their_values() {
        let scale = Scale::new([20.0, 3000.0, f64::NAN, 0.0, f64::INFINITY], 0.0, 300.0);
        assert!(scale.at(20.0) > 0.0 && scale.at(3000.0) < 300.0);
        assert_eq!((scale.at(0.0), scale.at(f64::INFINITY)), (0.0, 300.0));
        assert_eq!(scale.ticks(20.0).iter().map(|tick| tick.round()).collect::<Vec<_>>(), [100.0, 1000.0]);
        // Nothing at all, and a single value.
        assert!(Scale::new([], 0.0, 100.0).ticks(10.0).len() > 1);
        assert!(!Scale::new([1000.0], 0.0, 100.0).ticks(10.0).is_empty());
    }

    #[test]
    fn ticks_are_round_and_leave_room_for_their_labels() {
        let round = |low: f64, high: f64| {
            let scale = Scale::new([low, high], 0.0, 400.0);
            let ticks = scale.ticks(40.0);
            assert!(ticks.windows(2).all(|pair| scale.at(pair[1]) - scale.at(pair[0]) >= 40.0), "{ticks:?}");
            assert!((2..=10).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
            ticks
        };
        let near = round(0.9, 1.3);
        assert!(near.iter().any(|tick| (tick - 1.0).abs() < 1e-9), "{near:?}");
        round(0.3, 3.0);
        round(1e-5, 3.0);
        round(0.2, 2e9);
        round(1.0, 1.001);
    }

    #[test]
    fn bytes_have_ticks_at_powers_of_two() {
        let scale = Scale::new([2000.0, 2e6], 200.0, 0.0);
        let ticks = scale.binary_ticks(24.0);
        assert!(ticks.len() > 3 && ticks.iter().all(|tick| (*tick as u64).is_power_of_two()), "{ticks:?}");
        assert!(ticks.windows(2).all(|pair| pair[1] / pair[0] == ticks[1] / ticks[0]), "{ticks:?}");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(fitting("operation", 500.0), "operation");
        assert_eq!(fitting("operation", 36.5), "oper…");
        assert_eq!(fitting("operation", 0.0), "…");
    }
}
