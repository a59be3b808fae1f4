//! Asking servers that listen inside a host.

use std::time::Duration;

use serde_json::Value;

use crate::{Error, Host, Result};

/// A debug build on a busy machine needs a good part of it.
const PATIENCE: Duration = Duration::from_secs(120);

impl Host {
    /// Sends a GET from inside the host; returns the status and the JSON, null where there is none.
    ///
    /// # Errors
    /// Returns an error if nobody answers.
    pub fn get(&self, url: &str) -> Result<(u16, Value)> {
        let answer = self.run(|| agent().get(url).call().map(read));
        answer.map_err(|source| failed("GET", url, source))
    }

    /// Sends a POST from inside the host; returns the status and the JSON, null where there is none.
    ///
    /// # Errors
    /// Returns an error if nobody answers.
    pub fn post(&self, url: &str, body: &Value) -> Result<(u16, Value)> {
        let answer = self.run(|| agent().post(url).send_json(body).map(read));
        answer.map_err(|source| failed("POST", url, source))
    }

    /// Sends a DELETE from inside the host; returns the status and the JSON, null where there is none.
    ///
    /// # Errors
    /// Returns an error if nobody answers.
    pub fn delete(&self, url: &str) -> Result<(u16, Value)> {
        let answer = self.run(|| agent().delete(url).call().map(read));
        answer.map_err(|source| failed("DELETE", url, source))
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .proxy(None);
    config.build().into()
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.body_mut().read_json().unwrap_or_default())
}

fn failed(method: &'static str, url: &str, source: ureq::Error) -> Error {
    Error::Http { method, url: url.to_owned(), source: Box::new(source) }
}
