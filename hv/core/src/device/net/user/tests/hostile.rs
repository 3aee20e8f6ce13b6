//! Guests that send whatever they like.

use super::*;
use proptest::prelude::*;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber,
};
use std::io::Write;
use std::net::{TcpListener, TcpStream};

/// A frame of the guest with a TCP segment.
fn segment(repr: &TcpRepr<'_>, to: Ipv4Addr) -> Vec<u8> {
    let checksums = ChecksumCapabilities::ignored();
    let ip = Ipv4Repr {
        src_addr: GUEST,
        dst_addr: to,
        next_header: IpProtocol::Tcp,
        payload_len: repr.buffer_len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; 14 + ip.buffer_len() + repr.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    frame.set_src_addr(EthernetAddress(MAC));
    frame.set_dst_addr(EthernetAddress(GATEWAY_MAC));
    frame.set_ethertype(EthernetProtocol::Ipv4);
    ip.emit(&mut Ipv4Packet::new_unchecked(frame.payload_mut()), &checksums);
    let payload = &mut frame.payload_mut()[ip.buffer_len()..];
    let (src, dst) = (IpAddress::Ipv4(GUEST), IpAddress::Ipv4(to));
    repr.emit(&mut TcpPacket::new_unchecked(payload), &src, &dst, &checksums);
    bytes
}

fn syn(from: u16, port: u16) -> TcpRepr<'static> {
    TcpRepr {
        src_port: from,
        dst_port: port,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1000),
        ack_number: None,
        window_len: 65_535,
        window_scale: Some(7),
        max_seg_size: Some(1460),
        sack_permitted: true,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    }
}

/// A segment of a connection whose numbers are near the truth, as an attacker would choose them.
#[derive(Debug, Clone)]
struct Attack {
    control: u8,
    seq: i32,
    ack: Option<i32>,
    window: u16,
    scale: Option<u8>,
    mss: Option<u16>,
    len: usize,
    step: bool,
}

fn attack() -> impl Strategy<Value = Attack> {
    let near = prop_oneof![
        8 => Just(0),
        2 => -3..5i32,
        2 => 0..70_000i32,
        1 => 250_000..270_000i32,
        1 => 500_000..530_000i32,
        1 => any::<i32>(),
    ];
    let len = prop_oneof![Just(0usize), 0..2000usize, 30_000..32_000usize];
    let options = (any::<Option<u8>>(), prop_oneof![Just(None), any::<u16>().prop_map(Some)]);
    (0..17u8, near.clone(), proptest::option::weighted(0.9, near), any::<u16>(), options, len, any::<bool>())
        .prop_map(|(control, seq, ack, window, (scale, mss), len, step)| Attack {
            control,
            seq,
            ack,
            window,
            scale,
            mss,
            len,
            step,
        })
}

/// A connection as the attacker keeps count of it.
struct Count {
    ports: (u16, u16),
    /// The next byte of the guest's, and the first one of the other side's.
    seq: i32,
    ack: i32,
}

impl Count {
    /// Sends an attack as a segment; one that is where it should be moves the count on.
    fn fire(&mut self, rig: &mut Rig, attack: &Attack) {
        let control = [TcpControl::None, TcpControl::Psh, TcpControl::Fin, TcpControl::Syn, TcpControl::Rst];
        let payload = vec![7; attack.len];
        let repr = TcpRepr {
            // Mostly data: the rest tends to end the connection.
            control: control[usize::from(attack.control.saturating_sub(12))],
            seq_number: TcpSeqNumber(self.seq.wrapping_add(attack.seq)),
            ack_number: attack.ack.map(|near| TcpSeqNumber(self.ack.wrapping_add(near))),
            window_len: attack.window,
            window_scale: attack.scale,
            max_seg_size: attack.mss,
            sack_permitted: false,
            payload: &payload,
            ..syn(self.ports.0, self.ports.1)
        };
        rig.inject(&segment(&repr, GATEWAY));
        if attack.seq == 0 {
            self.seq = self.seq.wrapping_add(attack.len as i32);
        }
        if attack.step {
            rig.step();
        }
    }
}

/// The TCP segment in a frame for the guest.
fn tcp_of(frame: &[u8]) -> Option<TcpPacket<&[u8]>> {
    let ip = Ipv4Packet::new_checked(frame.get(14..)?).ok()?;
    if ip.next_header() != IpProtocol::Tcp {
        return None;
    }
    TcpPacket::new_checked(frame.get(34..)?).ok()
}

