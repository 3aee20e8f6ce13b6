//! The hypercall page: one stub per call, `STUB_SIZE` apart.
//!
//! ```text
//! every call but event_send            event_send
//!  0  mov $number, %eax                 0  mov %edi, %eax
//!  5  out %eax, $port                   2  out %eax, $port
//!  7  mov result(%rip), %rax            4  ret
//! 14  ret
//! ```
//!
//! Each virtual CPU has a word before its page for results. A stub loads the result from there into RAX. If the host
//! wrote the register itself, KVM would look for pending events at the next entry, which costs more than the rest of the
//! call on hv's side. Numbers without a call have a stub too, so that a newer guest gets an error from them.

use super::{DOORBELL_PORT, HYPERCALL_PORT};
use hv_abi::PAGE_SIZE;
use hv_abi::hypercall::{Hypercall, STUB_SIZE};

/// The content of a page whose result word is so many bytes before it.
pub(super) fn page(result: u64) -> [u8; PAGE_SIZE as usize] {
    let mut page = [0xcc; PAGE_SIZE as usize];
    for (number, stub) in page.chunks_exact_mut(STUB_SIZE as usize).enumerate() {
        let n = (number as u32).to_le_bytes();
        if number as u32 == Hypercall::EventSend as u32 {
            stub[..5].copy_from_slice(&[0x89, 0xf8, 0xe7, DOORBELL_PORT, 0xc3]);
            continue;
        }
        stub[..7].copy_from_slice(&[0xb8, n[0], n[1], n[2], n[3], 0xe7, HYPERCALL_PORT]);
        stub[7..10].copy_from_slice(&[0x48, 0x8b, 0x05]);
        let next = (number as u64 * STUB_SIZE + 14) as i32;
        stub[10..14].copy_from_slice(&(-(result as i32) - next).to_le_bytes());
        stub[14] = 0xc3;
    }
    page
}

/// How far a guest that executes in the page is with its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The call is not made yet. Its stub starts at this offset of the page.
    NotMade(u64),
    /// The call is made, but its result is not loaded yet.
    Made,
    /// Only the return to the caller remains.
    Returning,
}

/// How far a guest is whose instruction pointer is at this offset of the page.
pub(super) fn progress(offset: u64) -> Progress {
    let (number, at) = (offset / STUB_SIZE, offset % STUB_SIZE);
    let doorbell = number == u64::from(Hypercall::EventSend as u32);
    match at {
        0..=2 if doorbell => Progress::NotMade(number * STUB_SIZE),
        _ if doorbell => Progress::Returning,
        0..=5 => Progress::NotMade(number * STUB_SIZE),
        6..=13 => Progress::Made,
        _ => Progress::Returning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_in_a_stub_is_before_or_behind_its_call() {
        let block = Hypercall::Block.stub_offset();
        assert_eq!(progress(block), Progress::NotMade(block));
        assert_eq!(progress(block + 5), Progress::NotMade(block));
        assert_eq!(progress(block + 7), Progress::Made);
        assert_eq!(progress(block + 14), Progress::Returning);
        let send = Hypercall::EventSend.stub_offset();
        assert_eq!(progress(send + 2), Progress::NotMade(send));
        assert_eq!(progress(send + 4), Progress::Returning);
    }

    #[test]
    fn results_are_loaded_from_a_word_before_the_page() {
        for result in [8, 4096 + 16] {
            let page = page(result);
            for number in (0..128u64).filter(|&n| n != u64::from(Hypercall::EventSend as u32)) {
                let at = (number * STUB_SIZE) as usize;
                let displacement = i32::from_le_bytes(page[at + 10..at + 14].try_into().unwrap());
                assert_eq!(at as i64 + 14 + i64::from(displacement), -(result as i64));
            }
        }
    }
}
