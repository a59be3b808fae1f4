//! Origins as browsers write them: who made the page that asks.

use std::{fmt, str::FromStr};

use axum::http::{HeaderValue, uri::Authority};

/// An origin: scheme, host, and the port if it is not the scheme's own, like `https://chat.example` or `http://localhost:3000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// What was taken for an origin and is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "origin {got:?}: expected one like https://chat.example or http://localhost:3000, got {why}"
)]
pub struct OriginError {
    /// What was given.
    got: String,
    /// What is wrong with it.
    why: &'static str,
}

impl Origin {
    /// Whether a header names this origin.
    pub(super) fn is(&self, header: &HeaderValue) -> bool {
        header.as_bytes().eq_ignore_ascii_case(self.0.as_bytes())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    /// Takes what a browser would send, and nothing that it never would: such an origin would be allowed and never match.
    fn from_str(text: &str) -> Result<Self, OriginError> {
        let refuse = |why| Err(OriginError { got: text.to_owned(), why });
        if text.eq_ignore_ascii_case("null") {
            return refuse("the origin of files and sandboxes, which anybody's page can have");
        }
        if text.contains('*') {
            return refuse("a pattern: each origin is named by itself");
        }
        let Some((scheme, host)) = text.split_once("://") else {
            return refuse("no scheme");
        };
        let is_letter = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(is_letter)
        {
            return refuse("no scheme");
        }
        if host.contains(['/', '?', '#']) {
            return refuse("more than scheme, host and port: a path, or a slash at its end");
        }
        if !host.is_ascii() {
            return refuse("letters that browsers write otherwise: use the xn-- form of the name");
        }
        let authority = match host.parse::<Authority>() {
            Ok(authority) if !authority.host().is_empty() && !host.contains('@') => authority,
            _ => return refuse("no host"),
        };
        let port = host.strip_prefix(authority.host()).unwrap_or_default();
        let is_usual = match scheme.to_ascii_lowercase().as_str() {
            "http" => port == ":80",
            "https" => port == ":443",
            _ => false,
        };
        if is_usual || port == ":" {
            return refuse("the scheme's own port, which browsers leave out");
        }
        if !port.is_empty() && authority.port_u16().is_none() {
            return refuse("no port from 1 to 65535");
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_send_is_an_origin() {
        for text in [
            "https://chat.example",
            "http://localhost:3000",
            "HTTP://Chat.Example:8080",
            "http://192.168.1.5:3000",
            "http://[::1]:3000",
            "chrome-extension://abcdefghijklmnop",
            "https://xn--bcher-kva.example",
        ] {
            let origin: Origin = text.parse().expect(text);
            assert_eq!(origin.to_string(), text);
            assert!(origin.is(&text.to_ascii_lowercase().parse().expect("a header")));
        }
    }

    #[test]
    fn what_they_never_send_is_refused_and_told_why() {
        for (text, why) in [
            ("", "no scheme"),
            ("null", "sandboxes"),
            ("*", "a pattern"),
            ("https://*.example", "a pattern"),
            ("chat.example", "no scheme"),
            ("//chat.example", "no scheme"),
            ("://chat.example", "no scheme"),
            ("1http://chat.example", "no scheme"),
            ("https:chat.example", "no scheme"),
            ("https://", "no host"),
            ("https://:3000", "no host"),
            ("https://user@chat.example", "no host"),
            ("https://chat example", "no host"),
            ("https://chat.example/", "a slash at its end"),
            ("https://chat.example/app", "a path"),
            ("https://chat.example?x", "more than"),
            ("https://bücher.example", "xn--"),
            ("https://chat.example:443", "own port"),
            ("http://chat.example:80", "own port"),
            ("http://chat.example:", "own port"),
            ("http://chat.example:99999", "no port"),
        ] {
            let error = text.parse::<Origin>().expect_err(text).to_string();
            assert!(error.contains(why) && error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
