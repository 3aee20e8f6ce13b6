//! Gives memory back to the host that many connections have taken, when they are over.
#![forbid(unsafe_code)]

use super::admin::{Change, ChangeQueue};
use hv_host::heap;

/// Fewer connections are not worth it.
const MANY: usize = 256;

/// Notes how many connections there are.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    /// The most since memory was given back.
    most: usize,
}

impl Tidy {
    /// Whether memory is to be given back, with so many connections now: at least half of the most are over.
    fn is_due(&mut self, now: usize) -> bool {
        self.most = self.most.max(now);
        let is_due = self.most - now >= MANY.max(self.most / 2);
        if is_due {
            self.most = now;
        }
        is_due
    }

    /// Has it given back if it is time, by a thread that nobody waits for.
    pub(super) fn look(&mut self, connections: usize, changes: &ChangeQueue) {
        if self.is_due(connections) {
            // Without a receiver the server is at its end.
            let _ = changes.send(Change::Api(Box::new(|_| heap::trim())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_when_half_of_many_are_over() {
        let mut tidy = Tidy::default();
        let due = |tidy: &mut Tidy, counts: &[usize]| -> Vec<bool> {
            counts.iter().map(|now| tidy.is_due(*now)).collect()
        };
        assert_eq!(
            due(&mut tidy, &[0, 100, 0, 300, 50, 40, 0]),
            [false, false, false, false, false, true, false]
        );
        assert_eq!(
            due(&mut tidy, &[10_000, 6000, 5000, 4900, 2600, 2500]),
            [false, false, true, false, false, true]
        );
    }
}