/// Runs the network, without the guest's stack, until it sends a SYN.
fn wait_for_syn(rig: &mut Rig) -> (u16, i32) {
    let mut found = None;
    rig.iface.update_ip_addrs(|addrs| addrs.clear());
    rig.until("a SYN", |rig| {
        let frames: Vec<_> = rig.wire.to_guest.drain(..).collect();
        found = frames
            .iter()
            .filter_map(|f| tcp_of(f))
            .find(|s| s.syn())
            .map(|s| (s.src_port(), s.seq_number().0));
        found.is_some()
    });
    found.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_harmless(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..50)) {
        let mut rig = Rig::new(config());
        for frame in &frames {
            rig.inject(frame);
        }
        rig.step();
    }

    #[test]
    fn damaged_frames_are_harmless(damage in proptest::collection::vec((0usize..80, any::<u8>()), 1..60)) {
        let mut rig = Rig::new(config());
        let whole = segment(&syn(1000, 1), GATEWAY);
        for (at, value) in damage {
            let mut frame = whole.clone();
            let index = at % frame.len();
            frame[index] = value;
            rig.inject(&frame);
            rig.inject(&frame[..index]);
        }
        rig.step();
    }

    #[test]
    fn any_segments_of_an_outgoing_connection_are_harmless(
        shaken in any::<bool>(),
        attacks in proptest::collection::vec(attack(), 1..60),
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut rig = Rig::new(config());
        rig.inject(&segment(&syn(1000, port), GATEWAY));
        let (_, theirs) = wait_for_syn(&mut rig);
        let (mut host, _) = listener.accept().unwrap();
        host.set_nonblocking(true).unwrap();
        let _ = host.write(&[1; 200_000]);
        let mut count = Count { ports: (1000, port), seq: 1001, ack: theirs.wrapping_add(1) };
        if shaken {
            count.fire(&mut rig, &HANDSHAKE);
        }
        for attack in &attacks {
            count.fire(&mut rig, attack);
        }
        rig.step();
    }

    #[test]
    fn any_segments_of_a_published_connection_are_harmless(
        early in proptest::collection::vec(attack(), 0..5),
        attacks in proptest::collection::vec(attack(), 1..60),
    ) {
        let mut rig = Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() });
        let mut client = TcpStream::connect(rig.net.published()[0].host).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.write(&[1; 200_000]);
        rig.booted = false;
        rig.until("it is accepted", |rig| rig.net.tcp.len() == 1);
        // Before the SYN was even fetched: the gateway's port can be guessed.
        let mut guess = Count { ports: (80, 20_000), seq: 0, ack: 0 };
        for attack in &early {
            guess.fire(&mut rig, attack);
        }
        rig.booted = true;
        if rig.net.tcp.len() == 1 {
            let (port, theirs) = wait_for_syn(&mut rig);
            let answer = TcpRepr { ack_number: Some(TcpSeqNumber(theirs.wrapping_add(1))), ..syn(80, port) };
            rig.inject(&segment(&answer, GATEWAY));
            let mut count = Count { ports: (80, port), seq: 1001, ack: theirs.wrapping_add(1) };
            for attack in &attacks {
                count.fire(&mut rig, attack);
            }
        }
        rig.step();
    }
}

/// The last segment of a handshake.
const HANDSHAKE: Attack =
    Attack { control: 0, seq: 0, ack: Some(0), window: 65_535, scale: None, mss: None, len: 0, step: true };

#[test]
fn a_syn_before_our_syn_is_ignored() {
    let mut rig = Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() });
    let _client = TcpStream::connect(rig.net.published()[0].host).unwrap();
    // The queue to the guest is full, so the SYN stays where it is.
    while rig.net.link.has_room() {
        rig.net.link.emit(EthernetProtocol::Arp, 28, |_| ());
    }
    rig.booted = false;
    rig.until("it is accepted", |rig| rig.net.tcp.len() == 1);
    rig.inject(&segment(&syn(80, 20_000), GATEWAY));
    for _ in 0..10 {
        rig.step();
    }
    assert_eq!(rig.net.tcp.len(), 1);
}

#[test]
fn a_window_that_is_filled_at_once_fits() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut rig = Rig::new(config());
    rig.inject(&segment(&syn(1000, port), GATEWAY));
    let (_, theirs) = wait_for_syn(&mut rig);
    let payload = vec![1; 32_000];
    // More than any window that was announced, without a round in between.
    for n in 0..20 {
        let repr = TcpRepr {
            control: TcpControl::None,
            seq_number: TcpSeqNumber(1001 + 32_000 * n),
            ack_number: Some(TcpSeqNumber(theirs.wrapping_add(1))),
            payload: &payload,
            ..syn(1000, port)
        };
        let repr = TcpRepr { window_scale: None, max_seg_size: None, sack_permitted: false, ..repr };
        rig.inject(&segment(&repr, GATEWAY));
    }
    rig.step();
}

#[test]
fn connections_are_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut rig = Rig::new(config());
    for from in 0..super::super::tcp::MAX_CONNECTIONS as u16 + 100 {
        rig.inject(&segment(&syn(1000 + from, port), GATEWAY));
        if from % 16 == 0 {
            rig.step();
        }
    }
    assert!(rig.net.tcp.len() <= super::super::tcp::MAX_CONNECTIONS);
}

#[test]
fn a_guest_that_takes_nothing_costs_a_bounded_queue() {
    let mut rig = Rig::new(config());
    let request = segment(
        &TcpRepr { control: TcpControl::None, ack_number: Some(TcpSeqNumber(1)), ..syn(1000, 1) },
        GATEWAY,
    );
    for _ in 0..10_000 {
        rig.inject(&request);
    }
    let mut frames = 0;
    rig.net.receive(&mut |_| {
        frames += 1;
        true
    });
    assert!((1..=64).contains(&frames), "{frames}");
}
