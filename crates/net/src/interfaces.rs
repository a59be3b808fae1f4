//! Which network interfaces a node uses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::Error;

/// How often interfaces are compared with what they were: Android tells nobody that they have changed.
pub(crate) const POLL: Duration = Duration::from_secs(2);

/// The network interfaces that an endpoint binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interfaces {
    /// Every interface, including those that appear later: sockets on the unspecified addresses.
    All,
    /// Only these, by name, with the addresses that they have when the endpoint is bound: for loopback, and for addresses
    /// that stay. A phone that roams wants `All`.
    Named(Vec<String>),
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InterfaceAddr {
    pub(crate) ip: IpAddr,
    /// Length of the subnet's prefix in bits.
    pub(crate) prefix_len: u8,
}

/// An interface with all its addresses, link-local ones among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// The kernel's number of it: the scope of link-local IPv6 addresses.
    pub(crate) index: u32,
    pub(crate) addrs: Vec<InterfaceAddr>,
}

impl InterfaceAddr {
    /// Whether another address is in the same subnet.
    pub(crate) fn is_neighbour(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len.min(32)));
                (own.to_bits() ^ ip.to_bits()) & mask.unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len.min(128)));
                (own.to_bits() ^ ip.to_bits()) & mask.unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What an interface probably is, going by its name: nothing else can be learnt of it without rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterfaceKind {
    /// This machine itself.
    Loopback,
    /// A WiFi client.
    Wifi,
    /// A hotspot that this phone offers.
    Hotspot,
    /// A tunnel to somewhere else.
    Vpn,
    /// Made by containers or virtual machines.
    Container,
    /// The mobile network.
    Cellular,
    /// A cable, or anything unknown.
    Other,
}

impl InterfaceKind {
    /// Guesses the kind from a name of Linux, Android or macOS.
    pub fn guess(name: &str) -> Self {
        const NAMES: [(InterfaceKind, &[&str]); 6] = [
            (InterfaceKind::Container, &["docker", "br-", "veth", "virbr", "vmnet", "vboxnet"]),
            (InterfaceKind::Vpn, &["tun", "tap", "wg", "tailscale", "zt", "utun", "ppp", "ipsec"]),
            (
                InterfaceKind::Cellular,
                &["rmnet", "ccmni", "pdp_ip", "wwan", "v4-rmnet", "v4-ccmni"],
            ),
            (InterfaceKind::Hotspot, &["ap", "swlan", "softap"]),
            (InterfaceKind::Wifi, &["wl", "ath"]),
            (InterfaceKind::Loopback, &["lo"]),
        ];
        let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        NAMES.iter().find(|(_, prefixes)| of(prefixes)).map_or(Self::Other, |(kind, _)| *kind)
    }

    /// Whether the hosts of its subnets may be probed one by one. Not where a probe costs money, leaves the house, or can
    /// only find this machine again.
    pub(crate) fn is_swept(self) -> bool {
        !matches!(self, Self::Vpn | Self::Container | Self::Cellular)
    }
}

/// The interfaces that exist, with their addresses.
fn list() -> Result<Vec<Interface>, Error> {
    let error = |source| Error::ListInterfaces { source };
    let interfaces = getifs::interfaces().map_err(error)?;
    interfaces
        .iter()
        .map(|interface| {
            let addrs = interface.addrs().map_err(error)?;
            let addrs = addrs
                .iter()
                .map(|net| InterfaceAddr { ip: net.addr(), prefix_len: net.prefix_len() });
            Ok(Interface {
                name: interface.name().to_string(),
                index: interface.index(),
                addrs: addrs.collect(),
            })
        })
        .collect()
}

impl Interfaces {
    /// The addresses of the chosen interfaces at this moment, without link-local IPv6 ones: those mean nothing on another
    /// machine.
    ///
    /// # Errors
    /// If the interfaces cannot be listed, a name is unknown, or named interfaces have no address.
    pub(crate) fn addrs(&self) -> Result<Vec<InterfaceAddr>, Error> {
        let chosen = self.chosen()?;
        let all = chosen.iter().flat_map(|interface| &interface.addrs);
        let addrs: BTreeSet<_> = all.filter(|addr| is_usable(addr.ip)).copied().collect();
        match self {
            Self::Named(names) if addrs.is_empty() => {
                Err(Error::NoAddress { names: names.clone() })
            }
            _ => Ok(addrs.into_iter().collect()),
        }
    }

    /// The chosen interfaces at this moment.
    ///
    /// # Errors
    /// If the interfaces cannot be listed or a name is unknown.
    pub(crate) fn chosen(&self) -> Result<Vec<Interface>, Error> {
        let existing = list()?;
        let Self::Named(names) = self else {
            return Ok(existing);
        };
        let unknown = names.iter().find(|name| existing.iter().all(|known| known.name != **name));
        if let Some(name) = unknown {
            let existing = existing.into_iter().map(|interface| interface.name).collect();
            return Err(Error::UnknownInterface { name: name.clone(), existing });
        }
        Ok(existing.into_iter().filter(|interface| names.contains(&interface.name)).collect())
    }
}

fn is_usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip != Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) => ip != Ipv6Addr::UNSPECIFIED && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_the_address_that_everyone_knows() {
        let addrs = Interfaces::Named(vec!["lo".to_owned()]).addrs().unwrap();
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(addrs.contains(&InterfaceAddr { ip, prefix_len: 8 }), "{addrs:?}");
        assert!(addrs.iter().all(|addr| addr.ip.is_loopback()), "{addrs:?}");
    }

    #[test]
    fn neighbours_share_the_prefix() {
        let addr = |ip: &str, prefix_len| InterfaceAddr { ip: ip.parse().unwrap(), prefix_len };
        let near = |own: InterfaceAddr, ip: &str| own.is_neighbour(ip.parse().unwrap());
        assert!(near(addr("10.0.3.7", 22), "10.0.1.9"));
        assert!(!near(addr("10.0.3.7", 22), "10.0.4.9"));
        assert!(near(addr("10.0.3.7", 0), "99.0.4.9"));
        assert!(!near(addr("10.0.3.7", 32), "10.0.3.8"));
        assert!(near(addr("fd00::7", 64), "fd00::1:2"));
        assert!(!near(addr("fd00::7", 64), "10.0.3.7"));
    }

    #[test]
    fn kinds_are_guessed_from_names() {
        let kinds = [
            ("lo", InterfaceKind::Loopback),
            ("wlan0", InterfaceKind::Wifi),
            ("wlp3s0", InterfaceKind::Wifi),
            ("ap0", InterfaceKind::Hotspot),
            ("eth0", InterfaceKind::Other),
            ("docker0", InterfaceKind::Container),
            ("wg0", InterfaceKind::Vpn),
            ("tun0", InterfaceKind::Vpn),
            ("rmnet_data1", InterfaceKind::Cellular),
        ];
        for (name, kind) in kinds {
            assert_eq!(InterfaceKind::guess(name), kind, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_exist() {
        let error = Interfaces::Named(vec!["lo".to_owned(), "nope0".to_owned()]).addrs();
        let Err(Error::UnknownInterface { name, existing }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(name, "nope0");
        assert!(existing.contains(&"lo".to_owned()), "{existing:?}");
    }
}
