//! The DHCP server: one client, one address.

use super::link::Link;
use super::{DNS, GATEWAY, GUEST, PREFIX, wire};
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr};
use std::net::Ipv4Addr;

/// How long a lease lasts, in seconds. No other client gets the address, so this only limits how long a
/// client uses a network that is gone.
const LEASE: u32 = 24 * 60 * 60;
/// Option 26: the interface's MTU.
const MTU_OPTION: u8 = 26;

/// Answers a message of the guest's DHCP client.
pub(super) fn answer(link: &mut Link, message: &[u8]) {
    let Ok(packet) = DhcpPacket::new_checked(message) else { return };
    let Ok(request) = DhcpRepr::parse(&packet) else { return };
    // A client that renews puts its address into the header, one that selects
    // into an option; asking for another address than its own is refused.
    let wanted = request.requested_ip.or(Some(request.client_ip)).filter(|addr| !addr.is_unspecified());
    let message_type = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if request.server_identifier.is_some_and(|id| id != GATEWAY) => return,
        DhcpMessageType::Request if wanted.is_none_or(|addr| addr == GUEST) => DhcpMessageType::Ack,
        DhcpMessageType::Request => DhcpMessageType::Nak,
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return,
    };
    let granted = message_type != DhcpMessageType::Nak;
    let inform = request.message_type == DhcpMessageType::Inform;
    let mtu = (link.mtu() as u16).to_be_bytes();
    let options = [DhcpOption { kind: MTU_OPTION, data: &mtu }];
    let reply = DhcpRepr {
        message_type,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: if granted && !inform { GUEST } else { Ipv4Addr::UNSPECIFIED },
        server_ip: GATEWAY,
        router: granted.then_some(GATEWAY),
        subnet_mask: granted.then_some(Ipv4Addr::from_bits(u32::MAX << (32 - PREFIX))),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY),
        parameter_request_list: None,
        dns_servers: granted.then(|| [DNS].into_iter().collect()),
        max_size: None,
        lease_duration: (granted && !inform).then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if granted { &options } else { &[] },
    };
    // The client has no address yet, or is told that it has the wrong one.
    wire::emit_udp(link, (GATEWAY, 67), (Ipv4Addr::BROADCAST, 68), reply.buffer_len(), |bytes| {
        bytes.fill(0);
        // The buffer is long enough by construction.
        let _ = reply.emit(&mut DhcpPacket::new_unchecked(bytes));
    });
}
