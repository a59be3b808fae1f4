//! `GET /settings`, `PATCH /settings`: what the owner of this device sets, and who else reaches it.
//!
//! The token is shown to those only who know it or are on this device, and where the data lies to those only who are on it.

use std::net::{IpAddr, SocketAddr};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use shoal_node::{Setting, SettingStatus, SettingValue};

use crate::{Access, App, backend::Backend, body::JsonBody, error::ApiError, guard::Known, qr};

pub(crate) async fn show<B: Backend>(State(app): State<App<B>>, known: Known) -> Response {
    shown(&app, &known)
}

pub(crate) async fn change<B: Backend>(
    State(app): State<App<B>>,
    known: Known,
    JsonBody(body): JsonBody<Map<String, Value>>,
) -> Result<Response, ApiError> {
    let changes = body.iter().map(|(name, value)| {
        let setting = Setting::of_name(name).ok_or_else(|| unknown(name))?;
        Ok((setting, read(setting, value)?))
    });
    let changes = changes.collect::<Result<Vec<_>, ApiError>>()?;
    app.backend.change_settings(changes).await?;
    Ok(shown(&app, &known))
}

fn unknown(name: &str) -> ApiError {
    let known = Setting::ALL.map(Setting::as_str).join(", ");
    ApiError::invalid(name, format!("no such setting: expected some of {known}"))
}

/// What a value of the body means; `None` for the default.
fn read(setting: Setting, value: &Value) -> Result<Option<SettingValue>, ApiError> {
    Ok(Some(match value {
        Value::Null if setting == Setting::DownloadRate => SettingValue::Unlimited,
        Value::Null => return Ok(None),
        Value::Bool(is_on) => SettingValue::Switch(*is_on),
        Value::String(text) => SettingValue::Text(text.clone()),
        Value::Number(number) => match number.as_u64() {
            Some(number) => SettingValue::Number(number),
            None => {
                let message = format!("expected a whole number from 0 on, got {number}");
                return Err(ApiError::invalid(setting.as_str(), message));
            }
        },
        Value::Array(_) | Value::Object(_) => {
            let message = "expected a text, a number, true, false or null, got something else";
            return Err(ApiError::invalid(setting.as_str(), message));
        }
    }))
}

fn shown<B: Backend>(app: &App<B>, known: &Known) -> Response {
    let settings: Map<String, Value> = app
        .backend
        .settings()
        .iter()
        .map(|status| (status.setting.as_str().to_owned(), setting(status)))
        .collect();
    let dir = app.backend.data_dir().filter(|_| known.is_here);
    let body = Json(json!({
        "settings": settings,
        "is_persisted": app.backend.keeps_settings(),
        "lan": lan(&app.access, &app.backend.addrs(), known),
        "is_here": known.is_here,
        "data_dir": dir.map(|dir| dir.to_string_lossy().into_owned()),
    }));
    // It may have the token in it.
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], body).into_response()
}

fn setting(status: &SettingStatus) -> Value {
    let mut shown = json!({
        "value": value(&status.value),
        "default": value(&status.default),
        "fixed_by": status.is_fixed.then_some("flag"),
    });
    if let Some((min, max)) = status.setting.range() {
        (shown["min"], shown["max"]) = (min.into(), max.into());
    }
    shown
}

fn value(value: &SettingValue) -> Value {
    match value {
        SettingValue::Text(text) => text.as_str().into(),
        SettingValue::Number(number) => (*number).into(),
        SettingValue::Switch(is_on) => (*is_on).into(),
        SettingValue::Unlimited => Value::Null,
    }
}

/// Who in the local network reaches this node, and how.
fn lan(access: &Access, own: &[SocketAddr], known: &Known) -> Value {
    let is_open = access.token.is_some() && !access.address.ip().is_loopback();
    let urls = if is_open { lan_urls(access.address, own) } else { Vec::new() };
    let token = access.token.as_deref().filter(|_| known.may_know_token());
    let with_token = urls.first().zip(token).map(|(url, token)| format!("{url}?token={token}"));
    json!({
        "is_open": is_open,
        "urls": urls,
        "token_required": access.token.is_some(),
        "token": token,
        // An address that is too long for a code is none.
        "qr": with_token.as_deref().and_then(|url| qr::view(url).ok()),
        "url_with_token": with_token,
    })
}

/// The page's addresses for other devices, the likeliest first: of a node that listens there, and has these addresses itself.
pub fn lan_urls(listening: SocketAddr, own: &[SocketAddr]) -> Vec<String> {
    let mut ips: Vec<IpAddr> = if listening.ip().is_unspecified() {
        let same_family = |ip: &IpAddr| ip.is_ipv4() || listening.is_ipv6();
        own.iter().map(SocketAddr::ip).filter(same_family).collect()
    } else {
        vec![listening.ip()]
    };
    ips.dedup();
    let url = |ip: IpAddr| format!("http://{}/", SocketAddr::new(ip, listening.port()));
    ips.into_iter().map(url).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_those_of_the_network() {
        let own =
            ["192.168.1.5:1".parse().expect("an address"), "[fd00::1]:1".parse().expect("one")];
        let everywhere = "0.0.0.0:52415".parse().expect("an address");
        assert_eq!(lan_urls(everywhere, &own), ["http://192.168.1.5:52415/"]);
        let both = "[::]:52415".parse().expect("an address");
        assert_eq!(lan_urls(both, &own).len(), 2);
        let one = "127.0.0.1:80".parse().expect("an address");
        assert_eq!(lan_urls(one, &own), ["http://127.0.0.1:80/"]);
    }
}
