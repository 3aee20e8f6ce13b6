//! Frames of WebSocket (RFC 6455, section 5).

use super::CloseCode;

/// Most bytes of the head of a frame of a client: two, a length of 64 bits, and the mask.
pub(super) const MAX_HEAD: usize = 14;

/// Most bytes of a frame that is about the WebSocket itself.
pub(super) const MAX_CONTROL: usize = 125;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(number: u8) -> Option<Opcode> {
        Some(match number {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    pub(super) fn is_control(self) -> bool {
        self as u8 >= Opcode::Close as u8
    }
}

/// The head of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) opcode: Opcode,
    pub(super) is_last: bool,
    pub(super) len: u64,
    mask: [u8; 4],
}

/// Bytes of the head that follow the first two.
pub(super) fn rest_of_head(bytes: &[u8; MAX_HEAD]) -> usize {
    let length = match bytes[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    length + if bytes[1] & 0x80 != 0 { 4 } else { 0 }
}

impl Head {
    /// Validates a head, of which all bytes are there.
    pub(super) fn parse(bytes: &[u8; MAX_HEAD]) -> Result<Head, CloseCode> {
        let opcode = Opcode::of(bytes[0] & 0x0f).ok_or(CloseCode::PROTOCOL)?;
        let is_last = bytes[0] & 0x80 != 0;
        let (len, mask) = match bytes[1] & 0x7f {
            126 => (u64::from(u16::from_be_bytes([bytes[2], bytes[3]])), &bytes[4..8]),
            127 => (bytes[2..10].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)), &bytes[10..14]),
            short => (u64::from(short), &bytes[2..6]),
        };
        let is_minimal = match bytes[1] & 0x7f {
            126 => len > 125,
            127 => len > u64::from(u16::MAX),
            _ => true,
        };
        let mut all = [0; 4];
        all.copy_from_slice(mask);
        let has_extensions = bytes[0] & 0x70 != 0;
        let is_masked = bytes[1] & 0x80 != 0;
        let odd_control = opcode.is_control() && (!is_last || len > MAX_CONTROL as u64);
        if has_extensions || !is_masked || odd_control || !is_minimal {
            return Err(CloseCode::PROTOCOL);
        }
        Ok(Head { opcode, is_last, len, mask: all })
    }

    /// Undoes the mask of a payload.
    pub(super) fn unmask(&self, payload: &mut [u8]) {
        for (n, byte) in payload.iter_mut().enumerate() {
            *byte ^= self.mask[n % 4];
        }
    }
}

/// The head of a frame of ours, which is a whole message, and its bytes.
pub(super) fn head(opcode: Opcode, len: usize) -> ([u8; 10], usize) {
    let mut head = [0; 10];
    head[0] = 0x80 | opcode as u8;
    let size = match len {
        0..=125 => {
            head[1] = len as u8;
            2
        }
        126..=0xffff => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    (head, size)
}

/// What to answer a client's close with: its own code, if it is one that may be sent (section 7.4).
pub(super) fn close_code(payload: &[u8]) -> CloseCode {
    match payload {
        [] => CloseCode::NORMAL,
        [a, b, reason @ ..] => match u16::from_be_bytes([*a, *b]) {
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) if core::str::from_utf8(reason).is_ok() => {
                CloseCode(code)
            }
            _ => CloseCode::PROTOCOL,
        },
        [_] => CloseCode::PROTOCOL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Head, CloseCode> {
        let mut all = [0; MAX_HEAD];
        all[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(2 + rest_of_head(&all), bytes.len());
        Head::parse(&all)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // Section 5.7: "Hello", masked.
        let head = parse(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d]).unwrap();
        assert_eq!((head.opcode, head.is_last, head.len), (Opcode::Text, true, 5));
        let mut hello = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        head.unmask(&mut hello);
        assert_eq!(&hello, b"Hello");
        assert_eq!(&super::head(Opcode::Binary, 256).0[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(super::head(Opcode::Binary, 65536).0, [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(super::head(Opcode::Pong, 5), ([0x8a, 5, 0, 0, 0, 0, 0, 0, 0, 0], 2));
    }

    #[test]
    fn frames_that_break_the_rules() {
        for (what, bytes) in [
            ("no mask", &[0x81, 0x05][..]),
            ("an extension", &[0xc1, 0x85, 0, 0, 0, 0]),
            ("an unknown opcode", &[0x83, 0x85, 0, 0, 0, 0]),
            ("a ping in parts", &[0x09, 0x85, 0, 0, 0, 0]),
            ("a long ping", &[0x89, 0xfe, 0, 126, 0, 0, 0, 0]),
            ("a length that could be shorter", &[0x81, 0xfe, 0, 125, 0, 0, 0, 0]),
            ("likewise", &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]),
        ] {
            assert_eq!(parse(bytes), Err(CloseCode::PROTOCOL), "{what}");
        }
    }

    #[test]
    fn a_close_is_answered_with_its_code_if_that_is_one() {
        for (payload, code) in [
            (&[][..], 1000),
            (&[3, 0xe8], 1000),
            (&[0x0b, 0xb8, b'x'], 3000),
            (&[3], 1002),
            (&[3, 0xed], 1002),
            (&[0, 1], 1002),
            (&[3, 0xe8, 0xff], 1002),
        ] {
            assert_eq!(close_code(payload).0, code, "{payload:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<[u8; MAX_HEAD]>(), payload in prop::collection::vec(any::<u8>(), 0..130)) {
            prop_assert!(rest_of_head(&bytes) <= MAX_HEAD - 2);
            let _ = Head::parse(&bytes);
            let _ = close_code(&payload);
        }
    }
}
