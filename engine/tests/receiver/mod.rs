//! A receiver of webhooks that answers as it is told to, and one that follows the events.

#![allow(dead_code, reason = "each test file uses the part that it needs")]

use super::server::{Server, WAIT_MAX};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use sha2::Sha256;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a receiver answers.
pub enum Says {
    Status(u16),
    /// A redirect to there.
    Elsewhere(String),
    /// 500, and a body without an end.
    Endless,
    /// Nothing at all, and the connection stays.
    Nothing,
}

/// A request as it came.
#[derive(Clone)]
pub struct Heard {
    pub head: String,
    pub body: String,
    pub json: Value,
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.header("webhook-id"), self.body)
    }
}

impl Heard {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// As a receiver would, by the specification.
    pub fn verify(&self, secret: &str) {
        let header = |name| self.header(name).unwrap_or_else(|| panic!("{name}: {}", self.head));
        let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now_s.abs_diff(at.parse().unwrap()) < 300, "{at}");
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{id}.{at}.{}", self.body).as_bytes());
        let signed = header("webhook-signature").strip_prefix("v1,").unwrap();
        mac.verify_slice(&STANDARD.decode(signed).unwrap()).expect("it is signed");
    }
}

type Script = Box<dyn FnMut(&Heard, usize) -> Says + Send>;

/// A receiver.
pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    heard: Arc<Mutex<Vec<Heard>>>,
    script: Arc<Mutex<Script>>,
}

impl Receiver {
    /// Answers each request as the script says, which is given how many came before.
    pub fn start(script: impl FnMut(&Heard, usize) -> Says + Send + 'static) -> Self {
        Receiver::run("http", script, |stream| Box::new(stream))
    }

    /// The same over TLS as `localhost`, with the certificate of the authority that vouches for it.
    pub fn start_tls(script: impl FnMut(&Heard, usize) -> Says + Send + 'static) -> (Self, String) {
        let (authority, key) = authority();
        let pem = authority.self_signed(&key).unwrap().pem();
        let own_key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let own = own.signed_by(&own_key, &Issuer::new(authority, key)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![own.der().clone()],
                PrivatePkcs8KeyDer::from(own_key.serialize_der()).into(),
            )
            .unwrap();
        let config = Arc::new(config);
        let receiver = Receiver::run("https", script, move |stream| {
            Box::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream))
        });
        (receiver, pem)
    }

    /// A certificate that vouches for nobody here.
    pub fn authority() -> String {
        let (authority, key) = authority();
        authority.self_signed(&key).unwrap().pem()
    }

    fn run(
        scheme: &'static str,
        script: impl FnMut(&Heard, usize) -> Says + Send + 'static,
        wrap: impl Fn(TcpStream) -> Box<dyn Stream> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let receiver = Receiver { address, scheme, heard: heard.clone(), script: script.clone() };
        let wrap = Arc::new(wrap);
        spawn(move || {
            for stream in listener.incoming() {
                let (heard, script, wrap) = (heard.clone(), script.clone(), wrap.clone());
                // One that breaks off has said what it wanted.
                spawn(move || drop(serve(wrap(stream.unwrap()), &heard, &script)));
            }
        });
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Answers so from now on.
    pub fn says(&self, script: impl FnMut(&Heard, usize) -> Says + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub fn until_heard(&self, count: usize) {
        self.until(&format!("{count} were heard"), |heard| heard.len() >= count);
    }

    pub fn until(&self, what: &str, is: impl Fn(&[Heard]) -> bool) {
        let begun = Instant::now();
        while !is(&self.heard()) {
            assert!(begun.elapsed() < WAIT_MAX, "waited in vain until {what}: {:?}", self.heard());
            sleep(Duration::from_millis(10));
        }
    }
}

fn authority() -> (CertificateParams, KeyPair) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(DnType::CommonName, "an authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (authority, KeyPair::generate().unwrap())
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

fn serve(
    stream: Box<dyn Stream>,
    heard: &Mutex<Vec<Heard>>,
    script: &Mutex<Script>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let mut request = Heard { head, body: String::new(), json: Value::Null };
    let length: usize = request.header("content-length").unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    request.body = String::from_utf8(body).unwrap();
    request.json = serde_json::from_str(&request.body).unwrap();
    let says = {
        let mut heard = heard.lock().unwrap();
        let says = (script.lock().unwrap())(&request, heard.len());
        heard.push(request);
        says
    };
    let stream = stream.get_mut();
    let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
    match says {
        Says::Status(status) => {
            stream.write_all(format!("HTTP/1.1 {status} X\r\n{end}").as_bytes())?
        }
        Says::Elsewhere(url) => {
            let answer = format!("HTTP/1.1 307 X\r\nLocation: {url}\r\n{end}");
            stream.write_all(answer.as_bytes())?;
        }
        Says::Endless => {
            stream.write_all(b"HTTP/1.1 500 X\r\nConnection: close\r\n\r\n")?;
            while stream.write_all(&[b'x'; 4_096]).is_ok() {}
        }
        Says::Nothing => sleep(WAIT_MAX),
    }
    stream.flush()
}

/// Follows the events until one has `last` in it; gives the id and the rest of each.
pub fn events(server: &Server, query: &str, last: &str) -> Vec<(u64, String)> {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
    let (address, token) = (server.address, &server.token);
    let head = format!(
        "GET /v1/events?{query} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut events = Vec::new();
    let (mut id, mut text) = (0, String::new());
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        match line.split_once(": ") {
            Some(("id", number)) => id = number.parse().unwrap(),
            Some(("event" | "data", what)) => text.push_str(what),
            _ if line.is_empty() && !text.is_empty() => {
                events.push((id, std::mem::take(&mut text)));
                if events.last().is_some_and(|(_, text)| text.contains(last)) {
                    break;
                }
            }
            _ => {}
        }
    }
    events
}
