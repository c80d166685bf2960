//! The way to the server: finds address and token, sends requests, reads problems.
//!
//! Invariant: a request is repeated only when the server said that the same may succeed, or when
//! the connection failed and the caller asked for patience, because the same bytes twice come to
//! the same as once.

use super::{CliError, ClientArgs};
use crate::production::folder::{self, ADDRESS_FILE, TOKEN_FILE};
use crate::record::{StoreId, VALUE_BYTES_MAX};
use crate::retry;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Method, Request, Response};
use ureq::{Agent, Body};

const CONNECT_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Bodies other than values.
const DOCUMENT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What is retryable is retried this long.
const PATIENCE: Duration = Duration::from_secs(15);

// A dot stays encoded too: `.` and `..` are dropped from addresses by careful clients.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// A connection to one server; cheap to share between threads.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    url: String,
    authorization: String,
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nobody answers, or the connection broke.
    Connection(String),
    /// The server answered with an error.
    Problem {
        /// The HTTP status.
        status: u16,
        /// The last part of the problem's type.
        kind: String,
        /// What happened.
        detail: String,
        /// The same again may succeed.
        retryable: bool,
    },
}

impl NoAnswer {
    /// True when the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            NoAnswer::Connection(_) => true,
            NoAnswer::Problem { retryable, .. } => *retryable,
        }
    }

    /// What happened, in words.
    pub fn detail(&self) -> &str {
        match self {
            NoAnswer::Connection(detail) | NoAnswer::Problem { detail, .. } => detail,
        }
    }
}

impl From<NoAnswer> for CliError {
    fn from(no: NoAnswer) -> Self {
        match no {
            NoAnswer::Connection(detail) => CliError::Unreachable(detail),
            NoAnswer::Problem { status: 401, detail, .. } => CliError::Unreachable(detail),
            NoAnswer::Problem { kind, detail, .. }
                if ["not-found", "unknown-dead-letter", "unknown-conflict", "unknown-webhook"]
                    .contains(&kind.as_str()) =>
            {
                CliError::NotFound(detail)
            }
            NoAnswer::Problem { detail, .. } => CliError::Failed(detail),
        }
    }
}

/// Text as one segment of a path, or one value of a query.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// The headers of a request.
pub type Headers<'h> = &'h [(&'static str, &'h str)];

impl Client {
    /// Finds the server of a data folder, or the one that the environment names.
    pub fn find(args: &ClientArgs) -> Result<Self, CliError> {
        let data = args.data.as_path();
        let url = match setting("TIDELOCK_URL") {
            Some(url) => url,
            None => read(data, ADDRESS_FILE, "TIDELOCK_URL")?,
        };
        let token = match setting("TIDELOCK_TOKEN") {
            Some(token) => token,
            None => read(data, TOKEN_FILE, "TIDELOCK_TOKEN")?,
        };
        let url = url.trim_end_matches('/').to_owned();
        if !url.starts_with("http://") {
            let problem = format!("the server's address {url:?} does not begin with http://");
            return Err(CliError::Usage(problem));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_global(Some(ANSWER_MAX))
            .max_idle_connections(256)
            .max_idle_connections_per_host(256)
            .build();
        let authorization = format!("Bearer {token}");
        Ok(Client { agent: Agent::new_with_config(config), url, authorization })
    }

    /// The path of a record at the server.
    pub fn record(dataset: &str, key: &str) -> String {
        let dataset = utf8_percent_encode(dataset, SEGMENT);
        format!("/v1/records/{dataset}/{}", utf8_percent_encode(key, SEGMENT))
    }

    /// The path of a page of a dataset's listing.
    pub fn listing(dataset: &str, after: Option<&str>) -> String {
        let dataset = utf8_percent_encode(dataset, SEGMENT);
        match after {
            None => format!("/v1/records/{dataset}"),
            Some(after) => format!("/v1/records/{dataset}?after={after}"),
        }
    }

    /// Sends one request.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        headers: Headers<'_>,
        body: &[u8],
    ) -> Result<Answer, NoAnswer> {
        let has_body = [Method::PUT, Method::POST, Method::PATCH].contains(&method);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", &self.authorization);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let malformed =
            |error: ureq::http::Error| NoAnswer::Connection(format!("{}: {error}", self.url));
        let answered = if has_body {
            self.agent.run(request.body(body).map_err(malformed)?)
        } else {
            self.agent.run(request.body(()).map_err(malformed)?)
        };
        self.answer(answered)
    }

