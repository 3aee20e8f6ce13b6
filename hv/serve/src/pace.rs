//! Limits of what the HTTP thread does, however often it is asked: all clients share that thread.

use std::sync;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How often something is refused in the long run.
const INTERVAL: Duration = Duration::from_millis(1);
/// So many requests are refused at once after a pause.
const BURST: u32 = 16;
/// The longest delay of a refusal.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// When refusals are answered. A client that asks again as soon as it was refused would keep the thread busy otherwise, since a
/// refusal costs so little.
#[derive(Default)]
pub(super) struct Pace {
    /// When the last one was, or will be, answered.
    last: sync::Mutex<Option<Instant>>,
}

impl Pace {
    /// Returns when the next refusal may be answered.
    pub(super) async fn wait(&self) {
        if let Some(at) = self.next(Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        let mut last = self.last.lock().expect("no panic while held");
        let earliest = now.checked_sub(INTERVAL * BURST);
        let at = match *last {
            Some(last) => earliest.map_or(last, |earliest| last.max(earliest)) + INTERVAL,
            None => earliest.unwrap_or(now),
        };
        if at > now + LONGEST_WAIT {
            return Some(now + LONGEST_WAIT);
        }
        *last = Some(at);
        (at > now).then_some(at)
    }
}

/// After the text was made, it is not made again for so many times as long.
const REST: u32 = 19;
/// But no longer than this.
const LONGEST: Duration = Duration::from_millis(100);

/// A text that takes a while to make: it is made a twentieth of the time at most. Callers that wait meanwhile
/// get the same text, if they came before its making began.
#[derive(Default)]
pub(super) struct PacedText {
    last: Mutex<Option<CachedText>>,
}

struct CachedText {
    text: Vec<u8>,
    begin: Instant,
    /// When the next may be made.
    next: Instant,
}

impl PacedText {
    /// The text as it is now or was since the call.
    pub(super) async fn get(&self, make: impl AsyncFnOnce() -> Vec<u8>) -> Vec<u8> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(made) = &*last {
            if made.begin >= asked {
                return made.text.clone();
            }
            tokio::time::sleep_until(made.next).await;
        }
        let begin = Instant::now();
        let text = make().await;
        let end = Instant::now();
        let rest = ((end - begin) * REST).min(LONGEST);
        *last = Some(CachedText { text: text.clone(), begin, next: end + rest });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn refusals_are_answered_at_once_until_there_are_many() {
        let (pace, now) = (Pace::default(), Instant::now() + Duration::from_secs(1));
        let waits: Vec<_> = (0..1000).map(|_| pace.next(now).map_or(Duration::ZERO, |at| at - now)).collect();
        assert!(waits[..BURST as usize].iter().all(Duration::is_zero), "{waits:?}");
        assert!(waits.windows(2).all(|pair| pair[1] <= pair[0] + INTERVAL), "{waits:?}");
        assert_eq!(waits[999], LONGEST_WAIT);
        let later = now + Duration::from_secs(1);
        assert_eq!(pace.next(later), None, "after a pause");
    }

    #[test]
    fn many_share_one_text_and_making_it_leaves_time_to_others() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (paced, count) = (PacedText::default(), Cell::new(0u8));
            let make = async || {
                std::thread::sleep(Duration::from_millis(2));
                count.set(count.get() + 1);
                vec![count.get()]
            };
            assert_eq!(paced.get(make).await, [1]);
            let begin = Instant::now();
            let (one, two, three) = tokio::join!(paced.get(make), paced.get(make), paced.get(make));
            assert_eq!([one, two, three], [[2], [2], [2]]);
            assert!(begin.elapsed() >= Duration::from_millis(2) * REST, "{:?}", begin.elapsed());
        });
    }
}
