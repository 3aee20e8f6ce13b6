//! ⚠ Values that are made once.
#![allow(unsafe_code, reason = "a value that is there once a flag says so")]

use super::Mutex;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

/// A value that is made at most once, by the virtual CPU that needs it first. The others poll for a short time and then
/// block until it is there.
pub struct OnceLock<T> {
    /// Whether the value is there. Never reset.
    ready: AtomicBool,
    /// Held by the virtual CPU that makes it.
    making: Mutex<()>,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written once, by the holder of the lock before it sets the flag, and after that only shared. The
// virtual CPU that drops it can be another one than the one that made it.
unsafe impl<T: Send + Sync> Sync for OnceLock<T> {}

impl<T> OnceLock<T> {
    /// One without a value.
    pub const fn new() -> Self {
        OnceLock {
            ready: AtomicBool::new(false),
            making: Mutex::new(()),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// The value, if it is there.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: the flag was set after the value was written, which is not written again while it is shared.
        self.ready.load(Ordering::Acquire).then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// The value, which is made by `make` if it is not there. `make` must not need the value itself: that would wait forever.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        self.make(make);
        self.get().expect("it was made")
    }

    /// Sets the value.
    ///
    /// # Errors
    ///
    /// The given value, if there is one already.
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut given = Some(value);
        self.make(|| given.take().expect("called once"));
        given.map_or(Ok(()), Err)
    }

    #[cold]
    fn make(&self, make: impl FnOnce() -> T) {
        let _making = self.making.lock();
        if !self.ready.load(Ordering::Relaxed) {
            let value = make();
            // SAFETY: the flag is not set, so nobody has a reference to the value; the lock keeps others from writing.
            unsafe { (*self.value.get()).write(value) };
            self.ready.store(true, Ordering::Release);
        }
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        OnceLock::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceLock").field(&self.get()).finish()
    }
}

impl<T> Drop for OnceLock<T> {
    fn drop(&mut self) {
        if *self.ready.get_mut() {
            // SAFETY: the flag says that the value is there; nobody else has it.
            unsafe { self.value.get_mut().assume_init_drop() };
        }
    }
}
