//! The header of the PROXY protocol, with which proxies begin connections.

use hv_serve::door::proxy_header;

/// Longest header that is taken.
const MAX: usize = 16 + 4096;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    match proxy_header(bytes) {
        Ok(Some(len)) => {
            assert!(len <= bytes.len() && len <= MAX);
            // What is behind it changes nothing, and no part of it is one, nor wrong.
            assert_eq!(proxy_header(&bytes[..len]), Ok(Some(len)));
            for part in [0, len / 2, len - 1] {
                assert_eq!(proxy_header(&bytes[..part]), Ok(None));
            }
        }
        Ok(None) => assert!(bytes.len() < MAX),
        Err(error) => assert!(!error.is_empty() && !error.contains(char::is_control)),
    }
}

/// Headers of both versions, and what is near them.
pub fn seeds() -> Vec<Vec<u8>> {
    let binary = |command: u8, family: u8, rest: &[u8]| {
        let len = (rest.len() as u16).to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &len, rest].concat()
    };
    vec![
        b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\nGET / HTTP/1.1\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n".to_vec(),
        b"PROXY UNKNOWN ff:: a b\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 056324 443 1\r\n".to_vec(),
        binary(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0xdc, 4, 1, 187]),
        binary(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0xdc, 4, 1, 187, 4, 0, 1, 0]),
        binary(0x21, 0x21, &[7; 36]),
        binary(0x20, 0x00, b""),
        binary(0x21, 0x12, &[0; 12]),
        binary(0x21, 0x31, &[0; 216]),
        binary(0x31, 0x11, &[0; 3]),
    ]
}
