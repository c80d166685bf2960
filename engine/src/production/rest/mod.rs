//! The REST API under `/v1`, and the page at `/`.
//!
//! ```text
//! request -> host -> origin -> who -> room for its body -> handler -> coordinator
//! ```
//!
//! Invariant: no handler blocks the runtime, and none decides what a version becomes: each
//! translates one request into one call of the coordinator, and its outcome into a status.
//! Bodies that are held at once are bounded in bytes.

mod batch;
mod conflicts;
mod dead_letters;
mod deadline;
mod door;
mod events;
mod health;
mod metrics;
mod page;
mod peers;
mod policies;
mod problem;
mod records;
mod redactions;
mod status;
mod stores;
mod syncs;
mod webhooks;

pub use door::Door;
pub use problem::{Kind, Problem};

use super::audit::{Audit, wall_ms};
use super::node::{Away, Node};
use super::peers::HttpPeers;
use super::reload::Reload;
use super::webhook::Webhooks;
use crate::coordinator::Coordinator;
use crate::env::{Clock, Env};
use crate::record::VALUE_BYTES_MAX;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use deadline::Deadline;
use door::Caller;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Largest batch request in bytes, base64 included.
pub const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most operations in one batch.
pub const BATCH_OPERATIONS_MAX: usize = 1_000;
/// Records in one page of a listing.
pub const PAGE_RECORDS_MAX: usize = 1_000;
/// Bodies held at once, in KiB. A request waits for room before its body is read.
const BODIES_KIB_MAX: u32 = 256 * 1024;

/// What the handlers share.
pub struct App<E: Env> {
    node: Arc<Node<E>>,
    door: Door,
    about: About,
    peers: Arc<HttpPeers>,
    reload: Arc<Reload>,
    audit: Audit,
    webhooks: Arc<Webhooks>,
    bodies: Semaphore,
    followers: Arc<Semaphore>,
}

/// What the server says of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// The data folder.
    pub folder: String,
    /// The address that it answers at.
    pub address: String,
    /// What kind of stores it keeps in step.
    pub stores: &'static str,
}

impl<E: Env> App<E> {
    /// Puts the API in front of a node.
    pub fn new(
        node: Arc<Node<E>>,
        door: Door,
        about: About,
        peers: Arc<HttpPeers>,
        reload: Arc<Reload>,
        audit: Audit,
        webhooks: Arc<Webhooks>,
    ) -> Arc<Self> {
        let bodies = Semaphore::new(BODIES_KIB_MAX as usize);
        let followers = Arc::new(Semaphore::new(events::FOLLOWERS_MAX));
        Arc::new(App { node, door, about, peers, reload, audit, webhooks, bodies, followers })
    }

    /// The routes.
    pub fn router(self: Arc<Self>) -> Router {
        let value_limit = DefaultBodyLimit::max(VALUE_BYTES_MAX);
        let records = get(records::get::<E>)
            .put(records::put::<E>)
            .delete(records::delete::<E>)
            .patch(records::patch::<E>)
            .layer(value_limit);
        let batch = post(batch::batch::<E>).layer(DefaultBodyLimit::max(BATCH_BYTES_MAX));
        let sync = post(syncs::sync::<E>).layer(DefaultBodyLimit::max(syncs::SYNC_BYTES_MAX));
        let members = get(peers::list::<E>)
            .post(peers::add::<E>)
            .layer(DefaultBodyLimit::max(peers::MEMBER_BYTES_MAX));
        let hear = post(peers::hear::<E>).layer(DefaultBodyLimit::max(peers::MESSAGE_BYTES_MAX));
        let reload =
            post(policies::reload::<E>).layer(DefaultBodyLimit::max(policies::POLICY_BYTES_MAX));
        let simulate =
            post(policies::simulate::<E>).layer(DefaultBodyLimit::max(policies::POLICY_BYTES_MAX));
        let dead_letter = get(dead_letters::get::<E>)
            .post(dead_letters::act::<E>)
            .delete(dead_letters::discard::<E>);
        let breaker =
            post(stores::force::<E>).layer(DefaultBodyLimit::max(stores::FORCE_BYTES_MAX));
        let resolve = post(conflicts::resolve::<E>)
            .layer(DefaultBodyLimit::max(conflicts::RESOLVE_BYTES_MAX));
        let redactions = get(redactions::preview::<E>)
            .post(redactions::redact::<E>)
            .layer(DefaultBodyLimit::max(redactions::REDACT_BYTES_MAX));
        let guarded = Router::new()
            .route("/v1/records/{dataset}", get(records::list::<E>))
            .route("/v1/records/{dataset}/", any(records::no_key))
            .route("/v1/records/{dataset}/{*key}", records)
            .route("/v1/records:batch", batch)
            .route("/v1/syncs", sync)
            .route("/v1/policies", get(policies::show::<E>))
            .route("/v1/policies:reload", reload)
            .route("/v1/policies:simulate", simulate)
            .route("/v1/operations/{id}", get(records::operation::<E>))
            .route("/v1/dead-letters", get(dead_letters::list::<E>))
            .route("/v1/dead-letters/{id}", dead_letter)
            .route("/v1/dead-letters/{id}/value", get(dead_letters::value::<E>))
            .route("/v1/conflicts", get(conflicts::list::<E>))
            .route("/v1/conflicts:resolve", resolve)
            .route("/v1/conflicts/{id}", get(conflicts::get::<E>).post(conflicts::act::<E>))
            .route("/v1/conflicts/{id}/lost", get(conflicts::lost::<E>))
            .route("/v1/redactions", redactions)
            .route("/v1/events", get(events::events::<E>))
            .route("/v1/webhooks", get(webhooks::list::<E>))
            .route("/v1/webhooks/{name}", get(webhooks::get::<E>))
            .route("/v1/webhooks/{name}/test", post(webhooks::test::<E>))
            .route("/v1/webhooks/{name}/dead-letters/{id}/retry", post(webhooks::retry::<E>))
            .route("/v1/webhooks/{name}/dead-letters/{id}/discard", post(webhooks::discard::<E>))
            .route("/v1/stores", get(stores::list::<E>))
            .route("/v1/stores/{store}/breaker", breaker)
            .route("/v1/status", get(status::status::<E>))
            .route("/v1/metrics", get(metrics::metrics::<E>))
            .route("/v1/peers", members)
            .route("/v1/peers/{node}", delete(peers::retire::<E>))
            .route("/v1/peers:leave", post(peers::leave::<E>))
            .method_not_allowed_fallback(no_method)
            .layer(from_fn_with_state(self.clone(), room_for_body::<E>))
            .layer(from_fn_with_state(self.clone(), known_callers::<E>));
        let open = Router::new()
            .route("/v1/peer", hear)
            .route("/v1/health/live", get(health::live::<E>))
            .route("/v1/health/ready", get(health::ready::<E>))
            .route("/", get(page::page::<E>))
            .route("/login", post(page::login::<E>).layer(DefaultBodyLimit::max(4096)))
            .route("/logout", post(page::logout::<E>).layer(DefaultBodyLimit::max(4096)))
            .method_not_allowed_fallback(no_method);
        guarded
            .merge(open)
            .fallback(no_address)
            .layer(from_fn_with_state(self.clone(), own_names::<E>))
            .with_state(self)
    }

