//! One POST to a receiver.
//!
//! Invariant: a call ends within [`ANSWER_MAX`], follows no redirect, and reads no more of an answer
//! than its beginning.

use super::attempt::Answer;
use super::notification::Notification;
use super::secret::Secret;
use std::fmt;
use std::io::Read;
use std::time::Duration;
use ureq::Agent;
use ureq::http::HeaderMap;
use ureq::tls::{RootCerts, TlsConfig};

/// All of a call.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Of an answer's body, for people to read.
const BEGINS_BYTES_MAX: u64 = 256;
const USER_AGENT: &str = concat!("Tidelock/", env!("CARGO_PKG_VERSION"));

/// Where a webhook is told, and by what it knows us.
pub struct Receiver {
    agent: Agent,
    url: String,
    secret: Secret,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Nothing is sent yet.
    pub fn new(url: String, secret: Secret) -> Self {
        // Whom the machine trusts: a receiver inside a company has that company's certificate.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A signed notification is for whom it was meant, and nobody that it points at.
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_global(Some(ANSWER_MAX))
            .user_agent(USER_AGENT)
            .tls_config(tls)
            .build();
        Receiver { agent: Agent::new_with_config(config), url, secret }
    }

    /// Tells it, signed as of now. Blocks its thread, and gives up by itself.
    pub fn post(&self, notification: &Notification, now_s: u64) -> Answer {
        let Notification { id, body, .. } = notification;
        let sent = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now_s.to_string())
            .header("webhook-signature", self.secret.signature(id, now_s, body.as_bytes()))
            .send(body.as_bytes());
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(error) => return Answer::None { why: error.to_string() },
        };
        let status = answer.status().as_u16();
        let retry_after = retry_after(answer.headers());
        let mut begins = Vec::new();
        // What cannot be read is nothing that anybody needs: the status has come.
        let _ = answer.body_mut().as_reader().take(BEGINS_BYTES_MAX).read_to_end(&mut begins);
        let begins = String::from_utf8_lossy(&begins).trim().to_owned();
        Answer::Status { status, begins, retry_after }
    }
}

/// In seconds; a date is passed over.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
