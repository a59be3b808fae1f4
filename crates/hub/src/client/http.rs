//! The constructor of the HTTP client, where everything is settled that differs between a phone and a PC.
//!
//! - TLS is a rustls configuration of our own. What reqwest would build asks Android for its certificates over JNI and panics
//!   in Termux, where there is no Java. Roots are those of Mozilla, which are part of the binary, and those that the system
//!   has in files, for networks with a certificate authority of their own.
//! - Names are resolved by `getaddrinfo`: Termux has no `/etc/resolv.conf` for a resolver of our own to read.
//! - HTTP/1.1 only: parallel ranges are then parallel connections, and one lost packet holds up one of them.
//! - Bodies are taken as they are. A range of a compressed body is not a range of the file.
//! - Redirects and retries are done by `exchange` and `retry`, which know where the token may go.
//! - Proxies are those that the environment names, but this device is never asked for through one.

use std::sync::Arc;

use reqwest::{Client, ClientBuilder, redirect};
use rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use super::{HubTiming, error::HubError};

const USER_AGENT: &str = concat!("shoal/", env!("CARGO_PKG_VERSION"));

/// Two clients, which differ in their proxies.
pub(super) struct Http {
    outside: Client,
    loopback: Client,
}

impl Http {
    pub(super) fn new(timing: &HubTiming) -> Result<Self, HubError> {
        let tls = tls()?;
        let build = |builder: ClientBuilder| {
            builder.build().map_err(|error| HubError::Setup { reason: describe(&error) })
        };
        Ok(Self {
            outside: build(builder(timing, tls.clone()))?,
            loopback: build(builder(timing, tls).no_proxy())?,
        })
    }

    /// The client for a URL.
    pub(super) fn for_url(&self, url: &Url) -> &Client {
        if is_loopback(url) { &self.loopback } else { &self.outside }
    }
}

/// Whether a URL leads to this device.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that sets up TLS by itself")]
fn builder(timing: &HubTiming, tls: ClientConfig) -> ClientBuilder {
    // Features that another crate turns on change reqwest's defaults, so they are all turned off by hand.
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_hickory_dns()
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .http1_only()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .user_agent(USER_AGENT)
        .connect_timeout(timing.connect)
}

fn tls() -> Result<ClientConfig, HubError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "some of the system's certificates cannot be read");
    }
    let (n_added, n_ignored) = roots.add_parsable_certificates(system.certs);
    tracing::debug!(n_added, n_ignored, "read the system's certificates");

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HubError::Setup { reason: error.to_string() })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// An error with its causes, on one line.
fn describe(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
