//! When a difference is claimed.

use crate::interval::Estimate;
use serde::{Deserialize, Serialize};

/// What a ratio of two neighbours in the same run has to differ from 1 to be called a difference. Below that lie errors that more
/// rounds do not take away: where the linker puts a loop, which pages of the host's memory a run gets.
pub const EFFECT: f64 = 0.02;

/// The same for a ratio between two runs, each of which has those errors. Ratios repeat within 1 to 4 % from run to run.
pub const EFFECT_BETWEEN_RUNS: f64 = 0.05;

/// What may be said of a ratio of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Less time: the interval lies below 1, and the effect is not smaller than the least one.
    Faster,
    /// More time, likewise.
    Slower,
    /// The whole interval is nearer to 1 than the least effect.
    Alike,
    /// The interval contains 1, or the effect is smaller than the least one: no claim can be made.
    NotShown,
    /// There are too few rounds for an interval, or the runs are not comparable.
    #[serde(alias = "unjudged")]
    NotCompared,
}

impl Verdict {
    /// The verdict on a ratio of times; an effect below `least` is none.
    pub fn of(ratio: &Estimate, least: f64) -> Verdict {
        let Some([low, high]) = ratio.interval else { return Verdict::NotCompared };
        let (small, large) = (1.0 / (1.0 + least), 1.0 + least);
        match ratio.median {
            _ if low > small && high < large => Verdict::Alike,
            median if high < 1.0 && median <= small => Verdict::Faster,
            median if low > 1.0 && median >= large => Verdict::Slower,
            _ => Verdict::NotShown,
        }
    }

    /// Whether a difference is claimed.
    pub fn claims(self) -> bool {
        matches!(self, Verdict::Faster | Verdict::Slower)
    }

    /// In words, as tables show it.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Alike => "alike",
            Verdict::NotShown => "no difference shown",
            Verdict::NotCompared => "not compared",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_needs_the_interval_and_the_effect() {
        let of =
            |low, median, high| Verdict::of(&Estimate { median, interval: Some([low, high]), n: 15 }, EFFECT);
        assert_eq!(of(0.80, 0.9, 0.95), Verdict::Faster);
        assert_eq!(of(1.01, 1.1, 1.3), Verdict::Slower);
        // Contains 1.
        assert_eq!(of(0.99, 1.1, 1.3), Verdict::NotShown);
        // Excludes 1, but by less than counts.
        assert_eq!(of(1.001, 1.01, 1.03), Verdict::NotShown);
        assert_eq!(of(0.99, 1.0, 1.01), Verdict::Alike);
        assert_eq!(of(1.001, 1.01, 1.015), Verdict::Alike);
        let few = Estimate { median: 5.0, interval: None, n: 5 };
        assert_eq!(Verdict::of(&few, EFFECT), Verdict::NotCompared);
    }
}
