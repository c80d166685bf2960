//! Who may come in: the token, browser sessions, and the two headers that tell a browser's own
//! request from one that a foreign page has made it send.
//!
//! Invariant: secrets are compared as BLAKE3 hashes, whose equality takes constant time, and are
//! kept as nothing else. A request that may change something needs the token, or a session
//! together with its CSRF token. At most [`SESSIONS_MAX`] sessions live, each at most
//! [`SESSION_AGE_MAX`].

use super::problem::{Kind, Problem};
use axum::http::{HeaderMap, Method, Uri, header};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Sessions that live at once; the oldest goes first.
pub const SESSIONS_MAX: usize = 64;
/// A session ends after this.
pub const SESSION_AGE_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// A request by session that may change something carries the session's CSRF token here.
pub const CSRF_HEADER: &str = "x-csrf-token";

/// Decides who comes in.
#[derive(Debug)]
pub struct Door {
    token: blake3::Hash,
    listen: SocketAddr,
    names: Vec<String>,
    cookie: String,
    sessions: Mutex<VecDeque<Session>>,
}

#[derive(Debug)]
struct Session {
    id: blake3::Hash,
    csrf: String,
    ends: Duration,
}

/// A new session's secrets.
#[derive(Debug)]
pub struct Opened {
    /// For the `Set-Cookie` header.
    pub cookie: String,
}

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A holder of the token.
    Token,
    /// A browser that has logged in.
    Session {
        /// What its changing requests must carry.
        csrf: String,
    },
    /// Nobody we know; `true`: with a wrong token.
    Stranger(bool),
}

impl Door {
    /// Opens to holders of `token`, under the name `listen`, the loopback names and `names`.
    pub fn new(token: &str, listen: SocketAddr, names: Vec<String>) -> Self {
        Door {
            token: blake3::hash(token.as_bytes()),
            listen,
            names: names.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
            // Cookies ignore the port: without it, two servers on one machine would log each
            // other's browsers out.
            cookie: format!("tidelock_session_{}", listen.port()),
            sessions: Mutex::new(VecDeque::new()),
        }
    }

    /// True for the token.
    pub fn is_token(&self, presented: &str) -> bool {
        blake3::hash(presented.as_bytes()) == self.token
    }

