//! Hypercalls with any number and arguments, over memory with any access map.

use crate::{Input, Seed};
use hv::event::Hub;
use hv::memory::{Access, GuestMemory};
use hv_abi::hypercall::{ENTROPY_MAX, ERROR_OUTPUT_MAX, Hypercall, PANIC_MESSAGE_MAX};
use hv_abi::{EventPort, GuestAddr, PAGE_SIZE};
use hv_core::fuzzing::{Called, hypercall};
use std::sync::Arc;

const BASE: u64 = 0x20_0000;
const PAGES: u64 = 8;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut memory = GuestMemory::new(GuestAddr(BASE), PAGES * PAGE_SIZE).expect("there is memory");
    let map: [Access; PAGES as usize] = std::array::from_fn(|_| match input.byte() % 5 {
        0 => Access::empty(),
        1 => Access::READ,
        2 => Access::READ | Access::EXECUTE,
        _ => Access::READ | Access::WRITE,
    });
    for (page, &access) in (0..).zip(&map) {
        memory.allow(page * PAGE_SIZE..(page + 1) * PAGE_SIZE, access);
    }
    let memory = Arc::new(memory);
    let hub = Hub::new(memory.clone(), 0);
    while input.more() {
        let number = match input.byte() {
            known @ 0..16 => u32::from(known),
            16..32 => {
                let at = GuestAddr(BASE + u64::from(input.half()));
                let _ = memory.write(at, input.bytes());
                continue;
            }
            32..40 => {
                hub.raise(EventPort(input.word()));
                hub.is_unmasked(EventPort(u32::from(input.half())));
                hub.any_pending(0);
                continue;
            }
            _ => input.word(),
        };
        let arguments = std::array::from_fn(|_| match input.byte() % 4 {
            0 => input.number(),
            // Around the borders of pages.
            1 => {
                BASE + u64::from(input.byte() % (PAGES as u8 + 1)) * PAGE_SIZE + u64::from(input.byte()) - 128
            }
            _ => BASE + u64::from(input.half()),
        });
        let called = hypercall(&memory, number, arguments);
        if let Called::Upcall(handler) = called {
            assert!(memory.check(handler, 1, Access::EXECUTE).is_ok(), "{handler:?}");
        }
        if let Called::Panicked(message) = &called {
            assert!(
                message.chars().count() as u64 <= PANIC_MESSAGE_MAX && !message.contains(char::is_control)
            );
        }
        if number == Hypercall::ErrorOutput as u32 {
            let [address, len, _] = arguments;
            let may = len <= ERROR_OUTPUT_MAX && memory.check(GuestAddr(address), len, Access::READ).is_ok();
            let taken = matches!(&called, Called::ErrorOutput(text) if text.len() as u64 == len);
            assert_eq!(taken, may, "{len} bytes at {address:#x}");
        }
        if number == Hypercall::Entropy as u32
            && let Called::Returned(value) = called
        {
            let [address, len, _] = arguments;
            let may = len <= ENTROPY_MAX && memory.check(GuestAddr(address), len, Access::WRITE).is_ok();
            assert_eq!(value >= 0, may, "{len} bytes at {address:#x}");
        }
    }
    let mut page = [0; PAGE_SIZE as usize];
    for (number, _) in map.iter().enumerate().skip(1).filter(|(_, access)| !access.contains(Access::WRITE)) {
        memory.host_read(number as u64 * PAGE_SIZE, &mut page);
        assert!(page.iter().all(|&byte| byte == 0), "page {number} was written");
    }
}

/// Each call once, with arguments that are fine.
pub fn seeds() -> Vec<Vec<u8>> {
    let map = Seed::default().raw(&[3, 1, 2, 0, 3, 3, 1, 0]);
    let at = |seed: Seed, offset: u16| seed.byte(2).half(offset);
    let argument = |seed: Seed, value: u64| seed.byte(0).number(value);
    let mut all = map.clone();
    for number in 0..16 {
        all = argument(argument(at(all.byte(number), 0x4000), 64), 0);
    }
    let message = map.clone().byte(16).half(0x4100).bytes(b"panicked at src/main.rs:\n\x1b[31moh no");
    let message = argument(argument(at(message.byte(Hypercall::Panic as u8), 0x4100), 36), 0);
    let events = map.byte(32).word(1).half(1).byte(33).word(1023).half(1023).byte(34).word(1024).half(5);
    vec![all.done(), message.done(), events.done()]
}
