//! The crash report of a guest: the reason, the registers and the backtrace.
//!
//! Pure: the platform brings registers and memory, the caller prints.
#![forbid(unsafe_code)]

mod budget;
mod dwarf;
mod elf;
mod names;
mod symbols;
mod unwind;

pub use budget::Budget;
pub use symbols::{Backtrace, SymbolCache, Symbols};
pub use unwind::UnwindRegs;

use serde::Serialize;
use std::fmt;

/// Most frames of a backtrace, inlined ones included.
pub const MAX_FRAMES: usize = 64;

/// The registers of the vCPU at the crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "they are called what the processor's manual calls them")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    /// The address of a page fault.
    pub cr2: u64,
    /// What the exception pushed; 0 where it pushes nothing.
    pub error_code: u64,
}

impl Registers {
    /// What a backtrace starts from.
    pub fn unwind(&self) -> UnwindRegs {
        let Registers { rip, rsp, rbp, rbx, r12, r13, r14, r15, .. } = *self;
        UnwindRegs { rip, rsp, rbp, rbx, r12, r13, r14, r15 }
    }

    fn named(&self) -> [(&'static str, u64); 20] {
        [
            ("rax", self.rax),
            ("rbx", self.rbx),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("rbp", self.rbp),
            ("rsp", self.rsp),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
            ("rip", self.rip),
            ("flg", self.rflags),
            ("cr2", self.cr2),
            ("err", self.error_code),
        ]
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.named().into_iter().enumerate() {
            let (before, after) = match index % 4 {
                0 => ("  ", ""),
                3 => ("  ", "\n"),
                _ => ("  ", ""),
            };
            write!(f, "{before}{name:>3} {value:016x}{after}")?;
        }
        Ok(())
    }
}

/// A function that was running, innermost first in a backtrace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// The guest address: of the instruction in the innermost frame, and of
    /// the instruction to return to in all others.
    pub address: u64,
    /// The address from the image's base, where it is inside the image.
    pub offset: Option<u64>,
    /// The function's name, demangled.
    pub function: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line in the file.
    pub line: Option<u32>,
    /// Whether the function is part of the next frame's code.
    pub inlined: bool,
}

impl Frame {
    /// One of which nothing is known but where it is.
    pub(crate) fn bare(address: u64, offset: Option<u64>) -> Self {
        Frame { address, offset, function: None, file: None, line: None, inlined: false }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.function.as_deref().unwrap_or("?"))?;
        if let Some(file) = &self.file {
            write!(f, "  at {file}")?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
        }
        match (self.inlined, self.offset) {
            (true, _) => f.write_str(" (inlined)"),
            (false, Some(offset)) => write!(f, " (+{offset:#x})"),
            (false, None) => write!(f, " ({:#x}, outside the image)", self.address),
        }
    }
}

/// The report of a crash; its text has several lines and ends in a line break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrashReport {
    /// Name of the guest's image.
    pub guest: String,
    /// What happened, in one line.
    pub reason: String,
    /// The registers, if they are still valid: a triple fault may have reset them.
    pub registers: Option<Registers>,
    /// Innermost first, at most [`MAX_FRAMES`].
    pub backtrace: Vec<Frame>,
    /// Why names are missing from the backtrace that might be there, if so.
    pub missing: Option<&'static str>,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "guest {} crashed: {}", self.guest, self.reason)?;
        if let Some(registers) = &self.registers {
            write!(f, "{registers}")?;
        }
        for (index, frame) in self.backtrace.iter().enumerate() {
            writeln!(f, "{index:>3}: {frame}")?;
        }
        if let Some(missing) = self.missing {
            writeln!(f, "  names are missing: {missing}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(offset: Option<u64>, inlined: bool) -> Frame {
        Frame {
            address: 0x7000_1234,
            offset,
            function: Some("hello::main".into()),
            file: Some("src/main.rs".into()),
            line: Some(7),
            inlined,
        }
    }

    #[test]
    fn the_report_is_compact() {
        let registers = Registers { rip: 0x7000_1234, rflags: 0x10202, error_code: 6, ..Default::default() };
        let bare = Frame { function: None, file: None, line: None, ..frame(None, false) };
        let report = CrashReport {
            guest: "hello".into(),
            reason: "page fault: write to 0x0".into(),
            registers: Some(registers),
            backtrace: vec![frame(Some(0x1234), true), frame(Some(0x1234), false), bare],
            missing: Some("that is how it is"),
        };
        let text = report.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "guest hello crashed: page fault: write to 0x0");
        assert_eq!(
            lines[5],
            "  rip 0000000070001234  flg 0000000000010202  cr2 0000000000000000  err 0000000000000006"
        );
        assert_eq!(lines[6], "  0: hello::main  at src/main.rs:7 (inlined)");
        assert_eq!(lines[7], "  1: hello::main  at src/main.rs:7 (+0x1234)");
        assert_eq!(lines[8], "  2: ? (0x70001234, outside the image)");
        assert_eq!(lines[9], "  names are missing: that is how it is");
        assert_eq!(lines.len(), 10);
    }

    #[test]
    fn the_report_is_data_too() {
        let report = CrashReport {
            guest: "hello".into(),
            reason: "triple fault".into(),
            registers: None,
            backtrace: vec![frame(Some(16), false)],
            missing: None,
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["backtrace"][0]["line"], 7);
        assert_eq!(json["registers"], serde_json::Value::Null);
    }
}
