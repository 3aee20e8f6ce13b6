//! How a target reads its bytes, and how a seed is written.
//!
//! Everything is read from the front, in a fixed size or behind a length, and bytes that are missing are
//! zero. So a seed can be put together by hand, and what a mutation cuts or inserts
//! in the middle leaves the steps before it as they were.

use arbitrary::Unstructured;

/// Bytes of the fuzzer, as values.
pub struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    /// The values in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Input(Unstructured::new(bytes))
    }

    /// Whether anything is left.
    pub fn more(&self) -> bool {
        !self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Two bytes, little-endian, as all numbers.
    pub fn half(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Four bytes.
    pub fn word(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Eight bytes.
    pub fn long(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// As many bytes as the two in front of them say, or as there are.
    pub fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.half()).min(self.0.len());
        self.0.bytes(len).unwrap_or_default()
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let len = self.0.len();
        self.0.bytes(len).unwrap_or_default()
    }

    /// A number that is small, near the end of a range, or anything.
    pub fn number(&mut self) -> u64 {
        match self.byte() % 4 {
            0 => u64::from(self.byte()),
            1 => u64::from(self.word()),
            2 => 0u64.wrapping_sub(u64::from(self.byte())),
            _ => self.long(),
        }
    }
}

/// An input that is put together by hand, value by value.
#[derive(Clone, Default)]
pub struct Seed(Vec<u8>);

impl Seed {
    /// Appends a value that [`Input::byte`] reads.
    pub fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Appends a value that [`Input::half`] reads.
    pub fn half(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Appends a value that [`Input::word`] reads.
    pub fn word(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Appends a value that [`Input::long`] reads.
    pub fn long(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Appends bytes that [`Input::bytes`] reads.
    pub fn bytes(self, value: &[u8]) -> Self {
        self.half(value.len() as u16).raw(value)
    }

    /// Appends bytes that [`Input::rest`] reads.
    pub fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }

    /// Appends a number that [`Input::number`] reads.
    pub fn number(self, value: u64) -> Self {
        self.byte(3).long(value)
    }

    /// The input.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}
