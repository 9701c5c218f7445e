//! Which address next (pure). Knows ranges; never files.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// First and last address that a Pod may have: the network address, the gateway (the first one)
/// and the broadcast address are not for Pods.
pub(crate) fn usable(range: Ipv4Net) -> Option<(u32, u32)> {
    if range.prefix_len() > 30 {
        return None;
    }
    Some((u32::from(range.network()) + 2, u32::from(range.broadcast()) - 1))
}

/// The next free address after `last`, wrapping around: a released address is used again as late
/// as possible, since peers may still remember its former owner.
pub(crate) fn next(
    range: Ipv4Net,
    last: Option<Ipv4Addr>,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let (first, end) = usable(range)?;
    let start = match last.map(u32::from) {
        Some(last) if (first..end).contains(&last) => last + 1,
        _ => first,
    };
    (start..=end).chain(first..start).map(Ipv4Addr::from).find(|address| !taken(*address))
}

/// The MAC address that goes with an address: a new owner has the neighbours' old entry right.
/// Locally administered, and different from what other software derives in the same manner.
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x6b, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn network_gateway_and_broadcast_are_not_for_pods() {
        let all = range("10.0.0.0/29");
        let free: Vec<_> = (0..8u8)
            .map(|n| Ipv4Addr::new(10, 0, 0, n))
            .filter(|a| next(all, None, |x| x != *a).is_some())
            .collect();
        assert_eq!(free, (2..7u8).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect::<Vec<_>>());
        assert_eq!(usable(range("10.0.0.0/31")), None);
    }

    #[test]
    fn a_last_address_of_another_range_is_ignored() {
        let last = Some(Ipv4Addr::new(192, 168, 0, 9));
        assert_eq!(next(range("10.0.0.0/24"), last, |_| false), Some(Ipv4Addr::new(10, 0, 0, 2)));
    }

    proptest! {
        /// Allocating and releasing at random never gives an address twice, never leaves the
        /// range, fails only when full, and the youngest one comes back only if nothing else is
        /// free.
        #[test]
        fn round_robin(steps in proptest::collection::vec(any::<(bool, u8)>(), 1..300), prefix in 26u8..=30) {
            let range = Ipv4Net::new(Ipv4Addr::new(10, 1, 2, 0), prefix).unwrap();
            let (first, end) = usable(range).unwrap();
            let mut taken = BTreeSet::new();
            let mut last = None;
            for (release, pick) in steps {
                if release && !taken.is_empty() {
                    let gone = *taken.iter().nth(usize::from(pick) % taken.len()).unwrap();
                    taken.remove(&gone);
                    continue;
                }
                let free: BTreeSet<_> =
                    (first..=end).map(Ipv4Addr::from).filter(|a| !taken.contains(a)).collect();
                match next(range, last, |a| taken.contains(&a)) {
                    None => prop_assert!(free.is_empty()),
                    Some(address) => {
                        prop_assert!(free.contains(&address));
                        if Some(address) == last {
                            prop_assert_eq!(free.len(), 1);
                        }
                        taken.insert(address);
                        last = Some(address);
                    }
                }
            }
        }
    }
}
