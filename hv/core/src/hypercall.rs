//! Hypercalls: decoding, and one action for each call.
//!
//! Numbers and arguments come from the guest, so each is validated here. Whatever a guest passes, the only possible
//! failures are an errno or the end of that guest.

use crate::memory::{Access, GuestMemory};
use hv_abi::hypercall::{ENTROPY_MAX, ERROR_OUTPUT_MAX, Hypercall, PANIC_MESSAGE_MAX};
use hv_abi::{Errno, EventPort, GuestAddr};
use hv_host::clock;

/// What a call asks the run loop to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Continue with this value in RAX.
    Return(i64),
    /// Wait for an event or for this guest time.
    Block(u64),
    /// Ring the doorbell of this port, and then wait likewise.
    SendAndBlock(EventPort, u64),
    /// Let other guests run, then return 0.
    Yield,
    /// End with this exit code.
    Exit(u8),
    /// End as crashed, for this reason.
    Panic(String),
    /// Note that the guest has started, and return 0.
    Ready,
    /// Redirect the guest to this address when events come, or no longer redirect it; return 0.
    SetUpcall(Option<GuestAddr>),
    /// Start this virtual CPU at this address, with this stack pointer, and return the result.
    StartVcpu { vcpu: u64, entry: GuestAddr, stack: GuestAddr },
    /// Stop the virtual CPU that calls.
    StopVcpu,
    /// Look into the free map from now on, and return 0.
    WatchFreeMap,
    /// Write this to the error output, and return how many bytes were taken.
    ErrorOutput(Vec<u8>),
}

/// Carries out a hypercall of a guest with this memory.
pub(crate) fn dispatch(memory: &GuestMemory, number: u32, arguments: [u64; 3]) -> Action {
    let [first, second, third] = arguments;
    match Hypercall::from_number(number) {
        Some(Hypercall::Nop) => Action::Return(0),
        Some(Hypercall::Exit) => Action::Exit(first as u8),
        Some(Hypercall::Panic) => Action::Panic(message(memory, GuestAddr(first), second)),
        Some(Hypercall::Block) => Action::Block(first),
        // There are fewer ports than that. One that there is not is ignored.
        Some(Hypercall::SendAndBlock) => {
            Action::SendAndBlock(EventPort(u32::try_from(first).unwrap_or(u32::MAX)), second)
        }
        Some(Hypercall::Yield) => Action::Yield,
        Some(Hypercall::WallClock) => Action::Return(clock::wall_clock() as i64),
        Some(Hypercall::Entropy) => Action::Return(status(entropy(memory, GuestAddr(first), second))),
        Some(Hypercall::Ready) => Action::Ready,
        Some(Hypercall::SetUpcall) => set_upcall(memory, GuestAddr(first)),
        Some(Hypercall::ErrorOutput) => error_output(memory, GuestAddr(first), second),
        Some(Hypercall::VcpuStart) => start_vcpu(memory, first, GuestAddr(second), GuestAddr(third)),
        Some(Hypercall::VcpuStop) => Action::StopVcpu,
        Some(Hypercall::FreePages) => Action::WatchFreeMap,
        // Doorbells are handled by the platform. One that arrives here was made as an ordinary call by the guest.
        Some(Hypercall::EventSend) | Some(_) | None => Action::Return(i64::from(Errno::NoSys.to_status())),
    }
}

fn status(result: Result<u64, Errno>) -> i64 {
    result.map_or_else(|errno| i64::from(errno.to_status()), |value| value as i64)
}

fn set_upcall(memory: &GuestMemory, handler: GuestAddr) -> Action {
    match memory.check(handler, 1, Access::EXECUTE) {
        _ if handler == GuestAddr(0) => Action::SetUpcall(None),
        Ok(_) => Action::SetUpcall(Some(handler)),
        Err(errno) => Action::Return(i64::from(errno.to_status())),
    }
}

fn start_vcpu(memory: &GuestMemory, vcpu: u64, entry: GuestAddr, stack: GuestAddr) -> Action {
    /// Bytes that the first `call` instruction pushes.
    const RETURN_ADDRESS: u64 = 8;
    if !stack.0.is_multiple_of(16) {
        return Action::Return(status(Err(Errno::Invalid)));
    }
    let pushed = GuestAddr(stack.0.wrapping_sub(RETURN_ADDRESS));
    let reachable = memory
        .check(entry, 1, Access::EXECUTE)
        .and_then(|_| memory.check(pushed, RETURN_ADDRESS, Access::WRITE));
    match reachable {
        Ok(_) => Action::StartVcpu { vcpu, entry, stack },
        Err(errno) => Action::Return(status(Err(errno))),
    }
}

