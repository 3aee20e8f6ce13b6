//! What each client may take of the server: connections and requests, by its address. And which connection makes room when all are
//! taken: the one that has been idle the longest.
//!
//! A client is an IPv4 address, or the first 64 bits of an IPv6 address: whoever has one of those has all.
#![forbid(unsafe_code)]

use super::transport::ConnectionState;
use slab::Slab;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Most clients without connections whose requests are remembered. Beyond that, a client that comes back begins anew.
const REMEMBERED: usize = 1 << 16;

/// What each client may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Most connections at a time.
    pub connections: Option<usize>,
    /// Most requests a second, and at once.
    pub rate: Option<u32>,
}

/// All clients.
pub(super) struct Clients {
    limits: ClientLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: HashMap<Client, Taken>,
    /// Of connections to functions.
    open: Slab<Arc<ConnectionState>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client(Ipv6Addr);

impl Client {
    fn of(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(address) => Client(address.to_ipv6_mapped()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Client(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        }
    }
}

/// What a client has taken.
#[derive(Debug)]
struct Taken {
    connections: usize,
    /// Since when it could have sent all requests at once that it may send in a second: each moves this on.
    full: Instant,
}

/// A client's connection, until it is dropped.
pub(super) struct Seat {
    clients: Arc<Clients>,
    client: Client,
    number: usize,
}

/// The client has as many connections as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Clients {
    pub(super) fn new(limits: ClientLimits) -> Arc<Self> {
        Arc::new(Clients { limits, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// A client has connected.
    pub(super) fn connect(
        self: &Arc<Self>,
        address: IpAddr,
        connection: &Arc<ConnectionState>,
        now: Instant,
    ) -> Result<Seat, TooMany> {
        let client = Client::of(address);
        let state = &mut *self.state();
        if self.limits != ClientLimits::default() {
            let taken = state.clients.entry(client).or_insert(Taken { connections: 0, full: now });
            if self.limits.connections.is_some_and(|most| taken.connections >= most) {
                return Err(TooMany);
            }
            taken.connections += 1;
        }
        let number = state.open.insert(connection.clone());
        Ok(Seat { clients: self.clone(), client, number })
    }

    /// A client asks for something. If it has asked too often, returns how long it has to wait.
    pub(super) fn ask(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let Some(rate) = self.limits.rate else { return Ok(()) };
        let each = Duration::from_secs(1) / rate;
        let state = &mut *self.state();
        let taken = state.clients.entry(Client::of(address)).or_insert(Taken { connections: 0, full: now });
        let full = taken.full.max(now) + each;
        // A whole second's requests may come at once.
        match (full - now).checked_sub(Duration::from_secs(1).max(each)) {
            None | Some(Duration::ZERO) => {
                taken.full = full;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// Has the connection end that has been idle the longest, of those that are not ending yet. Says whether there is one.
    pub(super) fn end_idle(&self) -> bool {
        let state = self.state();
        let idle = state.open.iter().filter_map(|(_, open)| Some((open.idle_since()?, open)));
        let oldest = idle.min_by_key(|(since, _)| *since).map(|(_, open)| open.clone());
        drop(state);
        oldest.is_some_and(|oldest| {
            oldest.end();
            true
        })
    }

    /// Forgets clients without connections that have not asked for anything lately.
    pub(super) fn forget(&self, now: Instant) {
        self.state().clients.retain(|_, taken| taken.connections > 0 || taken.full > now);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let state = &mut *self.clients.state();
        state.open.remove(self.number);
        let crowded = state.clients.len() > REMEMBERED;
        if let Some(taken) = state.clients.get_mut(&self.client) {
            taken.connections -= 1;
            if taken.connections == 0 && (crowded || taken.full <= Instant::now()) {
                state.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clients(connections: Option<usize>, rate: Option<u32>) -> Arc<Clients> {
        Clients::new(ClientLimits { connections, rate })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_is_one_client() {
        let same = |a, b| Client::of(address(a)) == Client::of(address(b));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(same("2001:db8::1", "2001:db8::ffff:0:0:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(!same("192.0.2.1", "::1"));
    }

    #[test]
    fn connections_of_a_client_are_counted_and_those_of_others_are_not() {
        let (all, now) = (clients(Some(2), None), Instant::now());
        let connect = |text| all.connect(address(text), &Arc::default(), now);
        let (first, _second) = (connect("192.0.2.1").ok().unwrap(), connect("192.0.2.1").ok().unwrap());
        assert!(connect("192.0.2.1").is_err());
        let _other = connect("192.0.2.2").ok().unwrap();
        drop(first);
        let _third = connect("192.0.2.1").ok().unwrap();
        assert!(connect("192.0.2.1").is_err());
    }

    #[test]
    fn nothing_is_kept_of_clients_without_limits_or_that_are_gone() {
        let (free, now) = (clients(None, None), Instant::now());
        let _seat = free.connect(address("192.0.2.1"), &Arc::default(), now).ok().unwrap();
        assert_eq!(free.ask(address("192.0.2.1"), now), Ok(()));
        assert!(free.state().clients.is_empty());
        let all = clients(Some(9), Some(100));
        let seat = all.connect(address("192.0.2.1"), &Arc::default(), now).ok().unwrap();
        all.ask(address("192.0.2.1"), now).unwrap();
        all.ask(address("192.0.2.2"), now).unwrap();
        all.forget(now + Duration::from_secs(1));
        assert_eq!(all.state().clients.len(), 1, "one has a connection");
        drop(seat);
        all.forget(now + Duration::from_secs(1));
        assert!(all.state().clients.is_empty() && all.state().open.is_empty());
    }

    #[test]
    fn the_connection_that_was_idle_longest_ends_and_no_busy_one_does() {
        let (all, now) = (clients(None, None), Instant::now());
        let states: Vec<Arc<ConnectionState>> = (0..3).map(|_| Arc::default()).collect();
        let _seats: Vec<_> =
            states.iter().map(|state| all.connect(address("::1"), state, now).ok()).collect();
        let running = states[0].begin();
        drop(states[1].begin());
        let ending = || states.iter().map(|state| state.is_ending()).collect::<Vec<_>>();
        assert!(all.end_idle());
        assert_eq!(ending(), [false, false, true]);
        assert!(all.end_idle());
        assert_eq!(ending(), [false, true, true]);
        assert!(!all.end_idle(), "the last one is being answered");
        drop(running);
        assert!(all.end_idle());
    }

    proptest! {
        /// However requests come, no more are let in than the rate allows, and one that was refused is let in after the time that it was told.
        #[test]
        fn a_rate_is_kept(rate in 1u32..1000, steps in prop::collection::vec(0u64..400, 1..300)) {
            let (all, start) = (clients(None, Some(rate)), Instant::now());
            let (mut now, mut let_in) = (start, 0);
            for step in steps {
                now += Duration::from_millis(step);
                match all.ask(address("192.0.2.1"), now) {
                    Ok(()) => let_in += 1,
                    Err(wait) => {
                        now += wait;
                        prop_assert_eq!(all.ask(address("192.0.2.1"), now), Ok(()));
                        let_in += 1;
                    }
                }
                let most = f64::from(rate) * ((now - start).as_secs_f64() + 1.0) + 1.001;
                prop_assert!(f64::from(let_in) <= most, "{let_in} in {:?} at {rate}/s", now - start);
            }
        }
    }
}
