//! DNS messages, as far as a forwarder has to understand them (RFC 1035, 4). Pure.

use std::net::Ipv4Addr;

/// Bytes of a DNS header.
pub(super) const HEADER: usize = 12;
/// The largest answer over UDP to those who name no size (RFC 1035, 4.2.1).
const PLAIN_UDP: usize = 512;
/// Longest name, in bytes as messages have it (RFC 1035, 3.1).
const MAX_NAME: usize = 255;

/// Response codes.
pub(super) const SERVFAIL: u8 = 2;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

/// Kinds of record.
const A: u16 = 1;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const IN: u16 = 1;

/// The only question of a query.
#[derive(Debug, PartialEq)]
pub(super) struct Question<'a> {
    /// The section's bytes.
    pub(super) bytes: &'a [u8],
    /// The name that is asked for: small letters, dots between labels, none at the end.
    pub(super) name: String,
    kind: u16,
}

impl Question<'_> {
    /// Whether it asks for addresses on the internet, of either kind.
    pub(super) fn wants_addresses(&self) -> bool {
        matches!(self.kind, A | AAAA)
    }
}

/// The question of a message that has one.
pub(super) fn question(message: &[u8]) -> Option<Question<'_>> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let rest = &message[HEADER.min(message.len())..];
    let (mut at, mut name) = (0, String::new());
    loop {
        let len = usize::from(*rest.get(at)?);
        at += 1;
        match len {
            0 => break,
            1..64 => {
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(rest.get(at..at + len)?.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
                at += len;
            }
            // A first name has nothing to point to.
            _ => return None,
        }
        if at > MAX_NAME {
            return None;
        }
    }
    let tail = rest.get(at..at + 4)?;
    let (kind, class) = (u16::from_be_bytes([tail[0], tail[1]]), u16::from_be_bytes([tail[2], tail[3]]));
    // Questions of other classes are not about addresses.
    let kind = if class == IN { kind } else { 0 };
    Some(Question { bytes: &rest[..at + 4], name, kind })
}

/// The largest answer over UDP that the sender of a query takes (EDNS, RFC 6891).
pub(super) fn udp_size(query: &[u8]) -> usize {
    edns_size(query).map_or(PLAIN_UDP, |size| PLAIN_UDP.max(size.into()))
}

fn edns_size(query: &[u8]) -> Option<u16> {
    let question = question(query)?;
    let count = |at: usize| Some(u16::from_be_bytes(*query.get(at..)?.first_chunk()?));
    if count(6)? != 0 || count(8)? != 0 {
        return None;
    }
    let mut rest = &query[HEADER + question.bytes.len()..];
    for _ in 0..count(10)? {
        let name = skip_name(rest)?;
        let fixed: &[u8; 10] = rest.get(name..)?.first_chunk()?;
        let field = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        if field(0) == OPT {
            return Some(field(2));
        }
        rest = rest.get(name + 10 + usize::from(field(8))..)?;
    }
    None
}

