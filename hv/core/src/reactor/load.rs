//! Whether the I/O thread needs a processor of its own. A pure decision, from how much time it has worked.
//!
//! If guests keep all processors busy, an I/O thread that works much of the time shares a processor with one of them, and
//! the host switches between the two some ten thousand times a second. Both make little progress, and what waits for
//! either waits for the host's clock tick. In this case guests leave one processor to the I/O thread.

use std::time::{Duration, Instant};

/// The interval over which its work is summed.
const WINDOW: Duration = Duration::from_millis(4);
/// The load is high if the work takes more than one part in so many of the time.
const MUCH: u32 = 3;
/// The shortest time for which it keeps a processor: the first value and the limit. The time doubles whenever it needs a
/// processor again soon after giving it back. A guest that rings needlessly rings less on fewer processors, so only
/// giving the processor back shows whether the load is over.
const FIRST_HOLD: Duration = Duration::from_millis(20);
const LAST_HOLD: Duration = Duration::from_secs(1);

/// The load of the I/O thread.
pub(super) struct ThreadLoad {
    begin: Instant,
    /// Elapsed time of the rounds since then, including the time that they waited for a processor.
    worked: Duration,
    /// Its CPU time at the beginning. This clock also counts what falling asleep and waking up take.
    cpu_time: Duration,
    /// Until when it keeps its processor, if it has one.
    held: Option<Instant>,
    hold: Duration,
    released: Option<Instant>,
}

impl ThreadLoad {
    pub(super) fn new(now: Instant, cpu_time: Duration) -> Self {
        let worked = Duration::ZERO;
        ThreadLoad { begin: now, worked, cpu_time, held: None, hold: FIRST_HOLD, released: None }
    }

    /// The latest time of the next call of [`note`](Self::note).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.held.map(|until| until.max(self.begin + WINDOW))
    }

    /// A round has taken this long and ends now. If the need for a processor of its own has changed, returns whether
    /// there is one. `cpu_time` is read only now and then.
    pub(super) fn note(
        &mut self,
        worked: Duration,
        now: Instant,
        cpu_time: impl FnOnce() -> Duration,
    ) -> Option<bool> {
        self.worked += worked;
        let window = now.saturating_duration_since(self.begin);
        if window < WINDOW {
            return None;
        }
        let cpu_time = cpu_time();
        let busy = self.worked.max(cpu_time - self.cpu_time) * MUCH >= window;
        (self.begin, self.worked, self.cpu_time) = (now, Duration::ZERO, cpu_time);
        match self.held {
            None if busy => {
                let again = self.released.is_some_and(|at| now.saturating_duration_since(at) < LAST_HOLD);
                self.hold = if again { (self.hold * 2).min(LAST_HOLD) } else { FIRST_HOLD };
                self.held = Some(now + self.hold);
                Some(true)
            }
            Some(until) if until <= now && !busy => {
                (self.held, self.released) = (None, Some(now));
                Some(false)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(100);

    /// Works for a part of each step. Returns when it got and gave back a processor, in milliseconds.
    fn changes(
        load: &mut ThreadLoad,
        now: &mut Instant,
        length: Duration,
        part: impl Fn(bool) -> f64,
    ) -> Vec<(u128, bool)> {
        let (begin, mut has, mut changes) = (*now, load.held.is_some(), Vec::new());
        while *now < begin + length {
            *now += STEP;
            if let Some(change) = load.note(STEP.mul_f64(part(has)), *now, || Duration::ZERO) {
                has = change;
                changes.push(((*now - begin).as_millis(), change));
            }
        }
        changes
    }

    #[test]
    fn little_work_needs_no_processor() {
        let mut now = Instant::now();
        let mut load = ThreadLoad::new(now, Duration::ZERO);
        assert_eq!(changes(&mut load, &mut now, Duration::from_secs(1), |_| 0.3), []);
        assert_eq!(load.deadline(), None);
    }

    #[test]
    fn much_work_keeps_one_until_it_is_over() {
        let mut now = Instant::now();
        let mut load = ThreadLoad::new(now, Duration::ZERO);
        assert_eq!(changes(&mut load, &mut now, Duration::from_secs(1), |_| 0.9), [(4, true)]);
        // No more work: the thread checks once more.
        let at = load.deadline().unwrap();
        assert!(at <= now + WINDOW);
        assert_eq!(load.note(Duration::ZERO, now.max(at), || Duration::ZERO), Some(false));
    }

    #[test]
    fn who_makes_work_only_with_all_processors_has_them_ever_less() {
        let mut now = Instant::now();
        let mut load = ThreadLoad::new(now, Duration::ZERO);
        let part = |has| if has { 0.2 } else { 0.9 };
        let changes = changes(&mut load, &mut now, Duration::from_secs(12), part);
        let with_all = changes.chunks(2).filter(|pair| pair.len() == 2);
        let holds: Vec<_> = with_all.map(|pair| pair[1].0 - pair[0].0).collect();
        assert_eq!(holds[..7], [20, 40, 80, 160, 320, 640, 1000]);
        assert!(holds[7..].iter().all(|&hold| hold == 1000), "{holds:?}");
        // After an idle second, the history is dropped.
        changes_after_peace(&mut load, &mut now);
    }

    fn changes_after_peace(load: &mut ThreadLoad, now: &mut Instant) {
        changes(load, now, Duration::from_secs(3), |_| 0.0);
        let again = changes(load, now, Duration::from_millis(100), |has| if has { 0.2 } else { 0.9 });
        assert_eq!(again[1].0 - again[0].0, 20, "{again:?}");
    }
}
