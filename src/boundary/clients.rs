//! How many connections each client address has, of all workers: a fixed number of places that they share without a lock.
//!
//! Counted when a connection is accepted and when it ends, never for a request. Where all places that an address could
//! have are taken, its connection is not counted: the limit is a fence against few greedy clients, and a client more is
//! better than one turned away for others.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Places that an address may be in.
const WAYS: usize = 16;
/// A place is a hash and, below it, a count of this many bits; 0 is nobody's.
const COUNT_BITS: u32 = 24;
pub const MOST_PER_CLIENT: u32 = 1_000_000;

const _: () = assert!(MOST_PER_CLIENT < 1 << COUNT_BITS);

#[derive(Debug)]
pub struct Clients {
    places: Box<[AtomicU64]>,
    seed: u64,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Counted in this place, to be given back.
    Counted(usize),
    Uncounted,
    /// The client has as many as it may.
    Refused,
}

impl Clients {
    /// For about so many clients at once.
    pub fn new(clients: usize) -> Clients {
        let places = clients.saturating_mul(2).clamp(1024, 1 << 20).next_power_of_two();
        Clients { places: (0..places).map(|_| AtomicU64::new(0)).collect(), seed: RandomState::new().hash_one(0) }
    }

    /// One connection more of the client, unless it has `most`.
    pub fn enter(&self, client: IpAddr, most: u32) -> Entry {
        let hash = match client {
            IpAddr::V4(ip) => xxh3_64_with_seed(&ip.octets(), self.seed),
            // A client has a network of its own, and as many addresses in it as it likes.
            IpAddr::V6(ip) => xxh3_64_with_seed(&ip.octets()[..8], self.seed),
        };
        // The places are chosen by the bits that a place does not keep.
        let first = hash as usize & (self.places.len() - 1) & !(WAYS - 1);
        let key = (hash >> COUNT_BITS).max(1) << COUNT_BITS;
        loop {
            let mut free = None;
            let mut own = None;
            for at in first..first + WAYS {
                let place = self.places[at].load(Relaxed);
                if place & !COUNT_MASK == key {
                    own = Some((at, place));
                    break;
                }
                if place == 0 && free.is_none() {
                    free = Some((at, place));
                }
            }
            let Some((at, place)) = own.or(free) else { return Entry::Uncounted };
            if place & COUNT_MASK >= u64::from(most) {
                return Entry::Refused;
            }
            if self.places[at].compare_exchange(place, key | ((place & COUNT_MASK) + 1), Relaxed, Relaxed).is_ok() {
                return Entry::Counted(at);
            }
        }
    }

    /// A connection that was [`Entry::Counted`] has ended.
    pub fn leave(&self, at: usize) {
        let fewer = |place| Some(if place & COUNT_MASK == 1 { 0 } else { place - 1 });
        // Never fails: the closure has an answer to everything.
        let _ = self.places[at].fetch_update(Relaxed, Relaxed, fewer);
    }
}

const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n))
    }

    #[test]
    fn a_client_has_its_own_count() {
        let clients = Clients::new(100);
        let Entry::Counted(at) = clients.enter(ip(1), 2) else { panic!("there is room") };
        assert_eq!(clients.enter(ip(1), 2), Entry::Counted(at));
        assert_eq!(clients.enter(ip(1), 2), Entry::Refused);
        assert!(matches!(clients.enter(ip(2), 2), Entry::Counted(_)));
        clients.leave(at);
        assert_eq!(clients.enter(ip(1), 2), Entry::Counted(at));
        (0..2).for_each(|_| clients.leave(at));
        assert_eq!(clients.places[at].load(Relaxed), 0, "nobody's again");
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let clients = Clients::new(100);
        let v6 = |text: &str| clients.enter(text.parse().unwrap(), 1);
        assert!(matches!(v6("2001:db8:1:2::1"), Entry::Counted(_)));
        assert_eq!(v6("2001:db8:1:2:ffff::9"), Entry::Refused);
        assert!(matches!(v6("2001:db8:1:3::1"), Entry::Counted(_)));
    }

    #[test]
    fn workers_agree() {
        let clients = Clients::new(100);
        let entered: usize = std::thread::scope(|scope| {
            let worker = || (0..1000).filter(|_| clients.enter(ip(9), 500) != Entry::Refused).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(entered, 500);
    }

    #[test]
    fn more_clients_than_places_are_let_in() {
        let clients = Clients::new(1);
        let entries: Vec<_> = (0..5000).map(|n| clients.enter(ip(n), 1)).collect();
        assert!(!entries.contains(&Entry::Refused));
        assert_eq!(entries.iter().filter(|entry| matches!(entry, Entry::Counted(_))).count(), 1024);
    }
}