    /// Sends one request until it has its answer, or the server's word that there will be none,
    /// or until patience ends.
    pub fn send_patiently(
        &self,
        method: Method,
        path: &str,
        headers: Headers<'_>,
        body: &[u8],
    ) -> Result<Answer, NoAnswer> {
        let begun = Instant::now();
        let mut failures = 0;
        loop {
            let error = match self.send(method.clone(), path, headers, body) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            failures += 1;
            if !error.is_retryable() || begun.elapsed() >= PATIENCE {
                return Err(error);
            }
            std::thread::sleep(retry::pause(failures, rand::random()));
        }
    }

    /// Reads a value; `store` asks for that store's copy.
    pub fn value(
        &self,
        dataset: &str,
        key: &str,
        store: Option<StoreId>,
        latest: bool,
    ) -> Result<Answer, NoAnswer> {
        let mut path = Client::record(dataset, key);
        match (store, latest) {
            (Some(store), _) => path.push_str(&format!("?store={store}")),
            (None, true) => path.push_str("?read=latest"),
            (None, false) => {}
        }
        self.send_unless_down(&path)
    }

    /// Reads a JSON document.
    pub fn document(&self, path: &str) -> Result<Value, NoAnswer> {
        let answer = self.send_unless_down(path)?;
        serde_json::from_slice(&answer.body).map_err(|error| {
            NoAnswer::Connection(format!("{}{path} is no JSON document: {error}", self.url))
        })
    }

    /// A read waits for a server that is recovering; that there is none is told at once.
    fn send_unless_down(&self, path: &str) -> Result<Answer, NoAnswer> {
        match self.send(Method::GET, path, &[], b"") {
            Err(error @ NoAnswer::Problem { .. }) if error.is_retryable() => {
                self.send_patiently(Method::GET, path, &[], b"")
            }
            other => other,
        }
    }

    fn answer(&self, answered: Result<Response<Body>, ureq::Error>) -> Result<Answer, NoAnswer> {
        let no_connection = |error: ureq::Error| {
            NoAnswer::Connection(format!(
                "the server at {} does not answer ({error}); start it with `tidelock serve`, or \
                 name its data folder with --data",
                self.url
            ))
        };
        let mut response = answered.map_err(no_connection)?;
        let status = response.status().as_u16();
        let room = if status < 400 { VALUE_BYTES_MAX as u64 } else { 0 };
        let limited = response.body_mut().with_config().limit(room + DOCUMENT_BYTES_MAX);
        let body = limited.read_to_vec().map_err(no_connection)?;
        // 300: several values, none of which is the record's alone.
        if status <= 300 {
            return Ok(Answer { status, headers: response.headers().clone(), body });
        }
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let kind = problem["type"].as_str().unwrap_or_default();
        Err(NoAnswer::Problem {
            status,
            kind: kind.rsplit(':').next().unwrap_or_default().to_owned(),
            detail: match problem["detail"].as_str() {
                Some(detail) => detail.to_owned(),
                None => format!("{} answered with HTTP {status} and no explanation", self.url),
            },
            retryable: problem["retryable"].as_bool().unwrap_or(status >= 500),
        })
    }
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn read(data: &Path, file: &str, variable: &str) -> Result<String, CliError> {
    let path = data.join(file);
    folder::read_text(&path).map(|text| text.trim().to_owned()).map_err(|error| {
        CliError::Unreachable(format!(
            "no server is known for the data folder {} ({error}); start one with `tidelock serve \
             --data {}`, name another folder with --data, or set {variable}",
            data.display(),
            data.display()
        ))
    })
}
