//! Errors as callers see them: `application/problem+json`
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).
//!
//! Invariant: `type` is stable, one for each thing that a caller can do about it, and
//! `retryable` says whether the same request may succeed later. An error that answers a write
//! says in `outcome` whether the write certainly did not happen (`refused`) or nobody knows
//! (`unknown`).

use crate::coordinator::{ReadError, SessionError, WriteDoubt, WriteRefusal};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What is wrong; each has its own `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is malformed.
    BadRequest,
    /// The key cannot be kept.
    BadKey,
    /// No such dataset.
    UnknownDataset,
    /// No such record.
    NotFound,
    /// The record exists, but the store asked for holds no copy of it.
    NotInStore,
    /// No such dead letter.
    UnknownDeadLetter,
    /// No such webhook.
    UnknownWebhook,
    /// No such conflict.
    UnknownConflict,
    /// The copy is owed, and cannot be given up alone.
    StillOwed,
    /// A write under a condition would lose what a dead letter adds.
    OverDeadLetter,
    /// Not an operation that this process remembers.
    UnknownOperation,
    /// No such peer, or one that stands in the configuration.
    UnknownPeer,
    /// A session has seen something of a site that is no member.
    UnknownSite,
    /// A peer speaks another version of the wire.
    WireVersion,
    /// No such address.
    NoSuchAddress,
    /// The address exists, the method does not.
    MethodNotAllowed,
    /// No token, or a wrong one.
    Unauthorized,
    /// A browser's request from another site's page.
    ForeignOrigin,
    /// A session's request that would change something, without the session's CSRF token.
    CsrfRequired,
    /// The request names a host that is not this server.
    ForeignHost,
    /// The record is not what the condition asks for.
    ConditionFailed,
    /// The value or request is too large.
    TooLarge,
    /// The dataset's values cannot expire.
    CannotExpire,
    /// Several values stand beside each other, and the caller has not read them.
    Siblings,
    /// What is to be erased stands in the record.
    ValueStands,
    /// The bytes were erased on request.
    Erased,
    /// One value stands, and the caller has several to decide between.
    NotApart,
    /// The value is not of the dataset's kind.
    WrongKind,
    /// The body is of no kind of patch.
    NoPatch,
    /// The patch does not apply to what stands.
    PatchFailed,
    /// Too much is waiting already.
    QueueFull,
    /// As many follow the events as may.
    TooManyFollowers,
    /// What is asked for has left the audit log.
    EventsGone,
    /// The audit log is not as it was written, or its disk does not give it.
    AuditUnreadable,
    /// The journal's disk has no room.
    JournalFull,
    /// A store does not answer.
    StoreUnavailable,
    /// Another conditional write to the record is under way.
    Busy,
    /// The caller's deadline has passed.
    DeadlinePassed,
    /// The server is stopping.
    Stopping,
    /// The journal failed, and the coordinator is being started again.
    Recovering,
    /// The records are not all known yet, or the server takes no requests for another reason.
    NotReady,
    /// The journal makes no progress.
    NotLive,
    /// The configuration has mistakes.
    PolicyMistakes,
    /// The configuration cannot follow on the one that is in force.
    PolicyConflict,
    /// The write may have happened.
    OutcomeUnknown,
    /// The patch may have taken effect, and would count twice if it were sent again.
    PatchUnknown,
    /// The write is kept, and its condition is not decided yet.
    Undecided,
}

impl Kind {
    /// Name in the `type` URI, title, status, and whether the same again may succeed.
    const fn facts(self) -> (&'static str, &'static str, StatusCode, bool) {
        use StatusCode as S;
        match self {
            Kind::BadRequest => ("bad-request", "Malformed request", S::BAD_REQUEST, false),
            Kind::BadKey => ("bad-key", "This key cannot be kept", S::BAD_REQUEST, false),
            Kind::UnknownDataset => ("unknown-dataset", "No such dataset", S::NOT_FOUND, false),
            Kind::NotFound => ("not-found", "No such record", S::NOT_FOUND, false),
            Kind::NotInStore => ("not-in-store", "No copy in this store", S::NOT_FOUND, false),
            Kind::UnknownOperation => {
                ("unknown-operation", "No such operation", S::NOT_FOUND, false)
            }
            Kind::UnknownPeer => ("unknown-peer", "No such peer to change", S::NOT_FOUND, false),
            Kind::UnknownSite => ("unknown-site", "No member of this site", S::CONFLICT, false),
            Kind::WireVersion => {
                ("wire-version", "Another version of the wire", S::UPGRADE_REQUIRED, false)
            }
            Kind::UnknownDeadLetter => {
                ("unknown-dead-letter", "No such dead letter", S::NOT_FOUND, false)
            }
            Kind::UnknownWebhook => ("unknown-webhook", "No such webhook", S::NOT_FOUND, false),
            Kind::UnknownConflict => ("unknown-conflict", "No such conflict", S::NOT_FOUND, false),
            Kind::StillOwed => ("still-owed", "The copy is owed", S::CONFLICT, false),
            Kind::OverDeadLetter => {
                ("over-dead-letter", "A dead letter is in the way", S::CONFLICT, true)
            }
            Kind::NoSuchAddress => ("no-such-address", "No such address", S::NOT_FOUND, false),
            Kind::MethodNotAllowed => {
                ("method-not-allowed", "Method not allowed", S::METHOD_NOT_ALLOWED, false)
            }
            Kind::Unauthorized => ("unauthorized", "A token is needed", S::UNAUTHORIZED, false),
            Kind::ForeignOrigin => {
                ("foreign-origin", "Request from a foreign page", S::FORBIDDEN, false)
            }
            Kind::CsrfRequired => ("csrf-required", "CSRF token needed", S::FORBIDDEN, false),
            Kind::ForeignHost => {
                ("foreign-host", "Not this server's name", S::MISDIRECTED_REQUEST, false)
            }
            Kind::ConditionFailed => {
                ("condition-failed", "The record has moved on", S::PRECONDITION_FAILED, false)
            }
            Kind::Siblings => {
                ("siblings", "Several values stand beside each other", S::CONFLICT, false)
            }
            Kind::ValueStands => ("value-stands", "The value stands", S::CONFLICT, false),
            Kind::Erased => ("erased", "The bytes were erased", S::GONE, false),
            Kind::NotApart => ("not-apart", "There is nothing to resolve", S::CONFLICT, false),
            Kind::CannotExpire => (
                "cannot-expire",
                "Values of the dataset cannot expire",
                S::UNPROCESSABLE_ENTITY,
                false,
            ),
            Kind::TooLarge => ("too-large", "Too large", S::PAYLOAD_TOO_LARGE, false),
            Kind::WrongKind => {
                ("wrong-kind", "Not of the dataset's kind", S::UNPROCESSABLE_ENTITY, false)
            }
            Kind::NoPatch => ("no-patch", "No kind of patch", S::UNSUPPORTED_MEDIA_TYPE, false),
            Kind::PatchFailed => {
                ("patch-failed", "The patch does not apply", S::UNPROCESSABLE_ENTITY, false)
            }
            Kind::PatchUnknown => {
                ("patch-unknown", "The patch may have taken effect", S::SERVICE_UNAVAILABLE, false)
            }
            Kind::QueueFull => ("queue-full", "Too much is waiting", S::TOO_MANY_REQUESTS, true),
            Kind::TooManyFollowers => {
                ("too-many-followers", "Too many follow", S::SERVICE_UNAVAILABLE, true)
            }
            Kind::EventsGone => ("events-gone", "Not in the log any more", S::GONE, false),
            Kind::AuditUnreadable => (
                "audit-unreadable",
                "The audit log cannot be read",
                S::INTERNAL_SERVER_ERROR,
                false,
            ),
            Kind::JournalFull => {
                ("journal-full", "The journal's disk is full", S::INSUFFICIENT_STORAGE, true)
            }
            Kind::StoreUnavailable => {
                ("store-unavailable", "A store does not answer", S::SERVICE_UNAVAILABLE, true)
            }
            Kind::Busy => ("busy", "Another write is under way", S::SERVICE_UNAVAILABLE, true),
            Kind::DeadlinePassed => {
                ("deadline-passed", "The caller's deadline has passed", S::GATEWAY_TIMEOUT, true)
            }
            Kind::Stopping => ("stopping", "The server is stopping", S::SERVICE_UNAVAILABLE, true),
            Kind::Recovering => {
                ("recovering", "Starting again from the journal", S::SERVICE_UNAVAILABLE, true)
            }
            Kind::NotReady => ("not-ready", "Not ready yet", S::SERVICE_UNAVAILABLE, true),
            Kind::NotLive => {
                ("not-live", "The journal makes no progress", S::SERVICE_UNAVAILABLE, false)
            }
            Kind::OutcomeUnknown => {
                ("outcome-unknown", "The write may have happened", S::SERVICE_UNAVAILABLE, true)
            }
            Kind::PolicyMistakes => (
                "policy-mistakes",
                "The configuration has mistakes",
                S::UNPROCESSABLE_ENTITY,
                false,
            ),
            Kind::PolicyConflict => {
                ("policy-conflict", "Not while the server runs", S::CONFLICT, false)
            }
            Kind::Undecided => {
                ("undecided", "The condition is not decided yet", S::GATEWAY_TIMEOUT, false)
            }
        }
    }

    /// The `type` URI.
    pub fn uri(self) -> String {
        format!("urn:tidelock:problem:{}", self.facts().0)
    }
}

/// An error on its way to a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    detail: String,
    outcome: Option<&'static str>,
    operation: Option<String>,
    etag: Option<Option<String>>,
    /// Headers of the answer, beside the problem.
    beside: Vec<(&'static str, String)>,
}

impl Problem {
    /// An error, with what happened and what to do in words.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Problem { kind, detail, outcome: None, operation: None, etag: None, beside: Vec::new() }
    }

    /// Says that a write certainly did not happen.
    pub fn refused(mut self) -> Self {
        self.outcome = Some("refused");
        self
    }

    /// The write may have happened.
    pub fn unknown(mut self) -> Self {
        self.outcome = Some("unknown");
        self
    }

    /// Names the operation that this is about.
    pub fn operation(mut self, id: impl ToString) -> Self {
        self.operation = Some(id.to_string());
        self
    }

    /// Gives what the reader's session has seen now: that a record is gone is news too.
    pub fn session(mut self, session: Option<String>) -> Self {
        self.beside.extend(session.map(|session| ("x-session", session)));
        self
    }

    /// Gives the history of a record that is not there (any more), for a later write's context.
    pub fn context(mut self, context: Option<String>) -> Self {
        self.beside.extend(context.map(|context| ("x-context", context)));
        self
    }

    /// What happened and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The document.
    pub fn json(&self) -> Value {
        let (_, title, status, retryable) = self.kind.facts();
        let mut members = Map::new();
        members.insert("type".into(), json!(self.kind.uri()));
        members.insert("title".into(), json!(title));
        members.insert("status".into(), json!(status.as_u16()));
        members.insert("detail".into(), json!(self.detail));
        members.insert("retryable".into(), json!(retryable));
        if let Some(outcome) = self.outcome {
            members.insert("outcome".into(), json!(outcome));
        }
        if let Some(operation) = &self.operation {
            members.insert("operation".into(), json!(operation));
        }
        if let Some(etag) = &self.etag {
            members.insert("current_etag".into(), json!(etag));
        }
        Value::Object(members)
    }
}

impl From<WriteRefusal> for Problem {
    fn from(refusal: WriteRefusal) -> Self {
        let kind = match &refusal {
            WriteRefusal::UnknownDataset { .. } => Kind::UnknownDataset,
            WriteRefusal::Key(_) => Kind::BadKey,
            WriteRefusal::TooLarge { .. } => Kind::TooLarge,
            WriteRefusal::CannotExpire { .. } => Kind::CannotExpire,
            WriteRefusal::TooManySiblings { .. } => Kind::Siblings,
            WriteRefusal::WrongKind { .. } => Kind::WrongKind,
            WriteRefusal::ConditionFailed { .. } => Kind::ConditionFailed,
            WriteRefusal::QueueFull { .. }
            | WriteRefusal::DatasetFull { .. }
            | WriteRefusal::DeadLettersFull { .. } => Kind::QueueFull,
            WriteRefusal::JournalFull { .. } => Kind::JournalFull,
            WriteRefusal::AuthorityUnreachable { .. } => Kind::StoreUnavailable,
            WriteRefusal::ContextAhead { .. } | WriteRefusal::Busy => Kind::Busy,
            WriteRefusal::OverDeadLetter { .. } => Kind::OverDeadLetter,
            WriteRefusal::DeadlinePassed => Kind::DeadlinePassed,
            WriteRefusal::Stopping | WriteRefusal::Leaving => Kind::Stopping,
        };
        let mut problem = Problem::new(kind, refusal.to_string()).refused();
        match refusal {
            WriteRefusal::ConditionFailed { current } => problem.etag = Some(current),
            WriteRefusal::DatasetFull { full, .. } => {
                problem.beside.push(("retry-after", full.retry_after_s().to_string()));
            }
            _ => {}
        }
        problem
    }
}

impl From<WriteDoubt> for Problem {
    fn from(doubt: WriteDoubt) -> Self {
        let problem = match doubt {
            WriteDoubt::Journal(error) => Problem::new(
                Kind::OutcomeUnknown,
                format!(
                    "{error}. Whether this write is durable is known once the journal has been \
                     replayed; send the same again, or read the record"
                ),
            ),
            WriteDoubt::Undecided { dot } => Problem::new(
                Kind::Undecided,
                format!(
                    "D1 does not answer, or does not take the value, so whether the condition holds \
                     is not known yet; the write is kept and happens if it does. Ask \
                     /v1/operations/{dot} for the outcome"
                ),
            )
            .operation(dot),
        };
        problem.unknown()
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::UnknownDataset { .. } => Kind::UnknownDataset,
            ReadError::Key(_) => Kind::BadKey,
            ReadError::Unavailable(_) => Kind::StoreUnavailable,
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Read(error) => error.into(),
            SessionError::NoSuchSite { .. } => Problem::new(Kind::UnknownSite, error.to_string()),
            SessionError::NotHereYet { .. } | SessionError::SiteBehind { .. } => {
                Problem::new(Kind::StoreUnavailable, error.to_string())
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = self.json();
        self.respond(&document)
    }
}

impl Problem {
    /// The answer, with every reason listed beside the members that all problems have.
    pub fn with_reasons(self, reasons: &[String]) -> Response {
        let mut document = self.json();
        document["reasons"] = json!(reasons);
        self.respond(&document)
    }

    /// The answer, with what stands now beside the members that all problems have.
    pub fn with_now(self, now: &Value) -> Response {
        let mut document = self.json();
        document["now"] = now.clone();
        self.respond(&document)
    }

    fn respond(self, document: &Value) -> Response {
        let (_, _, status, retryable) = self.kind.facts();
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if retryable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.kind == Kind::Unauthorized {
            let bearer = HeaderValue::from_static("Bearer realm=\"tidelock\"");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        if let Some(Some(etag)) = &self.etag
            && let Ok(etag) = HeaderValue::from_str(&format!("\"{etag}\""))
        {
            headers.insert(header::ETAG, etag);
        }
        if self.kind == Kind::Undecided
            && let Some(operation) = &self.operation
            && let Ok(place) = HeaderValue::from_str(&format!("/v1/operations/{operation}"))
        {
            headers.insert(header::LOCATION, place);
        }
        for (name, value) in self.beside {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}
