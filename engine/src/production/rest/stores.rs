//! `/v1/stores`: how each store does, and its breaker in an operator's hands.

use super::App;
use super::dead_letters::reason;
use super::problem::{Kind, Problem};
use super::records::{bad, body_problem};
use crate::breaker::Force;
use crate::coordinator::{Coordinator, ForceError, Kept};
use crate::env::Env;
use crate::record::StoreId;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Largest request in bytes.
pub const FORCE_BYTES_MAX: usize = 16 * 1024;

pub(super) async fn list<E: Env>(State(app): State<Arc<App<E>>>) -> Result<Response, Problem> {
    let status = app.node.reader()?.status();
    Ok(axum::Json(json!({ "stores": status.stores })).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    state: Wanted,
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Open,
    Closed,
    Auto,
}

impl Wanted {
    /// The verb of the command line.
    fn verb(self) -> &'static str {
        match self {
            Wanted::Open => "open",
            Wanted::Closed => "close",
            Wanted::Auto => "auto",
        }
    }
}

/// `POST /v1/stores/{store}/breaker`.
pub(super) async fn force<E: Env>(
    State(app): State<Arc<App<E>>>,
    store: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Path(store) = store.map_err(|error| bad(error.body_text()))?;
    let store: StoreId = store.parse().map_err(bad)?;
    let body = body.map_err(|rejection| body_problem(&rejection, FORCE_BYTES_MAX))?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|error| {
        bad(format!(
            "the request: {error}; give {{\"state\": \"open\", \"closed\" or \"auto\", \
             \"reason\": \"…\"}}"
        ))
    })?;
    let reason = reason(asked.reason.as_deref(), "setting a store's breaker")?;
    let to = match asked.state {
        Wanted::Open => Some(Force::Open),
        Wanted::Closed => Some(Force::Closed),
        Wanted::Auto => None,
    };
    // A server that stops may still be told to hold a store, and what it is told is kept.
    let coordinator = app.node.reader()?;
    let kept = coordinator.force_breaker(store, to, &reason).await.map_err(|error| {
        let kind = match &error {
            ForceError::Journal(_) => Kind::OutcomeUnknown,
            ForceError::Stopping => Kind::Stopping,
        };
        Problem::new(kind, error.to_string())
    })?;
    app.log(&format!("store {}", asked.state.verb()), store.name(), &reason).await;
    let mut shown = shown(&coordinator, store);
    shown["kept_over_restarts"] = json!(kept == Kept::OverRestarts);
    Ok(axum::Json(shown).into_response())
}

fn shown<E: Env>(coordinator: &Coordinator<E>, store: StoreId) -> Value {
    let stores = coordinator.status().stores;
    json!(stores.into_iter().find(|status| status.store == store))
}
