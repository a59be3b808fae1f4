//! A relay of the user's own, for networks whose devices cannot reach each other: it passes on packets that it cannot read.
//!
//! Every node of the cluster names the same one. It is used where no direct way works; connections move to a direct way as
//! soon as there is one. Its name is looked up by the system, since the transport's own resolver does not work in Termux.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
    str::FromStr,
};

use iroh::{
    NetReportConfig, RelayMap, RelayMode, RelayUrl,
    dns::{BoxIter, DnsError, DnsResolver, Resolver, TxtRecordData},
};

/// Where the relay is.
#[derive(Clone, PartialEq, Eq)]
pub struct Relay(RelayUrl);

/// A text that is no relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("relay: expected an http or https URL like https://relay.example, got {got:?}")]
pub struct RelayError {
    /// The text as it was given.
    pub got: String,
}

impl FromStr for Relay {
    type Err = RelayError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || RelayError { got: text.chars().take(200).collect() };
        let url: RelayUrl = text.trim().parse().map_err(|_| error())?;
        let is_web = matches!(url.scheme(), "http" | "https") && url.host().is_some();
        if is_web { Ok(Self(url)) } else { Err(error()) }
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relay({})", self.0)
    }
}

impl Relay {
    pub(crate) fn url(&self) -> RelayUrl {
        self.0.clone()
    }
}

/// How the transport uses a relay, or that it uses none: never a public one.
pub(crate) fn mode(relay: Option<&Relay>) -> RelayMode {
    relay.map_or(RelayMode::Disabled, |relay| RelayMode::Custom(RelayMap::from(relay.url())))
}

/// What the transport finds out about the network: with a relay, whether that can be reached; else nothing.
pub(crate) fn net_report(relay: Option<&Relay>) -> NetReportConfig {
    if relay.is_some() { NetReportConfig::default() } else { NetReportConfig::minimal() }
}

/// The resolver of the transport: without a relay there is no name to look up, and so nothing that could be asked.
pub(crate) fn resolver(relay: Option<&Relay>) -> DnsResolver {
    match relay {
        Some(_) => DnsResolver::custom(SystemResolver),
        None => DnsResolver::builder().disable_fallback().build(),
    }
}

/// Looks names up as every other program of the system does.
#[derive(Debug, Clone, Copy)]
struct SystemResolver;

type Lookup<T> = Pin<Box<dyn Future<Output = Result<BoxIter<T>, DnsError>> + Send>>;

/// A name that is not found has no addresses.
async fn look_up(host: String) -> Vec<IpAddr> {
    match tokio::net::lookup_host((host.as_str(), 0)).await {
        Ok(addrs) => addrs.map(|addr| addr.ip()).collect(),
        Err(error) => {
            tracing::warn!(host, %error, "the relay's name is not found");
            Vec::new()
        }
    }
}

impl Resolver for SystemResolver {
    fn lookup_ipv4(&self, host: String) -> Lookup<Ipv4Addr> {
        Box::pin(async move {
            let ips = look_up(host).await.into_iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            });
            Ok(Box::new(ips) as BoxIter<Ipv4Addr>)
        })
    }

    fn lookup_ipv6(&self, host: String) -> Lookup<Ipv6Addr> {
        Box::pin(async move {
            let ips = look_up(host).await.into_iter().filter_map(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            });
            Ok(Box::new(ips) as BoxIter<Ipv6Addr>)
        })
    }

    fn lookup_txt(&self, _: String) -> Lookup<TxtRecordData> {
        Box::pin(async { Ok(Box::new(std::iter::empty()) as BoxIter<TxtRecordData>) })
    }

    fn clear_cache(&self) {}

    fn reset(&self) -> Box<dyn Resolver> {
        Box::new(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_a_url() {
        for text in ["https://relay.example", "http://192.168.1.2:3340", " https://[::1]:443/ "] {
            assert!(text.parse::<Relay>().is_ok(), "{text}");
        }
        for text in ["", "relay.example", "ftp://relay.example", "https://"] {
            assert!(text.parse::<Relay>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn names_are_looked_up_by_the_system() {
        let mut found = SystemResolver.lookup_ipv4("localhost".into()).await.unwrap();
        assert!(found.any(|ip| ip.is_loopback()));
    }
}