fn error_output(memory: &GuestMemory, address: GuestAddr, len: u64) -> Action {
    if len > ERROR_OUTPUT_MAX {
        return Action::Return(status(Err(Errno::Invalid)));
    }
    let mut bytes = vec![0; len as usize];
    match memory.read(address, &mut bytes) {
        Ok(()) => Action::ErrorOutput(bytes),
        Err(errno) => Action::Return(status(Err(errno))),
    }
}

fn message(memory: &GuestMemory, address: GuestAddr, len: u64) -> String {
    let mut bytes = vec![0; len.min(PANIC_MESSAGE_MAX) as usize];
    match memory.read(address, &mut bytes) {
        Ok(()) => one_line(&String::from_utf8_lossy(&bytes)),
        Err(_) => "(the message is not in the guest's memory)".into(),
    }
}

/// A guest's text, made safe for a terminal and a log: line breaks become spaces, other control characters become the
/// replacement character.
fn one_line(text: &str) -> String {
    text.trim()
        .chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

fn entropy(memory: &GuestMemory, address: GuestAddr, len: u64) -> Result<u64, Errno> {
    if len > ENTROPY_MAX {
        return Err(Errno::Invalid);
    }
    memory.check(address, len, Access::WRITE)?;
    let mut bytes = [0; ENTROPY_MAX as usize];
    let bytes = &mut bytes[..len as usize];
    random(bytes).map_err(|_| Errno::Io)?;
    memory.write(address, bytes)?;
    Ok(len)
}

/// Fills `bytes` from the random generator of the host's kernel.
///
/// # Errors
///
/// If the host's kernel refuses, as kernels before Linux 3.17 do.
pub fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_abi::PAGE_SIZE;

    const BASE: u64 = 0x20_0000;

    fn memory() -> GuestMemory {
        let mut memory = GuestMemory::new(GuestAddr(BASE), 4 * PAGE_SIZE).unwrap();
        memory.allow(PAGE_SIZE..2 * PAGE_SIZE, Access::READ);
        memory.allow(2 * PAGE_SIZE..3 * PAGE_SIZE, Access::READ | Access::WRITE);
        memory
    }

    fn errno(action: &Action) -> Option<Errno> {
        match action {
            Action::Return(value) => Errno::check(i32::try_from(*value).ok()?).err(),
            _ => None,
        }
    }

    #[test]
    fn unknown_numbers_are_refused() {
        let memory = memory();
        for number in [Hypercall::ALL.len() as u32, 127, 1 << 16, u32::MAX] {
            assert_eq!(errno(&dispatch(&memory, number, [0; 3])), Some(Errno::NoSys));
        }
    }

    #[test]
    fn entropy_is_written_only_where_the_guest_may_write() {
        let memory = memory();
        let at = |address, len| dispatch(&memory, Hypercall::Entropy as u32, [address, len, 0]);
        assert_eq!(at(BASE + 2 * PAGE_SIZE, 64), Action::Return(64));
        let mut bytes = [0; 64];
        memory.read(GuestAddr(BASE + 2 * PAGE_SIZE), &mut bytes).unwrap();
        assert_ne!(bytes, [0; 64]);
        assert_eq!(errno(&at(BASE + PAGE_SIZE, 1)), Some(Errno::Fault), "read-only");
        assert_eq!(errno(&at(BASE + 3 * PAGE_SIZE - 1, 2)), Some(Errno::Fault), "beyond");
        assert_eq!(errno(&at(0, 8)), Some(Errno::Fault));
        assert_eq!(errno(&at(u64::MAX, 8)), Some(Errno::Fault));
        assert_eq!(errno(&at(BASE + 2 * PAGE_SIZE, 257)), Some(Errno::Invalid));
        assert_eq!(errno(&at(BASE + 2 * PAGE_SIZE, u64::MAX)), Some(Errno::Invalid));
    }

    #[test]
    fn a_port_beyond_all_numbers_is_one_that_there_is_not() {
        let memory = memory();
        let of = |port| dispatch(&memory, Hypercall::SendAndBlock as u32, [port, 7, u64::MAX]);
        assert_eq!(of(3), Action::SendAndBlock(EventPort(3), 7));
        for port in [u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::from(u32::MAX) + 4, u64::MAX] {
            assert_eq!(of(port), Action::SendAndBlock(EventPort(u32::MAX), 7), "{port}");
        }
    }

    #[test]
    fn a_handler_is_code_of_the_guest() {
        let mut memory = GuestMemory::new(GuestAddr(BASE), 4 * PAGE_SIZE).unwrap();
        memory.allow(PAGE_SIZE..2 * PAGE_SIZE, Access::READ | Access::EXECUTE);
        memory.allow(2 * PAGE_SIZE..3 * PAGE_SIZE, Access::READ | Access::WRITE);
        let at = |address| dispatch(&memory, Hypercall::SetUpcall as u32, [address, 0, 0]);
        let code = BASE + 2 * PAGE_SIZE - 1;
        assert_eq!(at(code), Action::SetUpcall(Some(GuestAddr(code))));
        assert_eq!(at(0), Action::SetUpcall(None));
        for address in [8, BASE, code + 1, BASE + 3 * PAGE_SIZE, 1 << 63, u64::MAX] {
            assert_eq!(errno(&at(address)), Some(Errno::Fault), "{address:#x}");
        }
    }

    #[test]
    fn a_virtual_cpu_begins_in_code_with_a_stack() {
        let mut memory = GuestMemory::new(GuestAddr(BASE), 4 * PAGE_SIZE).unwrap();
        memory.allow(PAGE_SIZE..2 * PAGE_SIZE, Access::READ | Access::EXECUTE);
        memory.allow(2 * PAGE_SIZE..3 * PAGE_SIZE, Access::READ | Access::WRITE);
        let at = |entry, stack| dispatch(&memory, Hypercall::VcpuStart as u32, [7, entry, stack]);
        let (code, top) = (BASE + PAGE_SIZE, BASE + 3 * PAGE_SIZE);
        let (entry, stack) = (GuestAddr(code), GuestAddr(top));
        assert_eq!(at(code, top), Action::StartVcpu { vcpu: 7, entry, stack });
        for stack in [top - 8, top + 1, u64::MAX] {
            assert_eq!(errno(&at(code, stack)), Some(Errno::Invalid), "{stack:#x}");
        }
        for stack in [0, code + 16, top - PAGE_SIZE, top + 16, u64::MAX - 15] {
            assert_eq!(errno(&at(code, stack)), Some(Errno::Fault), "{stack:#x}");
        }
        for entry in [0, top - 1, code - 1, u64::MAX] {
            assert_eq!(errno(&at(entry, top)), Some(Errno::Fault), "{entry:#x}");
        }
    }

    #[test]
    fn error_output_is_bounded_and_never_read_from_elsewhere() {
        let memory = memory();
        let at = |address, len| dispatch(&memory, Hypercall::ErrorOutput as u32, [address, len, 0]);
        memory.write(GuestAddr(BASE + 2 * PAGE_SIZE), b"oh no").unwrap();
        assert_eq!(at(BASE + 2 * PAGE_SIZE, 5), Action::ErrorOutput(b"oh no".into()));
        assert_eq!(at(BASE + 2 * PAGE_SIZE, 0), Action::ErrorOutput(Vec::new()));
        assert_eq!(at(BASE + PAGE_SIZE, 4096), Action::ErrorOutput(vec![0; 4096]));
        for len in [4097, u64::MAX] {
            assert_eq!(errno(&at(BASE + PAGE_SIZE, len)), Some(Errno::Invalid));
        }
        for address in [0, BASE, BASE + 3 * PAGE_SIZE - 1, u64::MAX] {
            assert_eq!(errno(&at(address, 2)), Some(Errno::Fault), "{address:#x}");
        }
    }

    #[test]
    fn a_panic_message_is_cut_and_never_read_from_elsewhere() {
        let memory = memory();
        let at = |address, len| dispatch(&memory, Hypercall::Panic as u32, [address, len, 0]);
        memory.write(GuestAddr(BASE + 2 * PAGE_SIZE), b"oh no").unwrap();
        assert_eq!(at(BASE + 2 * PAGE_SIZE, 5), Action::Panic("oh no".into()));
        assert!(matches!(at(BASE + 2 * PAGE_SIZE, u64::MAX), Action::Panic(m) if m.chars().count() == 4096));
        memory.write(GuestAddr(BASE + 2 * PAGE_SIZE), b"a\n\x1b[2J").unwrap();
        assert_eq!(at(BASE + 2 * PAGE_SIZE, 6), Action::Panic("a \u{fffd}[2J".into()));
        assert!(matches!(at(7, 5), Action::Panic(m) if m.starts_with("(the message")));
    }
}
