//! The last of what a guest prints: its payload may be gigabytes, its result comes at the end.

use hv_core::device::console::Output;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

/// Bytes that are kept at least, if there are so many.
const KEPT: usize = 256 << 10;

/// An output that keeps the last [`KEPT`] bytes, and at most twice as many.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// What is kept, as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic while held")).into_owned()
    }
}

impl Output for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().expect("no panic while held");
        if kept.len() + bytes.len() > 2 * KEPT {
            let old = kept.len().saturating_sub(KEPT);
            kept.drain(..old);
        }
        let new = &bytes[bytes.len().saturating_sub(KEPT)..];
        kept.extend_from_slice(new);
        Ok(bytes.len())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = Tail::default();
        for n in 0..400u32 {
            let chunk = vec![b'a' + (n % 26) as u8; 4096];
            assert_eq!(tail.write(&chunk).unwrap(), 4096);
        }
        tail.write(b"the end").unwrap();
        let text = tail.text();
        assert!(text.ends_with("the end"));
        assert!((KEPT..=2 * KEPT).contains(&text.len()), "{}", text.len());
        tail.write(&vec![b'x'; 5 * KEPT]).unwrap();
        assert!(tail.text().len() <= 2 * KEPT && tail.text().ends_with("xxx"));
    }
}
