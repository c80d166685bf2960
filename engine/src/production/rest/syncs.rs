//! `/v1/syncs`: looks over the stores when an operator asks for it.

use super::App;
use super::problem::{Kind, Problem};
use super::records::{bad, body_problem, known};
use crate::coordinator::{Leave, Pass, PassError};
use crate::env::Env;
use crate::record::StoreId;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// Largest request in bytes.
pub const SYNC_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    /// `None`: all.
    dataset: Option<String>,
    /// `None`: KV and R2, where the dataset is kept there.
    store: Option<StoreId>,
    /// Look, and change nothing.
    dry_run: bool,
    /// Mend even if the plan looks wrong.
    approve: bool,
}

pub(super) async fn sync<E: Env>(
    State(app): State<Arc<App<E>>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| body_problem(&rejection, SYNC_BYTES_MAX))?;
    let asked: Asked = if body.is_empty() {
        Asked::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| bad(format!("the request: {error}")))?
    };
    let leave = match (asked.dry_run, asked.approve) {
        (true, true) => {
            return Err(bad("`dry_run` changes nothing, so there is nothing to approve"));
        }
        (true, false) => Leave::Look,
        (false, true) => Leave::MendAll,
        (false, false) => Leave::Mend,
    };
    let coordinator = app.writer()?;
    if asked.approve {
        let dataset = asked.dataset.as_deref().unwrap_or("every dataset");
        let store = asked.store.map_or("KV and R2", StoreId::name);
        app.log("sync approve", &format!("{dataset} in {store}"), "").await;
    }
    let policy = coordinator.policy();
    let datasets = match &asked.dataset {
        Some(name) => vec![known(&policy, name)?],
        None => policy.datasets.values().collect(),
    };
    let mut passes: Vec<Pass> = Vec::new();
    for dataset in datasets {
        let stores = dataset.projections().filter(|s| asked.store.is_none_or(|asked| asked == *s));
        for store in stores {
            let pass = coordinator.look_over(&dataset.name, store, leave).await;
            passes.push(pass.map_err(|error| refused(&dataset.name, store, &error))?);
        }
    }
    let clean = passes.iter().all(Pass::is_clean);
    Ok(axum::Json(json!({ "clean": clean, "passes": passes })).into_response())
}

fn refused(dataset: &str, store: StoreId, error: &PassError) -> Problem {
    let kind = match error {
        PassError::NotKept => Kind::BadRequest,
        PassError::Incomplete => Kind::NotReady,
        PassError::Unavailable(_) => Kind::StoreUnavailable,
    };
    Problem::new(kind, format!("{dataset} in {store}: {error}"))
}
