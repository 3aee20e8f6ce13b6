//! What the plots share: text, logarithmic scales, colours.

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

/// Colours of the style sheet.
const COLOURS: usize = 8;

/// The class of the series with this number.
pub(super) fn colour(series: usize) -> String {
    format!("c{}", series % COLOURS)
}

/// A logarithmic scale between whole powers of a base.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    base: f64,
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Scale {
    /// Maps the positive ones of some values to `from..to`. Some room is left where a value lies on the edge.
    pub(super) fn new(values: impl IntoIterator<Item = f64>, base: f64, from: f64, to: f64) -> Scale {
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for value in values.into_iter().filter(|value| value.is_finite() && *value > 0.0) {
            least = least.min(value);
            most = most.max(value);
        }
        if least > most {
            (least, most) = (1.0, base);
        }
        let power = |value: f64| value.ln() / base.ln();
        let low = (power(least) + 1e-9).floor() as i32;
        let high = ((power(most) - 1e-9).ceil() as i32).max(low + 1);
        Scale { base, low, high, from, to }
    }

    /// Where a value lies.
    pub(super) fn at(&self, value: f64) -> f64 {
        let power = value.max(f64::MIN_POSITIVE).ln() / self.base.ln();
        let part = (power - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + (self.to - self.from) * part.clamp(0.0, 1.0)
    }

    /// Values of the grid, no more than ten or so.
    pub(super) fn ticks(&self) -> impl Iterator<Item = f64> {
        let step = ((self.high - self.low) / 10 + 1) as usize;
        let base = self.base;
        (self.low..=self.high).step_by(step).map(move |power| base.powi(power))
    }
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
        let scale = Scale::new([20.0, 3000.0, f64::NAN, 0.0], 10.0, 0.0, 300.0);
        assert_eq!(
            scale.ticks().map(|tick| tick.round()).collect::<Vec<_>>(),
            [10.0, 100.0, 1000.0, 10000.0]
        );
        assert!((scale.at(100.0) - 100.0).abs() < 1e-6);
        assert_eq!((scale.at(0.0), scale.at(f64::INFINITY)), (0.0, 300.0));
        // Nothing at all, and a single value.
        assert_eq!(Scale::new([], 10.0, 0.0, 1.0).ticks().count(), 2);
        assert_eq!(Scale::new([1000.0], 10.0, 0.0, 1.0).ticks().count(), 2);
    }
}