    /// Logs what an operator has done.
    async fn log(&self, action: &str, target: &str, reason: &str) {
        self.audit.operator(wall_ms(&self.node), action, target, reason).await;
    }

    /// The coordinator, for a write; without one, nothing was written.
    fn writer(&self) -> Result<Arc<Coordinator<E>>, Problem> {
        self.node.writer().map_err(|away| Problem::from(away).refused())
    }

    fn now(&self) -> Duration {
        self.node.env().clock().monotonic()
    }
}

impl From<Away> for Problem {
    fn from(away: Away) -> Self {
        match away {
            Away::Recovering { why } => Problem::new(
                Kind::Recovering,
                format!("the journal failed and is being replayed ({why}); try again"),
            ),
            Away::Draining => Problem::new(
                Kind::Stopping,
                "the server is stopping and takes no new writes; try again once it is back",
            ),
        }
    }
}

/// Answers only under the server's own names, and to its own pages; marks every answer as not to
/// be cached, framed or guessed at.
async fn own_names<E: Env>(
    State(app): State<Arc<App<E>>>,
    request: Request,
    next: Next,
) -> Response {
    let checked = app
        .door
        .check_host(request.headers(), request.uri())
        .and_then(|()| app.door.check_origin(request.headers()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn known_callers<E: Env>(
    State(app): State<Arc<App<E>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let arrived = app.now();
    let caller: Caller = app.door.caller(request.headers(), arrived);
    let admitted = app.door.admit(&caller, request.method(), request.headers());
    match admitted.and_then(|()| Deadline::of(request.headers(), arrived)) {
        Ok(deadline) => {
            request.extensions_mut().insert(deadline);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Waits until the request's body fits beside those that are held already.
async fn room_for_body<E: Env>(
    State(app): State<Arc<App<E>>>,
    request: Request,
    next: Next,
) -> Response {
    let bytes = match announced_bytes(request.headers()) {
        None => 0,
        Some(Announced::Bytes(bytes)) if bytes > VALUE_BYTES_MAX as u64 => {
            return too_large(VALUE_BYTES_MAX).into_response();
        }
        Some(Announced::Bytes(bytes)) => bytes,
        Some(Announced::Unsaid) => VALUE_BYTES_MAX as u64,
    };
    let kib = u32::try_from(bytes.div_ceil(1024)).expect("at most the largest value");
    let deadline = request.extensions().get().copied().unwrap_or(Deadline(None));
    let room = match deadline.within(&app, app.bodies.acquire_many(kib)).await {
        Ok(room) => room.expect("the semaphore is never closed"),
        Err(problem) => return problem.refused().into_response(),
    };
    let response = next.run(request).await;
    drop(room);
    response
}

enum Announced {
    Bytes(u64),
    Unsaid,
}

fn announced_bytes(headers: &HeaderMap) -> Option<Announced> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Some(Announced::Unsaid);
    }
    let length = headers.get(header::CONTENT_LENGTH)?;
    // Malformed lengths never get here: the HTTP parser refuses them.
    Some(length.to_str().ok()?.parse().map_or(Announced::Unsaid, Announced::Bytes))
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("the request's body has more than the {bytes_max} bytes that are allowed here"),
    )
    .refused()
}

async fn no_method() -> Problem {
    Problem::new(Kind::MethodNotAllowed, "this address does not take this method")
}

async fn no_address() -> Problem {
    Problem::new(
        Kind::NoSuchAddress,
        "there is nothing at this address; records are at /v1/records/DATASET/KEY, the state at \
         /v1/status",
    )
}
