//! The console: what the guest prints and reads. Also the error output: messages for people, which are not for the
//! program that reads the guest's output.
#![forbid(unsafe_code)]

use crate::devices::devices;
use crate::per_cpu;
use crate::ring::RingMemory;
use crate::sync::{Mutex, MutexGuard, ReentrantMutex};
use crate::time::{self, Duration};
use crate::{event, hypercall};
use core::fmt;
use hv_abi::EventPort;
use hv_abi::device::CONSOLE;
use hv_abi::io::console::INPUT_CLOSED;
use hv_abi::ring::{CLOSED_OFFSET, Front, SharedMemory};
use spin::LazyLock;

/// The front end of the console's ring.
struct Console {
    front: Front<RingMemory, u8, u8>,
    memory: RingMemory,
    port: EventPort,
}

static CONSOLE_RING: LazyLock<Option<Mutex<Console>>> = LazyLock::new(|| {
    let info = devices().find(|device| device.kind == CONSOLE)?;
    let (memory, layout) = RingMemory::new::<u8, u8>(&info.rings[0])?;
    Some(Mutex::new(Console { front: Front::new(memory, &layout), memory, port: info.rings[0].event }))
});

fn console() -> Option<MutexGuard<'static, Console>> {
    CONSOLE_RING.as_ref().map(Mutex::lock)
}

impl Console {
    /// Puts bytes into the ring. Publishes them to the host only when the ring is full.
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // The host's indices are invalid. There is no way to report this, so the text is dropped.
            let Ok(count) = self.front.requests.push(bytes) else { return };
            bytes = &bytes[count..];
            // Waits for a quarter of the ring, instead of waking up for each byte.
            const ENOUGH: u32 = 4096;
            if !bytes.is_empty() {
                self.publish_and_wait(ENOUGH);
            }
        }
    }

    fn publish(&mut self) {
        if self.front.requests.publish() {
            hypercall::event_send(self.port);
        }
    }

    /// Publishes, and waits until there is so much room in the ring, or it is empty. One call does both.
    fn publish_and_wait(&mut self, room: u32) {
        let mut doorbell = self.front.requests.publish().then_some(self.port);
        while let Ok(false) = self.front.requests.wait_for_room(room) {
            event::ring_and_wait_only(doorbell.take(), self.port, None);
        }
        doorbell.into_iter().for_each(hypercall::event_send);
    }

    /// Reads what has arrived; `None` at the end of the input.
    fn read(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let closed = self.memory.load(CLOSED_OFFSET) == INPUT_CLOSED;
        let count = self.front.responses.pop(bytes).ok()?;
        if self.front.responses.release() {
            hypercall::event_send(self.port);
        }
        (count > 0 || !closed || bytes.is_empty()).then_some(count)
    }
}

/// Writes bytes to the console. Waits for the host if the console's reader is slow.
pub fn write(bytes: &[u8]) {
    if let Some(mut console) = console() {
        console.push(bytes);
        console.publish();
    }
}

/// Waits until the host has passed everything that was written on to the console's reader: a terminal, a pipe or a file. It may still be in the
/// host's buffers for that.
pub fn flush() {
    if let Some(mut console) = console() {
        console.publish_and_wait(u32::MAX);
    }
}

/// Reads at least one byte, and waits for it. Returns 0 at the end of the input.
pub fn read(bytes: &mut [u8]) -> usize {
    start_input();
    loop {
        let Some(mut console) = console() else { return 0 };
        let port = console.port;
        // Taken before the ring is checked, so that input that comes after the check is not missed.
        event::take(port);
        match console.read(bytes) {
            None => return 0,
            Some(0) if !bytes.is_empty() => {}
            Some(count) => return count,
        }
        if let Ok(false) = console.front.responses.wait_for_entries() {
            drop(console);
            event::wait_only(port, None);
        }
    }
}

