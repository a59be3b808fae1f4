//! Which network interfaces a node uses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::Error;

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

/// The interfaces that exist, with their addresses.
fn list() -> Result<Vec<(String, Vec<InterfaceAddr>)>, Error> {
    let error = |source| Error::ListInterfaces { source };
    let interfaces = getifs::interfaces().map_err(error)?;
    interfaces
        .iter()
        .map(|interface| {
            let addrs = interface.addrs().map_err(error)?;
            let addrs = addrs
                .iter()
                .map(|net| InterfaceAddr { ip: net.addr(), prefix_len: net.prefix_len() });
            Ok((interface.name().to_string(), addrs.collect()))
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
        let existing = list()?;
        let names = match self {
            Self::All => existing.iter().map(|(name, _)| name.clone()).collect(),
            Self::Named(names) => names.clone(),
        };
        let mut addrs = BTreeSet::new();
        for name in &names {
            let Some((_, of_interface)) = existing.iter().find(|(existing, _)| existing == name)
            else {
                let existing = existing.into_iter().map(|(name, _)| name).collect();
                return Err(Error::UnknownInterface { name: name.clone(), existing });
            };
            addrs.extend(of_interface.iter().filter(|addr| is_usable(addr.ip)));
        }
        if addrs.is_empty() && matches!(self, Self::Named(_)) {
            return Err(Error::NoAddress { names });
        }
        Ok(addrs.into_iter().collect())
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
    fn an_unknown_name_is_refused_with_those_that_exist() {
        let error = Interfaces::Named(vec!["lo".to_owned(), "nope0".to_owned()]).addrs();
        let Err(Error::UnknownInterface { name, existing }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(name, "nope0");
        assert!(existing.contains(&"lo".to_owned()), "{existing:?}");
    }
}
