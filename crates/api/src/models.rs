//! `GET /v1/models` and `GET /v1/models/{id}`: what requests may name.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use shoal_node::{Error, ModelEntry};

use crate::{App, backend::Backend, error::ApiError};

#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// OpenAI's model object, and after `owned_by` what this node knows besides.
#[derive(Debug, Serialize)]
pub(crate) struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    n_ctx: u32,
    n_layer: u32,
    architecture: String,
    n_bytes: u64,
}

impl From<ModelEntry> for ModelObject {
    fn from(model: ModelEntry) -> Self {
        Self {
            id: model.id,
            object: "model",
            created: model.created_s,
            owned_by: "shoal",
            n_ctx: model.n_ctx,
            n_layer: model.n_layer,
            architecture: model.architecture,
            n_bytes: model.n_bytes,
        }
    }
}

pub(crate) async fn list<B: Backend>(State(app): State<App<B>>) -> Json<ModelList> {
    let models = app.backend.models().await;
    Json(ModelList { object: "list", data: models.into_iter().map(ModelObject::from).collect() })
}

pub(crate) async fn show<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<ModelObject>, ApiError> {
    let mut models = app.backend.models().await;
    match models.iter().position(|model| model.id == id) {
        Some(i) => Ok(Json(models.swap_remove(i).into())),
        None => {
            let known = models.into_iter().map(|model| model.id).collect();
            Err(Error::UnknownModel { name: id, known }.into())
        }
    }
}
