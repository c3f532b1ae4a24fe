//! Networks that a client's address is looked for in.
//!
//! Kept as ranges in order and without overlap, so that an address is found by a binary search however many networks
//! there are. An IPv4 address is the same client whether it came in over IPv4 or, as `::ffff:192.0.2.7`, over IPv6:
//! both are compared as IPv4.

use super::redact::Redact;
use ipnet::{IpNet, Ipv4Net};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    /// As given, to be shown.
    written: Vec<IpNet>,
}

impl Networks {
    /// `::/0` and other networks wider than the IPv4-mapped addresses have no IPv4 client.
    pub fn new(networks: Vec<IpNet>) -> Networks {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in &networks {
            match canonical(*network) {
                IpNet::V4(network) => v4.push(u32::from(network.network())..=u32::from(network.broadcast())),
                IpNet::V6(network) => v6.push(u128::from(network.network())..=u128::from(network.broadcast())),
            }
        }
        Networks { v4: Ranges::new(v4), v6: Ranges::new(v6), written: networks }
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.contains(u32::from(ip)),
            IpAddr::V6(ip) => self.v6.contains(u128::from(ip)),
        }
    }

    /// The networks as they were given.
    pub fn written(&self) -> &[IpNet] {
        &self.written
    }
}

/// `10.0.0.0/8`; a single address without its length.
pub fn shown(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
}

/// The same, as it may be said.
pub fn told(network: &IpNet, redact: &dyn Redact) -> String {
    redact.shown(&shown(network)).to_owned()
}

/// In order, without overlap.
#[derive(Clone, Default, PartialEq, Eq)]
struct Ranges<N>(Box<[RangeInclusive<N>]>);

impl<N: Ord + Copy> Ranges<N> {
    fn new(mut ranges: Vec<RangeInclusive<N>>) -> Ranges<N> {
        ranges.sort_unstable_by_key(|range| *range.start());
        let mut joined: Vec<RangeInclusive<N>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start() <= last.end() => *last = *last.start()..=*last.end().max(range.end()),
                _ => joined.push(range),
            }
        }
        Ranges(joined.into())
    }

    fn contains(&self, number: N) -> bool {
        let after = self.0.partition_point(|range| *range.start() <= number);
        after > 0 && number <= *self.0[after - 1].end()
    }
}

/// The IPv4 network that one of IPv4-mapped addresses stands for: `10.0.0.0/8` for `::ffff:10.0.0.0/104`.
pub fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let v4 = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.written).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(list: &[&str]) -> Networks {
        Networks::new(list.iter().map(|network| network.parse().unwrap()).collect())
    }

    #[test]
    fn addresses_are_found_in_their_networks() {
        let list = networks(&["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::ffff:198.51.100.0/120", "10.1.0.0/16"]);
        for (ip, inside) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("192.0.2.8", false),
            ("198.51.100.9", true),
            ("198.51.101.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::10.1.2.3", false),
        ] {
            assert_eq!(list.contains(ip.parse().unwrap()), inside, "{ip}");
        }
        assert!(!Networks::default().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn everything_of_a_family_is_only_that_family() {
        let (v4, v6) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
        for (list, has_v4, has_v6) in
            [("0.0.0.0/0", true, false), ("::/0", false, true), ("::ffff:0:0/96", true, false)]
        {
            assert_eq!((networks(&[list]).contains(v4), networks(&[list]).contains(v6)), (has_v4, has_v6), "{list}");
        }
    }

    proptest! {
        #[test]
        fn a_search_finds_what_asking_each_finds(
            list in prop::collection::vec((0u32..64, 24u8..=32), 0..12), ips in prop::collection::vec(0u32..64, 20)
        ) {
            let given: Vec<IpNet> = list.iter().map(|(n, length)| Ipv4Net::new((n * 37).into(), *length).unwrap().trunc().into()).collect();
            let built = Networks::new(given.clone());
            for ip in ips {
                let ip = IpAddr::from((ip * 37).to_be_bytes());
                prop_assert_eq!(built.contains(ip), given.iter().any(|network| network.contains(&ip)));
            }
        }
    }
}
