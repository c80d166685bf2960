//! `/v1/peer`, where other coordinators speak to this one; `/v1/peers`, where an operator says
//! which these are; `/v1/peers:leave`, by which this one comes to be one no more.

use super::App;
use super::problem::{Kind, Problem};
use super::records::{bad, body_problem};
use crate::env::Env;
use crate::production::peers::{Known, Member, MemberError};
use crate::production::wire::{self, Envelope};
use crate::version::NodeId;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;

/// Largest description of a peer in bytes.
pub const MEMBER_BYTES_MAX: usize = 4 * 1024;
/// Largest message of a peer in bytes, packed.
pub const MESSAGE_BYTES_MAX: usize = wire::MESSAGE_BYTES_MAX;

pub(super) async fn hear<E: Env>(
    State(app): State<Arc<App<E>>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let presented = text("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if !app.peers.is_secret(presented.trim()) {
        return Err(Problem::new(
            Kind::Unauthorized,
            "the peers' secret is not this coordinator's; the file `peer-token` must hold the \
             same in the data folders of all",
        ));
    }
    let spoken = text(wire::VERSION_HEADER);
    if spoken != wire::VERSION {
        return Err(Problem::new(
            Kind::WireVersion,
            format!(
                "the peer speaks version {spoken:?} of the wire and this coordinator {:?}; run \
                 builds that speak the same",
                wire::VERSION
            ),
        ));
    }
    let body = body.map_err(|rejection| body_problem(&rejection, MESSAGE_BYTES_MAX))?;
    let envelope: Envelope = wire::unpack(&body, wire::MESSAGE_BYTES_MAX)
        .map_err(|error| bad(format!("the peer's message: {error}")))?;
    let own = app.peers.own();
    if envelope.to != own.node {
        return Err(bad(format!(
            "the message is for coordinator {} and this is {}; the peer has a wrong address",
            envelope.to.0, own.node.0
        )));
    }
    let reply = app.node.reader().map_err(Problem::from)?.receive(envelope.message).await;
    let packed = wire::pack(&reply)
        .map_err(|error| Problem::new(Kind::NotReady, format!("the answer: {error}")))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], packed).into_response())
}

pub(super) async fn list<E: Env>(State(app): State<Arc<App<E>>>) -> Response {
    let own = app.peers.own();
    let members: Vec<_> = app
        .peers
        .members()
        .into_iter()
        .map(|(member, known)| {
            json!({
                "node": member.node, "site": member.site, "url": member.url, "known": known,
                "shares_stores": member.site == own.site,
            })
        })
        .collect();
    axum::Json(json!({ "node": own.node, "site": own.site, "peers": members })).into_response()
}

pub(super) async fn add<E: Env>(
    State(app): State<Arc<App<E>>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| body_problem(&rejection, MEMBER_BYTES_MAX))?;
    let member: Member =
        serde_json::from_slice(&body).map_err(|error| bad(format!("the peer: {error}")))?;
    app.peers.add(member.clone()).map_err(problem)?;
    tracing::info!(node = %member.node, url = member.url, "a peer was added");
    app.log("peer add", &format!("{} of {} at {}", member.node, member.site, member.url), "").await;
    let added = json!({
        "node": member.node, "site": member.site, "url": member.url, "known": Known::Added,
    });
    Ok((StatusCode::CREATED, axum::Json(added)).into_response())
}

pub(super) async fn retire<E: Env>(
    State(app): State<Arc<App<E>>>,
    Path(node): Path<u16>,
) -> Result<StatusCode, Problem> {
    app.peers.retire(NodeId(node)).map_err(problem)?;
    tracing::info!(node, "a peer was retired");
    app.log("peer retire", &NodeId(node).to_string(), "").await;
    Ok(StatusCode::NO_CONTENT)
}

/// This coordinator is to be retired: it takes no new writes from here on.
pub(super) async fn leave<E: Env>(State(app): State<Arc<App<E>>>) -> Result<Response, Problem> {
    let leaving = app.node.leave().await.map_err(Problem::from)?;
    app.log("peer leave", &app.peers.own().node.to_string(), "").await;
    Ok(axum::Json(leaving).into_response())
}

fn problem(error: MemberError) -> Problem {
    let kind = match error {
        MemberError::Bad(_) => Kind::BadRequest,
        MemberError::NotHere(_) => Kind::UnknownPeer,
        MemberError::File(_) => Kind::NotReady,
    };
    Problem::new(kind, error.to_string())
}
