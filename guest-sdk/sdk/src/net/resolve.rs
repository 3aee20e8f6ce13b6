//! Resolves names to addresses, over UDP, and over TCP if the answer does not fit a datagram.

use super::{IpAddress, IpEndpoint, Ipv4Address, Stack, TcpSocket, UdpSocket};
use crate::random;
use alloc::vec;
use alloc::vec::Vec;
use embassy_net::udp::PacketMetadata;
use embassy_time::{Duration, with_timeout};
use embedded_io_async::{Read, Write};
use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData, DnsRepr,
};

/// How long a name server has to answer, and how often each is asked. The values are those of the C library.
const ANSWER_TIME: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 2;
/// The port of name servers.
const PORT: u16 = 53;
/// The largest answer over UDP (RFC 1035, 4.2.1).
const DATAGRAM: usize = 512;
/// The first of the ports that queries are sent from. The others follow it (RFC 6335, 6).
const FIRST_PORT: u16 = 49_152;

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The name is invalid: a label is empty or longer than 63 bytes, or the name is longer than 253 bytes.
    BadName,
    /// The network has no name server.
    NoServer,
    /// There is no such name, or it has no IPv4 address.
    NotFound,
    /// No name server could be reached, or none answered in time.
    NoAnswer,
    /// The name server answered with this response code (RFC 1035, 4.1.1): 2 is a failure of the server, 5 a refusal.
    Refused(u8),
}

impl core::fmt::Display for ResolveError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ResolveError::BadName => f.write_str("not a name"),
            ResolveError::NoServer => f.write_str("the network has no name server"),
            ResolveError::NotFound => f.write_str("no such name"),
            ResolveError::NoAnswer => f.write_str("no name server answered"),
            ResolveError::Refused(code) => write!(f, "the name server refused (code {code})"),
        }
    }
}

impl core::error::Error for ResolveError {}

/// Looks up the IPv4 addresses of a name. An address in decimal notation is returned as it is.
///
/// Each name server of the network has 5 seconds to answer, then the next one is asked. All are asked twice. An answer
/// that is too long for UDP is requested again over TCP, which [`Stack::dns_query`] does not do.
///
/// # Errors
///
/// [`ResolveError`] says why there is no address. With [`NoAnswer`](ResolveError::NoAnswer) it may be worth trying later.
pub async fn resolve(stack: Stack<'_>, name: &str) -> Result<Vec<Ipv4Address>, ResolveError> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let encoded = encode(name).ok_or(ResolveError::BadName)?;
    let servers: Vec<Ipv4Address> =
        stack.config_v4().map(|config| config.dns_servers.iter().copied().collect()).unwrap_or_default();
    if servers.is_empty() {
        return Err(ResolveError::NoServer);
    }
    let mut result = Err(ResolveError::NoAnswer);
    for _ in 0..ATTEMPTS {
        for server in &servers {
            let server = IpEndpoint::new(IpAddress::Ipv4(*server), PORT);
            result = match with_timeout(ANSWER_TIME, ask(stack, server, &encoded)).await {
                Ok(result) => result,
                Err(_) => Err(ResolveError::NoAnswer),
            };
            if !matches!(result, Err(ResolveError::NoAnswer | ResolveError::Refused(_))) {
                return result;
            }
        }
    }
    result
}

/// A name in the form of messages: each label after its length, and a length of 0 at the end.
fn encode(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > 253 {
        return None;
    }
    let mut encoded = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        encoded.push(u8::try_from(label.len()).ok().filter(|len| (1..64).contains(len))?);
        encoded.extend(label.as_bytes());
    }
    encoded.push(0);
    Some(encoded)
}

