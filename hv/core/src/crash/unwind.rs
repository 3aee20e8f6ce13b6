//! Walks a guest's stack by the call frame information of its image (`.eh_frame`: psABI for
//! AMD64 and DWARF 5, section 6.4).
//!
//! Image and stack belong to a guest that has just crashed, maybe on purpose. `framehop` would do this, but
//! version 0.16 evaluates the DWARF expressions of an image without a limit (a backward branch never ends)
//! and adds offsets of the image unchecked. So the rules that compilers use for ordinary code are applied
//! here, on `gimli`'s parser, and any other ends the backtrace.

use super::MAX_FRAMES;
use super::budget::{Budget, Incomplete};
use super::dwarf::SectionReader;
use super::elf::ElfSection;
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameHdr, EhFrameOffset, FrameDescriptionEntry,
    LittleEndian, Pointer, Register, RegisterRule, UnwindContext, UnwindSection, UnwindTableRow, X86_64,
};

/// The registers that a backtrace starts from: where the code is, and what functions keep for their callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are called what the processor's manual calls them")]
pub struct UnwindRegs {
    pub rip: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl UnwindRegs {
    fn slot(&mut self, register: Register) -> Option<&mut u64> {
        Some(match register {
            X86_64::RSP => &mut self.rsp,
            X86_64::RBP => &mut self.rbp,
            X86_64::RBX => &mut self.rbx,
            X86_64::R12 => &mut self.r12,
            X86_64::R13 => &mut self.r13,
            X86_64::R14 => &mut self.r14,
            X86_64::R15 => &mut self.r15,
            X86_64::RA => &mut self.rip,
            _ => return None,
        })
    }
}

/// What a function restores besides the stack pointer.
const RESTORED: [Register; 7] =
    [X86_64::RBP, X86_64::RBX, X86_64::R12, X86_64::R13, X86_64::R14, X86_64::R15, X86_64::RA];

/// Longest description of one function's frame, in bytes, and of what it has in common with others.
/// Compilers make some tens.
const MAX_ENTRY: usize = 64 << 10;

/// How an index begins: version 1, then the encodings that linkers use (relative to the place, 4 bytes;
/// 4 bytes; relative to the index, 4 bytes). With others `gimli` multiplies numbers of the image unchecked.
const INDEX_START: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// The call frame information of an image.
pub(super) struct Unwinder<'a> {
    frames: EhFrame<SectionReader<'a>>,
    /// The address of `frames` in the image.
    address: u64,
    index: Option<gimli::ParsedEhFrameHdr<SectionReader<'a>>>,
    bases: BaseAddresses,
    context: UnwindContext<usize>,
}

impl<'a> Unwinder<'a> {
    pub(super) fn new(frames: ElfSection<'a>, index: Option<ElfSection<'a>>) -> Self {
        let mut bases = BaseAddresses::default().set_eh_frame(frames.0);
        if let Some((address, _)) = index {
            bases = bases.set_eh_frame_hdr(address);
        }
        let index = index
            .filter(|(_, bytes)| bytes.starts_with(&INDEX_START))
            .and_then(|(_, bytes)| EhFrameHdr::new(bytes, LittleEndian).parse(&bases, 8).ok());
        let mut eh_frame = EhFrame::new(frames.1, LittleEndian);
        eh_frame.set_address_size(8);
        Unwinder { frames: eh_frame, address: frames.0, index, bases, context: UnwindContext::new() }
    }

    /// From a function's registers to its caller's, and whether that did not call it but was interrupted;
    /// the addresses of code are relative to the image. `None` at the end of the stack, or of what can be known.
    fn step(
        &mut self,
        lookup: u64,
        regs: &UnwindRegs,
        budget: &mut Budget,
        read: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Option<(UnwindRegs, bool)> {
        let (row, interrupted) = self.row(lookup, budget)?;
        let mut caller = *regs;
        let cfa = match *row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                caller.slot(register)?.checked_add_signed(offset)?
            }
            CfaRule::Expression(_) => return None,
        };
        for register in RESTORED {
            let value = match row.register(register) {
                // A register without a rule is kept; a return address without a rule is the end.
                None | Some(RegisterRule::Undefined) if register == X86_64::RA => return None,
                None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => continue,
                Some(RegisterRule::Offset(offset)) => read(cfa.checked_add_signed(offset)?)?,
                Some(RegisterRule::ValOffset(offset)) => cfa.checked_add_signed(offset)?,
                Some(_) => return None,
            };
            *caller.slot(register)? = value;
        }
        caller.rsp = cfa;
        Some((caller, interrupted))
    }

    fn row(&mut self, lookup: u64, budget: &mut Budget) -> Option<(&UnwindTableRow<usize>, bool)> {
        let Unwinder { frames, address, index, bases, context } = self;
        let fde = match index.as_ref().and_then(|index| index.table()) {
            Some(table) => {
                let pointer = table.lookup(lookup, bases).ok()?;
                // An indirect pointer would have to be read from the guest.
                let Pointer::Direct(pointer) = pointer else { return None };
                let offset = EhFrameOffset(pointer.checked_sub(*address)? as usize);
                frames.fde_from_offset(bases, offset, EhFrame::cie_from_offset).ok()?
            }
            None => search(frames, bases, lookup, budget).ok()??,
        };
        let lengths = [fde.entry_len(), fde.cie().entry_len()];
        if lengths.iter().any(|length| *length > MAX_ENTRY) {
            return None;
        }
        budget.bytes(lengths.iter().sum()).ok()?;
        let row = fde.unwind_info_for_address(frames, bases, context, lookup).ok()?;
        Some((row, fde.is_signal_trampoline()))
    }
}

