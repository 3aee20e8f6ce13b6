//! When there are rounds enough.

use crate::interval::Estimate;

/// Half the width of an interval, as a part of its median, that is narrow enough: a difference of 5 % between two runs shows then.
pub const NARROW: f64 = 0.025;

/// How many rounds there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// At least.
    pub least: u32,
    /// At most.
    pub most: u32,
}

impl Rounds {
    /// Whether another round follows `done` ones after which this is known. Only the width counts, never the value: to go on until
    /// a difference shows would make one out of nothing.
    pub fn go_on<'a>(self, done: u32, known: impl IntoIterator<Item = &'a Estimate>) -> bool {
        done < self.least
            || done < self.most && known.into_iter().any(|estimate| estimate.half_width() > NARROW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_on_until_all_is_narrow_or_there_are_the_most() {
        let rounds = Rounds { least: 7, most: 20 };
        let of = |half: f64| Estimate { median: 2.0, interval: Some([2.0 - half, 2.0 + half]), n: 10 };
        let (narrow, wide) = (of(0.04), of(0.06));
        let unknown = Estimate { median: 2.0, interval: None, n: 3 };
        assert!(rounds.go_on(6, [&narrow]));
        assert!(!rounds.go_on(7, [&narrow]));
        assert!(rounds.go_on(7, [&narrow, &wide]) && rounds.go_on(7, [&unknown]));
        assert!(!rounds.go_on(20, [&wide]));
    }
}
