//! Routes about models and downloads: `/models`, `/download/…`, `/downloads`.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shoal_node::{Error, hub::LibraryError};

use crate::{
    App,
    backend::Backend,
    body::JsonBody,
    error::ApiError,
    view::{DiskView, DownloadView, OfferView, SearchHitView, StoredView},
};

/// Hits of a search unless the client says how many.
const HITS_DEFAULT: usize = 20;
/// Most hits of a search: a page of the hub's.
const HITS_MAX: usize = 100;

/// The query of `GET /models`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelsQuery {
    status: Option<Status>,
    quants: Option<Quants>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// The catalogue.
    Known,
    /// What is on this device.
    Downloaded,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Quants {
    /// For each model the one that would be taken.
    Best,
    /// Each for itself.
    All,
}

/// What `GET /models` answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Models {
    Known { models: Vec<OfferView> },
    Downloaded { models: Vec<StoredView> },
}

/// The query of `GET /models/search`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchQuery {
    query: String,
    limit: Option<usize>,
}

/// The body of `POST /download/start`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartBody {
    /// Whatever names a model.
    model: String,
    /// Whether another version than the hub's newest is replaced.
    #[serde(default)]
    update: bool,
}

/// The body of the routes about a download.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DownloadBody {
    /// The model's name, as `POST /download/start` has told it.
    model: String,
}

pub(crate) async fn models<B: Backend>(
    State(app): State<App<B>>,
    query: Result<Query<ModelsQuery>, QueryRejection>,
) -> Result<Json<Models>, ApiError> {
    let query = read(query)?;
    Ok(Json(match query.status {
        Some(Status::Downloaded) => {
            let stored = app.backend.stored().await?;
            Models::Downloaded { models: stored.into_iter().map(StoredView::from).collect() }
        }
        Some(Status::Known) | None => {
            let every_quant = matches!(query.quants, Some(Quants::All));
            let offers = app.backend.offers(every_quant).await?;
            Models::Known { models: offers.into_iter().map(OfferView::from).collect() }
        }
    }))
}

pub(crate) async fn search<B: Backend>(
    State(app): State<App<B>>,
    query: Result<Query<SearchQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let query = read(query)?;
    if query.query.trim().is_empty() {
        return Err(ApiError::invalid("query", "expected words to look for, got none"));
    }
    let limit = query.limit.unwrap_or(HITS_DEFAULT);
    if !(1..=HITS_MAX).contains(&limit) {
        let message = format!("expected 1 to {HITS_MAX}, got {limit}");
        return Err(ApiError::invalid("limit", message));
    }
    let hits = app.backend.search(&query.query, limit).await?;
    let hits: Vec<SearchHitView> = hits.into_iter().map(SearchHitView::from).collect();
    Ok(Json(json!({"models": hits})))
}

pub(crate) async fn start<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<StartBody>,
) -> Result<Json<Value>, ApiError> {
    let model = app.backend.pull(&body.model, body.update).await?;
    Ok(Json(json!({"model": model})))
}

pub(crate) async fn pause<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<DownloadBody>,
) -> Result<Json<Value>, ApiError> {
    app.backend.pause(&body.model).await?;
    Ok(Json(json!({"model": body.model, "state": "paused"})))
}

pub(crate) async fn resume<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<DownloadBody>,
) -> Result<Json<Value>, ApiError> {
    app.backend.resume(&body.model)?;
    Ok(Json(json!({"model": body.model, "state": "running"})))
}

/// Ends a download for good and removes what it has fetched. A model that is complete is no download any more: it is removed
/// by `DELETE /models/{name}` and by nothing else.
pub(crate) async fn cancel<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<DownloadBody>,
) -> Result<Json<Value>, ApiError> {
    let download = downloads_of(&app.backend).into_iter().find(|it| it.model == body.model);
    if download.is_none_or(|download| download.state == "complete") {
        return Err(Error::from(LibraryError::NoDownload { name: body.model }).into());
    }
    let report = app.backend.remove(&body.model).await?;
    Ok(Json(json!({"model": report.name, "state": "cancelled", "n_bytes": report.n_bytes})))
}

pub(crate) async fn downloads<B: Backend>(State(app): State<App<B>>) -> Json<Value> {
    Json(json!({"downloads": downloads_of(&app.backend)}))
}

pub(crate) async fn remove<B: Backend>(
    State(app): State<App<B>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let report = app.backend.remove(&name).await?;
    let left: Vec<String> =
        report.left.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    Ok(Json(json!({
        "model": report.name, "deleted": true, "n_bytes": report.n_bytes, "left": left,
    })))
}

/// The downloads, as they are shown.
pub(crate) fn downloads_of<B: Backend>(backend: &B) -> Vec<DownloadView> {
    backend.downloads().into_iter().map(DownloadView::from).collect()
}

/// The disk; `None` if the node keeps no models, or the system does not tell.
pub(crate) async fn disk_of<B: Backend>(backend: &B) -> Option<DiskView> {
    let space = backend.space().await.ok()?;
    let dir = backend.models_dir()?.to_string_lossy().into_owned();
    Some(DiskView { dir, free_bytes: space.free(), total_bytes: space.total })
}

fn read<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
    Ok(query)
}