/// The description of the function at an address, where there is no index.
fn search<'a>(
    frames: &EhFrame<SectionReader<'a>>,
    bases: &BaseAddresses,
    lookup: u64,
    budget: &mut Budget,
) -> Result<Option<FrameDescriptionEntry<SectionReader<'a>>>, Incomplete> {
    let mut entries = frames.entries(bases);
    while let Some(entry) = entries.next()? {
        budget.entry()?;
        if let CieOrFde::Fde(partial) = entry {
            let fde = partial.parse(EhFrame::cie_from_offset)?;
            if fde.contains(lookup) {
                return Ok(Some(fde));
            }
        }
    }
    Ok(None)
}

/// The addresses of code on the stack, innermost first: the first is that of
/// an instruction, the others are return addresses.
pub(super) fn walk(
    unwinder: Option<Unwinder<'_>>,
    base: u64,
    size: u64,
    regs: &UnwindRegs,
    budget: &mut Budget,
    read: &mut dyn FnMut(u64) -> Option<u64>,
) -> Vec<u64> {
    let mut found = vec![regs.rip];
    let Some(mut unwinder) = unwinder else { return found };
    let inside = |address: u64| address.checked_sub(base).filter(|offset| *offset < size);
    let mut regs = *regs;
    // Whether RIP is the instruction that would have been next, not one behind a call.
    let mut exact = true;
    while found.len() < MAX_FRAMES {
        let first = found.len() == 1;
        let next = match inside(regs.rip) {
            // A call may be a function's last instruction, so look at the call, not behind it.
            Some(offset) => {
                unwinder.step(if exact { offset } else { offset.saturating_sub(1) }, &regs, budget, read)
            }
            // A call to nowhere, or a leaf that is not the image's own.
            None if first => {
                read(regs.rsp).map(|rip| (UnwindRegs { rip, rsp: regs.rsp.wrapping_add(8), ..regs }, false))
            }
            None => None,
        };
        // Callers' frames are above those of what they call; so this ends.
        match next {
            Some((next, interrupted)) if next.rsp > regs.rsp && next.rip != 0 => {
                (regs, exact) = (next, interrupted);
            }
            _ => break,
        }
        if first && inside(regs.rip).is_none() {
            break;
        }
        found.push(regs.rip);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: u64 = 0x7000_0000;
    const SIZE: u64 = 0x10_0000;
    const FRAMES_AT: u64 = 0x2000;

    /// Call frame information of two functions: at 0x1000, with RBX saved and
    /// 32 bytes of frame, and at 0x1100, the entry point, whose return address is undefined.
    fn frames() -> Vec<u8> {
        let cie = [
            1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, // version, "zR", factors 1 and -8, RA, pc-relative
            0x0c, 7, 8, 0x90, 1, 0, 0, // CFA = RSP + 8, RA at CFA - 8
        ];
        let mut bytes = Vec::new();
        bytes.extend((4 + cie.len() as u32).to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(cie);
        for (start, rules) in [(0x1000u32, &[0x0e, 32, 0x83, 2][..]), (0x1100, &[0x07, 16, 0, 0])] {
            let at = bytes.len() as u32;
            bytes.extend((4 + 4 + 4 + 1 + rules.len() as u32).to_le_bytes());
            bytes.extend((at + 4).to_le_bytes());
            bytes.extend(start.wrapping_sub(FRAMES_AT as u32 + at + 8).to_le_bytes());
            bytes.extend(0x100u32.to_le_bytes());
            bytes.push(0);
            bytes.extend(rules);
        }
        bytes.extend([0; 4]);
        bytes
    }

    fn walked(frames: &[u8], rip: u64, stack: &[u64]) -> Vec<u64> {
        let regs = UnwindRegs { rip, rsp: 0x100, ..Default::default() };
        let mut read = |address: u64| stack.get(address.checked_sub(0x100)? as usize / 8).copied();
        walk(
            Some(Unwinder::new((FRAMES_AT, frames), None)),
            BASE,
            SIZE,
            &regs,
            &mut Budget::default(),
            &mut read,
        )
    }

    #[test]
    fn callers_are_found_up_to_the_entry_point() {
        let stack = [0, 0, 0xb, BASE + 0x1042, 0, 0, 0xb, BASE + 0x1105, 0];
        assert_eq!(walked(&frames(), BASE + 0x1020, &stack), [BASE + 0x1020, BASE + 0x1042, BASE + 0x1105]);
    }

    #[test]
    fn a_call_to_nowhere_is_found_at_its_caller() {
        let stack = [BASE + 0x1042, 0, 0, 0xb, BASE + 0x1105];
        assert_eq!(walked(&frames(), 0, &stack), [0, BASE + 0x1042, BASE + 0x1105]);
        assert_eq!(walked(&frames(), 0, &[5]), [0]);
    }

    #[test]
    fn a_call_as_the_last_instruction_belongs_to_its_function() {
        let stack = [0, 0, 0xb, BASE + 0x1100, 0, 0, 0xb, BASE + 0x1105];
        assert_eq!(walked(&frames(), BASE + 0x1020, &stack), [BASE + 0x1020, BASE + 0x1100, BASE + 0x1105]);
    }

    /// An index of one function, at 0x3000: its entry, and where it says that the function's frames are.
    fn index(start: [u8; 4], entry: i32) -> Vec<u8> {
        let mut bytes = start.to_vec();
        bytes.extend((FRAMES_AT as i32 - 0x3004).to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((0x1000i32 - 0x3000).to_le_bytes());
        bytes.extend((FRAMES_AT as i32 + entry - 0x3000).to_le_bytes());
        bytes
    }

    fn indexed(index: &[u8]) -> usize {
        let frames = frames();
        let regs = UnwindRegs { rip: BASE + 0x1020, rsp: 0x100, ..Default::default() };
        let unwinder = Unwinder::new((FRAMES_AT, &frames), Some((0x3000, index)));
        walk(Some(unwinder), BASE, SIZE, &regs, &mut Budget::default(), &mut |_| Some(BASE + 0x1105)).len()
    }

    #[test]
    fn an_index_is_used_and_not_believed() {
        let first = 4 + u32::from_le_bytes(frames()[..4].try_into().unwrap()) as i32;
        assert!(indexed(&index(INDEX_START, first)) > 1);
        // In front of all frames; behind them.
        for entry in [-1, -0x2000, i32::MAX - 0x2000, i32::MIN + 0x3000 - FRAMES_AT as i32] {
            assert_eq!(indexed(&index(INDEX_START, entry)), 1, "{entry}");
        }
        // 2^62 entries of 8 bytes each.
        let mut huge = index([1, 0x1b, 0x04, 0x3c], 0);
        huge.splice(8..12, (1u64 << 62).to_le_bytes());
        huge.extend([0; 16]);
        assert!(indexed(&huge) > 1, "it is as good as none");
    }

    #[test]
    fn the_walk_is_bounded() {
        let stack = [BASE + 0x1042].repeat(10_000);
        assert_eq!(walked(&frames(), BASE + 0x1020, &stack).len(), MAX_FRAMES);
        assert_eq!(walked(&frames(), BASE + 0x1020, &[]), [BASE + 0x1020]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn hostile_frames_and_stacks_end_the_walk(
            flips in prop::collection::vec((0usize..80, any::<u8>()), 0..6),
            regs in any::<[u64; 3]>(),
            rip in prop_oneof![any::<u64>(), BASE..BASE + SIZE, Just(BASE + 0x1020)],
            word in prop_oneof![any::<u64>(), Just(BASE + 0x1042)],
        ) {
            let mut bytes = frames();
            for (at, byte) in flips {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let regs = UnwindRegs { rip, rsp: regs[0], rbp: regs[1], rbx: regs[2], ..Default::default() };
            for index in [None, Some((FRAMES_AT, &bytes[..]))] {
                let unwinder = Unwinder::new((FRAMES_AT, &bytes), index);
                let found = walk(Some(unwinder), BASE, SIZE, &regs, &mut Budget::default(), &mut |_| Some(word));
                prop_assert!(found.len() <= MAX_FRAMES && found[0] == rip);
            }
        }
    }
}