    /// Refuses a request whose `Host` is not this server: a foreign name that was made to point
    /// here (DNS rebinding).
    pub fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let named = uri.authority().map(|authority| authority.as_str());
        let fine = match (host, named) {
            (Some(host), None) => self.is_ours(host),
            (Some(host), Some(named)) => self.is_ours(host) && self.is_ours(named),
            (None, Some(named)) => self.is_ours(named),
            (None, None) => false,
        };
        if fine {
            return Ok(());
        }
        Err(Problem::new(
            Kind::ForeignHost,
            format!(
                "the request is for the host {:?}; this server answers as {}, localhost, \
                 127.0.0.1 and [::1]. Start it with --allow-host to give it another name",
                host.or(named).unwrap_or(""),
                self.listen
            ),
        ))
    }

    fn is_ours(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        let host = host.to_ascii_lowercase();
        if host == "localhost" || self.names.contains(&host) {
            return true;
        }
        match host.parse::<IpAddr>() {
            // Rebinding needs a name; an address can be only itself.
            Ok(ip) => {
                ip.is_loopback() || ip == self.listen.ip() || self.listen.ip().is_unspecified()
            }
            Err(_) => false,
        }
    }

    /// Refuses a request that a page of another origin has made a browser send.
    pub fn check_origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        let origin = origin.to_str().unwrap_or("");
        let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !host.is_empty() && of.is_some_and(|of| of.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        Err(Problem::new(
            Kind::ForeignOrigin,
            format!("a page of {origin:?} may not use this server; open the server's own page"),
        ))
    }

    /// Tells who sent a request.
    pub fn caller(&self, headers: &HeaderMap, now: Duration) -> Caller {
        if let Some(presented) = headers.get(header::AUTHORIZATION) {
            let presented = presented.to_str().unwrap_or("");
            let bearer = presented
                .split_once(' ')
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            return match bearer {
                Some((_, token)) if self.is_token(token.trim()) => Caller::Token,
                Some(_) | None => Caller::Stranger(true),
            };
        }
        let Some(id) = self.session_id(headers) else { return Caller::Stranger(false) };
        let sessions = self.sessions(now);
        match sessions.iter().find(|session| session.id == id) {
            Some(session) => Caller::Session { csrf: session.csrf.clone() },
            None => Caller::Stranger(false),
        }
    }

    /// Lets a request of this caller through, or says why not.
    pub fn admit(
        &self,
        caller: &Caller,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        match caller {
            Caller::Token => Ok(()),
            Caller::Session { csrf } => {
                let shown = headers.get(CSRF_HEADER).map(|shown| shown.as_bytes()).unwrap_or(b"");
                let same = blake3::hash(shown) == blake3::hash(csrf.as_bytes());
                if *method == Method::GET || *method == Method::HEAD || same {
                    return Ok(());
                }
                Err(Problem::new(
                    Kind::CsrfRequired,
                    format!(
                        "a browser session changes something only with its CSRF token in the \
                         header {CSRF_HEADER}; reload the page, or use the token"
                    ),
                ))
            }
            Caller::Stranger(wrong) => Err(Problem::new(
                Kind::Unauthorized,
                if *wrong {
                    "the token is not this server's; it stands in the file `token` of the \
                     server's data folder"
                } else {
                    "send the header `Authorization: Bearer TOKEN`; the token stands in the file \
                     `token` of the server's data folder"
                },
            )),
        }
    }

    /// Opens a session. `random` gives fresh numbers.
    pub fn open_session(&self, now: Duration, mut random: impl FnMut() -> u64) -> Opened {
        let mut secret = || -> String { (0..4).map(|_| format!("{:016x}", random())).collect() };
        let (id, csrf) = (secret(), secret());
        let mut sessions = self.sessions(now);
        if sessions.len() >= SESSIONS_MAX {
            sessions.pop_front();
        }
        let ends = now + SESSION_AGE_MAX;
        sessions.push_back(Session { id: blake3::hash(id.as_bytes()), csrf, ends });
        Opened { cookie: self.set_cookie(&id, SESSION_AGE_MAX.as_secs()) }
    }

    /// Ends the request's session; gives the header that makes the browser forget it.
    pub fn close_session(&self, headers: &HeaderMap, now: Duration) -> Opened {
        if let Some(id) = self.session_id(headers) {
            self.sessions(now).retain(|session| session.id != id);
        }
        Opened { cookie: self.set_cookie("", 0) }
    }

    fn set_cookie(&self, id: &str, age_s: u64) -> String {
        format!("{}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age_s}", self.cookie)
    }

    fn session_id(&self, headers: &HeaderMap) -> Option<blake3::Hash> {
        let cookies = headers.get_all(header::COOKIE).into_iter();
        cookies.filter_map(|cookie| cookie.to_str().ok()).flat_map(|line| line.split(';')).find_map(
            |cookie| {
                let (name, value) = cookie.trim().split_once('=')?;
                (name == self.cookie && !value.is_empty()).then(|| blake3::hash(value.as_bytes()))
            },
        )
    }

    fn sessions(&self, now: Duration) -> MutexGuard<'_, VecDeque<Session>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| session.ends > now);
        sessions
    }
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`, without the brackets.
fn host_of(authority: &str) -> Option<&str> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']')?,
        None => match authority.find(':') {
            Some(colon) => authority.split_at(colon),
            None => (authority, ""),
        },
    };
    let port = rest.strip_prefix(':').unwrap_or(rest);
    let fine =
        (rest.is_empty() || rest.starts_with(':')) && port.bytes().all(|b| b.is_ascii_digit());
    (fine && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn door(listen: &str) -> Door {
        Door::new("secret", listen.parse().unwrap(), vec!["Tide.example".to_owned()])
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn hosts() {
        let check = |listen: &str, host: &str, expected: bool| {
            let asked = headers(&[("host", host)]);
            let answer = door(listen).check_host(&asked, &Uri::from_static("/v1/status"));
            assert_eq!(answer.is_ok(), expected, "{host} at {listen}");
        };
        for host in ["localhost", "LOCALHOST:7878", "127.0.0.1:7878", "[::1]:7878", "127.0.0.1"] {
            check("127.0.0.1:7878", host, true);
        }
        check("127.0.0.1:7878", "tide.example:7878", true);
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7878"] {
            check("127.0.0.1:7878", host, false);
        }
        for host in ["", ":7878", "localhost@evil", "[::1", "10.0.0.8:7878", "localhost:78x"] {
            check("127.0.0.1:7878", host, false);
        }
        check("10.0.0.8:7878", "10.0.0.8:7878", true);
        check("0.0.0.0:7878", "10.0.0.8:7878", true);
        check("0.0.0.0:7878", "evil.example", false);
    }

    #[test]
    fn origins() {
        let check = |origin: &str, expected: bool| {
            let asked = headers(&[("host", "127.0.0.1:7878"), ("origin", origin)]);
            assert_eq!(door("127.0.0.1:7878").check_origin(&asked).is_ok(), expected, "{origin}");
        };
        check("http://127.0.0.1:7878", true);
        for origin in ["http://127.0.0.1:9999", "http://evil.example", "null", "", "file://"] {
            check(origin, false);
        }
    }

    #[test]
    fn sessions_end_and_are_bounded() {
        let door = door("127.0.0.1:7878");
        let mut drawn = 0;
        let mut open = |now| {
            let opened = door.open_session(now, || {
                drawn += 1;
                drawn
            });
            headers(&[("cookie", opened.cookie.split(';').next().unwrap())])
        };
        let first = open(Duration::ZERO);
        assert!(matches!(door.caller(&first, Duration::ZERO), Caller::Session { .. }));
        assert_eq!(door.caller(&first, SESSION_AGE_MAX), Caller::Stranger(false));
        let second = open(SESSION_AGE_MAX);
        for _ in 0..SESSIONS_MAX {
            open(SESSION_AGE_MAX);
        }
        assert_eq!(door.caller(&second, SESSION_AGE_MAX), Caller::Stranger(false));
        assert!(door.sessions(SESSION_AGE_MAX).len() <= SESSIONS_MAX);
    }

    #[test]
    fn a_session_changes_nothing_without_its_csrf_token() {
        let door = door("127.0.0.1:7878");
        let caller = Caller::Session { csrf: "c".to_owned() };
        let admit = |method: &Method, shown: &[(&'static str, &str)]| {
            door.admit(&caller, method, &headers(shown)).is_ok()
        };
        assert!(admit(&Method::GET, &[]));
        assert!(!admit(&Method::PUT, &[]));
        assert!(!admit(&Method::DELETE, &[(CSRF_HEADER, "d")]));
        assert!(admit(&Method::PUT, &[(CSRF_HEADER, "c")]));
        assert!(door.admit(&Caller::Token, &Method::PUT, &headers(&[])).is_ok());
        let wrong = headers(&[("authorization", "Bearer guess")]);
        assert_eq!(door.caller(&wrong, Duration::ZERO), Caller::Stranger(true));
    }
}