/// Bytes of a name at the beginning of `bytes`.
fn skip_name(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            len @ 1..64 => at += 1 + usize::from(len),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Whether a message is an answer to a query: its number, and the question that it repeats.
/// Servers that understood nothing repeat none.
pub(super) fn answers(message: &[u8], query: &[u8]) -> bool {
    if message.len() < HEADER || message[..2] != query[..2] || message[2] & 0x80 == 0 {
        return false;
    }
    match (question(message), question(query)) {
        (Some(given), Some(asked)) => given.bytes.eq_ignore_ascii_case(asked.bytes),
        (None, Some(_)) => message[4..6] == [0, 0] && message[3] & 0x0f != 0,
        (_, None) => true,
    }
}

/// Whether a server cannot answer, and another may.
pub(super) fn is_failure(answer: &[u8]) -> bool {
    matches!(answer[3] & 0x0f, SERVFAIL | NOTIMP | REFUSED)
}

/// What remains of an answer that is too long for UDP: its header and question, and the mark (TC) that says
/// to ask again over TCP.
pub(super) fn truncated(answer: &[u8]) -> Vec<u8> {
    let question = question(answer).map_or(&[][..], |question| question.bytes);
    let mut short = [&answer[..HEADER], question].concat();
    short[2] |= 0x02;
    short[4..HEADER].fill(0);
    short[5] = u8::from(!question.is_empty());
    short
}

/// The answer to a query that no server answers: the query with other flags.
pub(super) fn failure(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    // QR set, opcode and RD as asked; RA set, and the response code.
    answer[2] |= 0x80;
    answer[3] = 0x80 | SERVFAIL;
    answer
}

/// The answer that a name has these addresses. (Of IPv6 addresses: that there are none.)
pub(super) fn addresses(query: &[u8], question: &Question<'_>, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let found = if question.kind == A { addresses } else { &[] };
    let flags = [query[2] & 0x79 | 0x80, 0x80];
    let counts = [0, 1, 0, found.len() as u8, 0, 0, 0, 0];
    let mut answer = [&query[..2], &flags, &counts, question.bytes].concat();
    for address in found {
        // The name is that of the question; the answer holds for no longer than it takes to read it.
        answer.extend([0xc0, HEADER as u8, 0, A as u8, 0, IN as u8, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(kind: u8, additional: &[u8]) -> Vec<u8> {
        let mut message = vec![0xab, 1, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!additional.is_empty())];
        message.extend_from_slice(b"\x03wWw\x07example\x00");
        message.extend([0, kind, 0, 1]);
        message.extend(additional);
        message
    }

    #[test]
    fn the_name_that_is_asked_for_is_found() {
        let message = query(1, &[]);
        let question = question(&message).unwrap();
        assert_eq!(question.name, "www.example");
        assert_eq!(question.bytes, &message[HEADER..]);
        assert!(question.wants_addresses());
        for cut in 0..message.len() {
            assert_eq!(super::question(&message[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn the_size_that_a_client_takes() {
        assert_eq!(udp_size(&query(1, &[])), 512);
        assert_eq!(udp_size(&query(1, &[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0])), 1232);
        assert_eq!(udp_size(&query(1, &[0, 0, 41, 0, 100, 0, 0, 0, 0, 0, 0])), 512);
        // Cut off in the middle.
        assert_eq!(udp_size(&query(1, &[0, 0, 41, 0x04])), 512);
    }

    #[test]
    fn what_is_cut_says_so() {
        let mut answer = query(16, &[]);
        (answer[2], answer[7]) = (0x81, 9);
        answer.extend([7; 3000]);
        let short = truncated(&answer);
        assert_eq!(short.len(), query(16, &[]).len());
        assert_eq!((short[2], &short[4..12]), (0x83, &[0, 1, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(question(&short).unwrap().name, "www.example");
    }

    #[test]
    fn only_the_answer_is_an_answer() {
        let asked = query(1, &[]);
        let mut answer = asked.clone();
        assert!(!answers(&answer, &asked), "a query");
        answer[2] |= 0x80;
        assert!(answers(&answer, &asked));
        answer[HEADER + 1] = b'W';
        assert!(answers(&answer, &asked), "capital letters");
        answer[HEADER + 1] = b'x';
        assert!(!answers(&answer, &asked), "another name");
        answer = failure(&asked);
        answer[0] ^= 1;
        assert!(!answers(&answer, &asked), "another number");
        assert!(answers(&[0xab, 1, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0], &asked), "it was not understood");
    }

    #[test]
    fn addresses_of_a_name() {
        let asked = query(1, &[]);
        let answer = addresses(&asked, &question(&asked).unwrap(), &[Ipv4Addr::new(1, 2, 3, 4)]);
        assert!(answers(&answer, &asked));
        assert_eq!((answer[7], answer.ends_with(&[0, 4, 1, 2, 3, 4])), (1, true));
        let asked = query(28, &[]);
        let answer = addresses(&asked, &question(&asked).unwrap(), &[Ipv4Addr::new(1, 2, 3, 4)]);
        assert!(answers(&answer, &asked) && answer[7] == 0 && answer.len() == asked.len());
    }
}
