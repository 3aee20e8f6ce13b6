//! The panic handler: the host gets the message with its location.

use crate::start_info::start_info;
use crate::{hypercall, memory, per_cpu};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

/// No virtual CPU.
const NONE: usize = usize::MAX;

/// Text of a fixed size. It is cut at the end if it does not fit.
struct Text {
    bytes: [u8; 1024],
    len: usize,
}

impl Text {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let mut cut = s.len().min(self.bytes.len() - self.len);
        while !s.is_char_boundary(cut) {
            cut -= 1;
        }
        self.bytes[self.len..][..cut].copy_from_slice(&s.as_bytes()[..cut]);
        self.len += cut;
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    /// The virtual CPU that panicked first.
    static FIRST: AtomicUsize = AtomicUsize::new(NONE);
    let own = per_cpu::current();
    match FIRST.compare_exchange(NONE, own, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {}
        // A panic within a panic, for example from the `Display` of the message.
        Err(first) if first == own => hypercall::panic("panicked while panicking"),
        // The first one's report ends the guest.
        Err(_) => loop {
            hypercall::block(u64::MAX);
        },
    }
    // The heap may not be used: it may have caused the panic.
    let mut text = Text { bytes: [0; 1024], len: 0 };
    let _ = write!(text, "{info}");
    if memory::is_exhaustion(text.as_str()) {
        let info = start_info();
        let (memory, heap) = (info.memory_size >> 10, info.heap_size >> 10);
        let _ = write!(
            text,
            ": the memory of {memory} KiB, {heap} KiB of it for the heap, is used up; `--memory SIZE` gives more"
        );
    }
    hypercall::panic(text.as_str())
}
