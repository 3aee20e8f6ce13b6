//! Memory that connections share.

/// What decides whether a connection may have more memory.
pub trait Memory {
    /// What one connection has of it, given back when it is dropped.
    type Share<'a>: Share
    where
        Self: 'a;

    /// Bytes that are free.
    fn left(&self) -> usize;

    /// A share without any bytes.
    fn share(&self) -> Self::Share<'_>;
}

/// A part of a [`Memory`].
pub trait Share {
    /// Makes the share this large, at least. False if there is not enough left.
    #[must_use]
    fn grow(&mut self, bytes: usize) -> bool;
}

/// As much memory as anyone wants: for programs of an operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlimited;

impl Memory for Unlimited {
    type Share<'a> = Unlimited;

    fn left(&self) -> usize {
        usize::MAX
    }

    fn share(&self) -> Unlimited {
        Unlimited
    }
}

impl Share for Unlimited {
    fn grow(&mut self, _: usize) -> bool {
        true
    }
}
