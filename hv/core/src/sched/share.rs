//! The share of the processor that a task gets.

/// Weight of a task without a given one.
pub const DEFAULT_WEIGHT: u32 = 256;

/// The largest cap, in percent of one core: that of all 64 virtual CPUs.
pub const MAX_CAP: u32 = 6400;

/// What a task gets when others want to run as well, and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    weight: u16,
    cap: u16,
}

/// An invalid share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// The weight is 0 or too large.
    #[error("a weight of {0} is not possible: use 1 to 65535 (a guest without one has 256)")]
    Weight(u32),
    /// The cap is more than any guest can use.
    #[error("a cap of {0} % is not possible: use 1 to {MAX_CAP}, in percent of one core, or 0 for none")]
    Cap(u32),
}

impl Share {
    /// A weight within 1 to 65535, relative to those of others, and a cap
    /// within 1 to [`MAX_CAP`] percent of one core, or 0 for none.
    ///
    /// # Errors
    ///
    /// If the weight or the cap is out of range.
    pub fn new(weight: u32, cap: u32) -> Result<Self, ShareError> {
        Ok(Share {
            weight: u16::try_from(weight)
                .ok()
                .filter(|&weight| weight != 0)
                .ok_or(ShareError::Weight(weight))?,
            cap: u16::try_from(cap).ok().filter(|_| cap <= MAX_CAP).ok_or(ShareError::Cap(cap))?,
        })
    }

    /// Its weight.
    pub fn weight(self) -> u32 {
        self.weight.into()
    }

    /// Its cap, in percent of one core.
    pub fn cap(self) -> Option<u32> {
        (self.cap > 0).then_some(self.cap.into())
    }
}

impl Default for Share {
    fn default() -> Self {
        Share { weight: DEFAULT_WEIGHT as u16, cap: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(Share::new(256, 0), Ok(Share::default()));
        let share = Share::new(65_535, 99).unwrap();
        assert_eq!((share.weight(), share.cap()), (65_535, Some(99)));
        assert_eq!(Share::new(1, MAX_CAP).unwrap().cap(), Some(MAX_CAP));
        for weight in [0, 65_536, u32::MAX] {
            assert_eq!(Share::new(weight, 0), Err(ShareError::Weight(weight)));
        }
        for cap in [6401, 65_536, 65_537, u32::MAX] {
            assert_eq!(Share::new(256, cap), Err(ShareError::Cap(cap)));
        }
    }
}
