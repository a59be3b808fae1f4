//! Routes about what was: `/log`, in words, and `/history`, in numbers.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{App, backend::Backend, error::ApiError, view::live};

/// Entries of the log that a node keeps, and so the most that can be asked for.
const ENTRIES_MAX: usize = 500;
/// Minutes that a node remembers.
const MINUTES_MAX: u64 = 60;

/// The query of `GET /log`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogQuery {
    /// Entries after this one.
    #[serde(default)]
    after: u64,
    /// The newest so many of them.
    limit: Option<usize>,
}

/// The query of `GET /history`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryQuery {
    minutes: Option<u64>,
}

pub(crate) async fn log<B: Backend>(
    State(app): State<App<B>>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::malformed(error.body_text()))?;
    let limit = query.limit.unwrap_or(ENTRIES_MAX);
    if !(1..=ENTRIES_MAX).contains(&limit) {
        let message = format!("expected 1 to {ENTRIES_MAX}, got {limit}");
        return Err(ApiError::invalid("limit", message));
    }
    Ok(Json(live::log(&app.backend.log(query.after, limit))))
}

pub(crate) async fn history<B: Backend>(
    State(app): State<App<B>>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::malformed(error.body_text()))?;
    let minutes = query.minutes.unwrap_or(MINUTES_MAX);
    if !(1..=MINUTES_MAX).contains(&minutes) {
        let message = format!("expected 1 to {MINUTES_MAX}, got {minutes}");
        return Err(ApiError::invalid("minutes", message));
    }
    Ok(Json(live::history(&app.backend.history(Duration::from_secs(60 * minutes)))))
}
