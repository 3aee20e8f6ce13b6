//! What a budget decides. Pure: bytes in, decisions out.

/// How the memory in use compares with the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// There is enough.
    Calm,
    /// Guests are asked for memory.
    Tight,
    /// More is in use than there should be.
    Over,
}

impl Level {
    /// The level at so many bytes in use. One that was tight is calm again only once clearly less is in use, so that guests are not
    /// asked and released in turn.
    pub(super) fn of(used: u64, budget: u64, before: Level) -> Level {
        let tight = budget - budget / 8;
        let calm = budget - budget / 4;
        match used {
            used if used > budget => Level::Over,
            used if used > tight || (before != Level::Calm && used > calm) => Level::Tight,
            _ => Level::Calm,
        }
    }
}

/// What a guest uses, and what it was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) promised: u64,
    pub(super) used: u64,
}

impl Use {
    /// Bytes beyond the promise.
    fn excess(self) -> u64 {
        self.used.saturating_sub(self.promised)
    }

    /// What the guest is asked to shrink to at this level, if it uses more than it was promised: half of that at first.
    pub(super) fn target(self, level: Level) -> Option<u64> {
        let kept = match level {
            Level::Calm => return None,
            Level::Tight => self.excess() / 2,
            Level::Over => 0,
        };
        (self.excess() > 0).then(|| self.promised + kept)
    }
}

/// The guest that is ended if nothing else helps: the one with the most memory beyond its promise. `None` if no guest has any.
pub(super) fn worst(uses: &[Use]) -> Option<usize> {
    let (worst, most) =
        uses.iter().map(|each| each.excess()).enumerate().max_by_key(|(_, excess)| *excess)?;
    (most > 0).then_some(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_hysteresis() {
        let of = |used, before| Level::of(used, 800, before);
        assert_eq!(of(700, Level::Calm), Level::Calm);
        assert_eq!(of(701, Level::Calm), Level::Tight);
        assert_eq!(of(601, Level::Tight), Level::Tight);
        assert_eq!(of(600, Level::Tight), Level::Calm);
        assert_eq!(of(601, Level::Over), Level::Tight);
        assert_eq!(of(800, Level::Calm), Level::Tight);
        assert_eq!(of(801, Level::Calm), Level::Over);
        assert_eq!(Level::of(0, 0, Level::Calm), Level::Calm);
        assert_eq!(Level::of(u64::MAX, u64::MAX - 1, Level::Calm), Level::Over);
    }

    #[test]
    fn only_what_is_beyond_the_promise_is_asked_for() {
        let large = Use { promised: 100, used: 300 };
        assert_eq!(large.target(Level::Tight), Some(200));
        assert_eq!(large.target(Level::Over), Some(100));
        assert_eq!(large.target(Level::Calm), None);
        for used in [0, 100] {
            assert_eq!(Use { promised: 100, used }.target(Level::Over), None);
        }
    }

    #[test]
    fn the_one_with_most_beyond_its_promise_goes() {
        let uses = [(500, 600), (10, 200), (0, 150)].map(|(promised, used)| Use { promised, used });
        assert_eq!(worst(&uses), Some(1));
        assert_eq!(worst(&uses[..1]), Some(0));
        assert_eq!(worst(&[Use { promised: 5, used: 5 }]), None);
        assert_eq!(worst(&[]), None);
    }
}
