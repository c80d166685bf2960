//! `/v1/events`: the audit log as it grows, as
//! [server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html).
//!
//! Invariant: whoever follows gets each entry once and in its order, and only such as are durable. An
//! event's id is its entry's number, so that one who was cut off goes on with `Last-Event-ID`, through a
//! restart of the server too. Nothing is queued for a slow reader: the log is read as fast as they read.
//!
//! One who asks for storms of conflicts in summaries (`storms=summarised`) gets each entry alone or counted.
//! While something is counted that was not told, an event's id is that of the entry before all of it, so
//! that one who was cut off gets some twice rather than miss one.

use super::App;
use super::problem::{Kind, Problem};
use super::records::{bad, known};
use crate::audit::{self, Storm, Taken};
use crate::env::Env;
use crate::production::audit::{AuditError, Counting, Filter, Forward, Gone, Told};
use crate::production::webhook::{STORM, storm_json};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout_at;

/// How many may follow at once.
pub(super) const FOLLOWERS_MAX: usize = 64;
/// Silence is broken after this, so that both ends notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    dataset: Option<String>,
    kind: Option<String>,
    after: Option<String>,
    storms: Option<String>,
}

/// `GET /v1/events`: behind `Last-Event-ID` or else `after`; without either, from now on.
pub(super) async fn events<E: Env>(
    State(app): State<Arc<App<E>>>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let kind = query.kind.as_deref().map(str::parse::<audit::Kind>).transpose().map_err(bad)?;
    let counting = match query.storms.as_deref() {
        None | Some("every") => None,
        Some("summarised") => Some(Counting::resume(Vec::new())),
        Some(other) => {
            return Err(bad(format!("`storms` is {other:?}; it is \"every\" or \"summarised\"")));
        }
    };
    if let Some(dataset) = &query.dataset {
        known(&app.node.policy(), dataset)?;
    }
    let filter = Filter { dataset: query.dataset, kind, since_ms: None };
    let told = app.audit.told();
    let head_seq = told.borrow().head_seq;
    let after = match (headers.get(LAST_EVENT_ID), &query.after) {
        (Some(id), _) => number(LAST_EVENT_ID, id.to_str().unwrap_or_default())?,
        (None, Some(after)) => number("after", after)?,
        (None, None) => head_seq,
    };
    if after > head_seq {
        return Err(bad(format!(
            "the audit log ends at entry {head_seq}, and you ask for what follows entry {after}; \
             was the log begun anew? Follow it from the beginning with `after=0`"
        )));
    }
    let Ok(seat) = app.followers.clone().try_acquire_owned() else {
        return Err(Problem::new(
            Kind::TooManyFollowers,
            format!("{FOLLOWERS_MAX} clients follow the events already; try again later"),
        ));
    };
    let reader = app.audit.reader().clone();
    let found = tokio::task::spawn_blocking(move || reader.forward(after)).await;
    let forward = match found.unwrap_or_else(|error| Err(AuditError::Io(error.to_string()))) {
        Ok(Ok(forward)) => forward,
        Ok(Err(Gone { first_seq })) => {
            return Err(Problem::new(
                Kind::EventsGone,
                format!(
                    "the audit log begins at entry {first_seq}: what follows entry {after} was \
                     carried away with its archive; go on with `after={}`",
                    first_seq - 1
                ),
            ));
        }
        Err(error) => return Err(Problem::new(Kind::AuditUnreadable, error.to_string())),
    };
    let follower = Follower {
        forward: Some(forward),
        read: VecDeque::new(),
        filter,
        counting,
        through_seq: after,
        told,
        _seat: seat,
    };
    let stream = unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    let alive = KeepAlive::new().interval(KEEP_ALIVE).text("still here");
    Ok(Sse::new(stream).keep_alive(alive).into_response())
}

fn number(name: &str, text: &str) -> Result<u64, Problem> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or_else(|| {
        bad(format!("`{name}` is {text:?}; give the number of an entry, 0 for the beginning"))
    })
}

struct Follower {
    /// `None`: it cannot be read on.
    forward: Option<Forward>,
    read: VecDeque<audit::Entry>,
    filter: Filter,
    /// `None`: every conflict is told.
    counting: Option<Counting>,
    /// The last entry that was seen to.
    through_seq: u64,
    told: watch::Receiver<Told>,
    _seat: OwnedSemaphorePermit,
}

impl Follower {
    /// The next event; `None`: there will be none.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let told = *self.told.borrow_and_update();
            if told.ending {
                return None;
            }
            if let Some(entry) = self.read.pop_front() {
                if let Some(storm) = self.counting.as_mut().and_then(|it| it.due_before(&entry)) {
                    self.read.push_front(entry);
                    return Some(self.storm(&storm));
                }
                self.through_seq = entry.seq();
                if self.filter.takes(&entry)
                    && self.counting.as_mut().is_none_or(|it| it.take(&entry) == Taken::Alone)
                {
                    return Some(self.event(&entry));
                }
                continue;
            }
            let mut forward = self.forward.take()?;
            if forward.after() >= told.head_seq {
                self.forward = Some(forward);
                if let Some(storm) = self.counting.as_mut().and_then(Counting::due) {
                    return Some(self.storm(&storm));
                }
                let changed = self.told.changed();
                let changed = match self.counting.as_ref().and_then(Counting::due_at) {
                    None => changed.await,
                    // That it is due shows when it is looked at.
                    Some(due) => timeout_at(due.into(), changed).await.unwrap_or(Ok(())),
                };
                // Gone with the server, if with anything.
                changed.ok()?;
                continue;
            }
            let read = tokio::task::spawn_blocking(move || {
                let entries = forward.read(told.head_seq);
                (forward, entries)
            });
            let failed = match read.await {
                Ok((forward, Ok(entries))) => {
                    self.forward = Some(forward);
                    self.read.extend(entries);
                    continue;
                }
                Ok((_, Err(error))) => error,
                Err(error) => AuditError::Io(error.to_string()),
            };
            tracing::error!(%failed, "somebody followed the events, and was told that this ends");
            let detail = json!({ "detail": failed.to_string() }).to_string();
            return Some(Event::default().event("error").data(detail));
        }
    }

    fn event(&self, entry: &audit::Entry) -> Event {
        // A later build's kinds are passed on as they are.
        let kind = entry.kind().map_or("other", audit::Kind::name);
        Event::default().id(self.id()).event(kind).data(entry.to_line())
    }

    fn storm(&self, storm: &Storm) -> Event {
        Event::default().id(self.id()).event(STORM).data(storm_json(storm))
    }

    /// The last entry before everything that was not told.
    fn id(&self) -> String {
        let told_seq = |counting: &Counting| counting.told_seq(self.through_seq);
        self.counting.as_ref().map_or(self.through_seq, told_seq).to_string()
    }
}