/// Like [`read`], for async code. Only one task at a time can wait for input.
pub async fn read_async(bytes: &mut [u8]) -> usize {
    start_input();
    loop {
        let Some(port) = console().map(|console| console.port) else { return 0 };
        event::take_fired(port);
        if let Some(mut console) = console() {
            match console.read(bytes) {
                None => return 0,
                Some(0) if !bytes.is_empty() => {}
                Some(count) => return count,
            }
            if !matches!(console.front.responses.wait_for_entries(), Ok(false)) {
                continue;
            }
        }
        event::wait_for(port).await;
    }
}

/// Tells the host, once, that this guest reads its console.
fn start_input() {
    static STARTED: spin::Once = spin::Once::new();
    STARTED.call_once(|| {
        if let Some(console) = console() {
            event::unmask(console.port);
            hypercall::event_send(console.port);
        }
    });
}

/// Pushes text without publishing it. The console is not locked while a value formats itself, since its `Display` may print, too.
struct ConsoleWriter;

impl fmt::Write for ConsoleWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(mut console) = console() {
            console.push(text.as_bytes());
        }
        Ok(())
    }
}

/// Held while printing, so that lines of several virtual CPUs are not mixed. A value that formats itself may print, too.
static PRINTING: ReentrantMutex<()> = ReentrantMutex::new(());

#[doc(hidden)]
pub fn print(arguments: fmt::Arguments<'_>) {
    let _printing = PRINTING.lock();
    let _ = fmt::Write::write_fmt(&mut ConsoleWriter, arguments);
    if let Some(mut console) = console() {
        console.publish();
    }
}

/// Writes bytes to the error output, or to the console if the host has none. Waits for the host if the output's reader is
/// slow. Neither allocates nor locks, unless it has to use the console.
pub fn write_error(mut bytes: &[u8]) {
    // There is no event for progress of the reader, so this polls.
    const AGAIN: Duration = Duration::from_millis(1);
    while !bytes.is_empty() {
        match hypercall::error_output(bytes) {
            Ok(0) => time::sleep(AGAIN),
            Ok(count) => bytes = &bytes[count..],
            Err(_) => return write(bytes),
        }
    }
}

/// Collects text on the stack, so that a line is one hypercall.
struct ErrorWriter {
    bytes: [u8; 256],
    len: usize,
}

impl ErrorWriter {
    fn flush(&mut self) {
        write_error(&self.bytes[..core::mem::take(&mut self.len)]);
    }
}

impl fmt::Write for ErrorWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut text = text.as_bytes();
        while !text.is_empty() {
            if self.len == self.bytes.len() {
                self.flush();
            }
            let count = text.len().min(self.bytes.len() - self.len);
            self.bytes[self.len..][..count].copy_from_slice(&text[..count]);
            self.len += count;
            text = &text[count..];
        }
        Ok(())
    }
}

/// The same for the error output. It takes no lock in a guest with one virtual CPU.
static PRINTING_ERRORS: ReentrantMutex<()> = ReentrantMutex::new(());

#[doc(hidden)]
pub fn print_error(arguments: fmt::Arguments<'_>) {
    let _printing = per_cpu::several().then(|| PRINTING_ERRORS.lock());
    let mut writer = ErrorWriter { bytes: [0; 256], len: 0 };
    let _ = fmt::Write::write_fmt(&mut writer, arguments);
    writer.flush();
}

/// Prints to the error output, which `hv run` writes to standard error.
#[macro_export]
macro_rules! eprint {
    ($($argument:tt)*) => { $crate::console::print_error(core::format_args!($($argument)*)) };
}

/// Prints a line to the error output, which `hv run` writes to standard error.
#[macro_export]
macro_rules! eprintln {
    () => { $crate::console::print_error(core::format_args!("\n")) };
    ($($argument:tt)*) => { $crate::console::print_error(core::format_args!("{}\n", core::format_args!($($argument)*))) };
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(core::format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(core::format_args!("\n")) };
    ($($argument:tt)*) => { $crate::console::print(core::format_args!("{}\n", core::format_args!($($argument)*))) };
}

// Makes the macro available as an item of this module, since modules import names from the module that defines them.
pub(crate) use eprintln;