/// Asks one name server.
async fn ask(stack: Stack<'_>, server: IpEndpoint, name: &[u8]) -> Result<Vec<Ipv4Address>, ResolveError> {
    let [id, port] = [0, 32].map(|shift| (random::next_u64() >> shift) as u16);
    let query = query(id, name);
    let (mut metadata, mut buffers) = ([[PacketMetadata::EMPTY; 2]; 2], vec![0; 2 * DATAGRAM]);
    let (receive, send) = buffers.split_at_mut(DATAGRAM);
    let [receive_metadata, send_metadata] = &mut metadata;
    let mut socket = UdpSocket::new(stack, receive_metadata, receive, send_metadata, send);
    socket.bind(FIRST_PORT | port).map_err(|_| ResolveError::NoAnswer)?;
    socket.send_to(&query, server).await.map_err(|_| ResolveError::NoAnswer)?;
    let mut answer = [0; DATAGRAM];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut answer).await else { continue };
        if from.endpoint != server {
            continue;
        }
        match read_answer(&answer[..len], id, name) {
            // An answer to another question, or no answer at all.
            None => {}
            Some(Answer::Truncated) => break,
            Some(Answer::Whole(result)) => return result,
        }
    }
    ask_over_tcp(stack, server, &query, id, name).await.ok_or(ResolveError::NoAnswer)?
}

/// Asks over TCP, where a message follows its length (RFC 1035, 4.2.2).
async fn ask_over_tcp(
    stack: Stack<'_>,
    server: IpEndpoint,
    query: &[u8],
    id: u16,
    name: &[u8],
) -> Option<Result<Vec<Ipv4Address>, ResolveError>> {
    let (mut receive, mut send) = (vec![0; 4096], vec![0; 512]);
    let mut socket = TcpSocket::new(stack, &mut receive, &mut send);
    socket.connect(server).await.ok()?;
    socket.write_all(&(query.len() as u16).to_be_bytes()).await.ok()?;
    socket.write_all(query).await.ok()?;
    socket.flush().await.ok()?;
    let mut len = [0; 2];
    socket.read_exact(&mut len).await.ok()?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    socket.read_exact(&mut answer).await.ok()?;
    match read_answer(&answer, id, name)? {
        Answer::Whole(result) => Some(result),
        Answer::Truncated => None,
    }
}

fn query(id: u16, name: &[u8]) -> Vec<u8> {
    let question = DnsQuestion { name, type_: DnsQueryType::A };
    let repr = DnsRepr {
        transaction_id: id,
        opcode: DnsOpcode::Query,
        flags: DnsFlags::RECURSION_DESIRED,
        question,
    };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut DnsPacket::new_unchecked(&mut message[..]));
    message
}

/// The content of an answer.
enum Answer {
    /// It is too long for UDP.
    Truncated,
    /// It is complete.
    Whole(Result<Vec<Ipv4Address>, ResolveError>),
}

/// Reads the answer to a question; `None` if the message is not one.
fn read_answer(message: &[u8], id: u16, name: &[u8]) -> Option<Answer> {
    let packet = DnsPacket::new_checked(message).ok()?;
    let flags = packet.flags();
    if packet.transaction_id() != id || !flags.contains(DnsFlags::RESPONSE) {
        return None;
    }
    let code = packet.rcode();
    if packet.question_count() == 0 && code != DnsRcode::NoError {
        return Some(Answer::Whole(Err(ResolveError::Refused(code.into()))));
    }
    let (mut rest, question) = DnsQuestion::parse(packet.payload()).ok()?;
    if packet.question_count() != 1
        || question.type_ != DnsQueryType::A
        || !question.name.eq_ignore_ascii_case(name)
    {
        return None;
    }
    if flags.contains(DnsFlags::TRUNCATED) {
        return Some(Answer::Truncated);
    }
    match code {
        DnsRcode::NoError => {}
        DnsRcode::NXDomain => return Some(Answer::Whole(Err(ResolveError::NotFound))),
        code => return Some(Answer::Whole(Err(ResolveError::Refused(code.into())))),
    }
    // Aliases are in the same list as the addresses of the names that they stand for.
    let mut addresses = Vec::new();
    for _ in 0..packet.answer_record_count() {
        let (more, record) = DnsRecord::parse(rest).ok()?;
        if let DnsRecordData::A(address) = record.data {
            addresses.push(address);
        }
        rest = more;
    }
    Some(Answer::Whole(if addresses.is_empty() { Err(ResolveError::NotFound) } else { Ok(addresses) }))
}
