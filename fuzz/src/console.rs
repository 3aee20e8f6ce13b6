//! The console's back end: a ring of bytes each way, an output that blocks, an input that ends.

use crate::rig::{self, Front, Room};
use crate::{Input, Seed};
use hv::device::console::{Console, ConsoleSource, Input as ConsoleInput, Output};
use hv::reactor::Source;
use hv_abi::ring::Layout;
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const ENTRIES: u32 = 1024;

/// A reader with this much room.
struct Sink(Arc<AtomicUsize>);

impl Output for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.load(Ordering::Relaxed) {
            0 => Err(ErrorKind::WouldBlock.into()),
            usize::MAX => Err(ErrorKind::BrokenPipe.into()),
            room => {
                let count = room.min(bytes.len());
                self.0.store(room - count, Ordering::Relaxed);
                Ok(count)
            }
        }
    }
    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// Bytes that are typed; `None` is the end.
struct Keys(Arc<Mutex<Option<Vec<u8>>>>);

impl ConsoleInput for Keys {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut *self.0.lock().expect("one thread") {
            None => Ok(0),
            Some(typed) if typed.is_empty() => Err(ErrorKind::WouldBlock.into()),
            Some(typed) => {
                let count = typed.len().min(bytes.len());
                bytes[..count].copy_from_slice(&typed[..count]);
                typed.drain(..count);
                Ok(count)
            }
        }
    }
    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let room = Room::new();
    let layout = Layout::new::<u8, u8>(ENTRIES, ENTRIES).expect("a layout");
    let mut front = Front::new(&room, 0, layout, 1, ENTRIES);
    let has_input = input.byte().is_multiple_of(2);
    let fresh = !input.byte().is_multiple_of(4);
    if !fresh {
        rig::step(1, &room, &mut front, &mut input);
        front.spoil(&mut input);
    }
    let space = Arc::new(AtomicUsize::new(1 << 16));
    let keys = Arc::new(Mutex::new(Some(Vec::new())));
    let typed: Option<Box<dyn ConsoleInput>> =
        has_input.then(|| Box::new(Keys(keys.clone())) as Box<dyn ConsoleInput>);
    let console = Console::new(Box::new(Sink(space.clone())), typed);
    if console.connect(front.host_end(fresh)).is_err() {
        return;
    }
    let mut source = ConsoleSource::new(console.clone(), Room::doorbell());
    while input.more() {
        let which = input.byte() % 11;
        if rig::step(which, &room, &mut front, &mut input) {
            continue;
        }
        match which {
            4 => front.push(&room, input.bytes()),
            5 => drop(source.poll(Instant::now())),
            6 => drop(console.ring()),
            7 => space.store(usize::from(input.half()), Ordering::Relaxed),
            8 => match &mut *keys.lock().expect("one thread") {
                Some(typed) if typed.len() < 1 << 16 => typed.extend(input.bytes()),
                _ => {}
            },
            9 => match input.byte() {
                0 => *keys.lock().expect("one thread") = None,
                1 => space.store(usize::MAX, Ordering::Relaxed),
                _ => drop(source.reset()),
            },
            _ => {
                let mut turns = 3;
                console.finish(&mut || false);
                while turns > 0 && source.poll(Instant::now()).is_some() {
                    turns -= 1;
                }
            }
        }
    }
    console.finish(&mut || false);
    room.check();
}

/// A guest that prints and reads.
pub fn seeds() -> Vec<Vec<u8>> {
    let start = Seed::default().byte(0).byte(1);
    let print = start.clone().byte(4).bytes(b"hello\n").byte(5).byte(4).bytes(b"world\n").byte(6);
    let read = start.clone().byte(8).bytes(b"typed\n").byte(5).byte(2).byte(9).byte(0).byte(5);
    let slow = start
        .byte(7)
        .half(3)
        .byte(4)
        .bytes(&[b'x'; 900])
        .byte(5)
        .byte(7)
        .half(4000)
        .byte(10)
        .byte(4)
        .bytes(&[b'y'; 900]);
    let saved = Seed::default()
        .byte(0)
        .byte(0)
        .half(0)
        .bytes(b"")
        .byte(0)
        .byte(1)
        .byte(0)
        .byte(4)
        .bytes(b"on")
        .byte(5);
    vec![print.done(), read.done(), slow.done(), saved.done()]
}
