//! The real binary in a folder of its own, and a client that sends exactly what it is told.

#![allow(dead_code, reason = "each test file uses the part that it needs")]

use std::fs::{File, Permissions, read_to_string, remove_file};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_tidelock");
/// No wait in a test is longer. Slow machines are slow, not wrong.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// What all that are started as sites hold in `peer-token`.
pub const PEER_SECRET: &str = "the-same-secret-at-both";

/// A running `tidelock serve`.
pub struct Server {
    child: Child,
    pub data: PathBuf,
    pub address: SocketAddr,
    pub token: String,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The problem's kind; panics where this is no problem document.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(problem["retryable"].is_boolean(), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.len() > 10), "{problem}");
        let kind = problem["type"].as_str().expect("a problem has a type");
        kind.strip_prefix("urn:tidelock:problem:").expect("ours").to_owned()
    }
}

impl Server {
    /// Starts a coordinator with stores of its own and these datasets at `listen`, which the others that
    /// are started so take for a peer.
    pub fn start_site(data: &Path, node: u16, listen: &str, datasets: &str) -> Self {
        std::fs::create_dir_all(data).unwrap();
        let file = data.with_extension("toml");
        std::fs::write(&file, format!("node = {node}\nsite = {node}\n{datasets}")).unwrap();
        let secret = data.join("peer-token");
        std::fs::write(&secret, format!("{PEER_SECRET}\n")).unwrap();
        std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        let file = file.display().to_string();
        Server::run(cli_with(&["serve", "--listen", listen, "--config", &file], data), data)
    }

    /// Starts on a folder and a free port, and waits until it answers.
    pub fn start(data: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        Server::run(command, data)
    }

    /// Starts, and waits until it answers, be it that it is not ready.
    pub fn start_unready(data: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        Server::run_until(command, data, |_| true)
    }

    /// Starts with no file allowed to grow past so many KiB: a disk that is full, as far as the
    /// process can tell.
    pub fn start_on_small_disk(data: &Path, kib: u32) -> Self {
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
        let mut command = Command::new("bash");
        command.args(["-c", &script, BINARY, "serve", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(data);
        Server::run(command, data)
    }

    /// Starts a command that ends up as a server on a folder.
    pub fn run(command: Command, data: &Path) -> Self {
        Server::run_until(command, data, |status| status == 200)
    }

    fn run_until(mut command: Command, data: &Path, ready: fn(u16) -> bool) -> Self {
        let address_file = data.join("address");
        // A killed server leaves its address behind.
        let _ = remove_file(&address_file);
        let beside = |ending: &str| File::create(data.with_extension(ending)).unwrap();
        command.stdin(Stdio::null()).stdout(beside("out")).stderr(beside("log"));
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        loop {
            if let Ok(text) = read_to_string(&address_file)
                && let Some(address) = text.trim().strip_prefix("http://")
            {
                let address = address.parse().unwrap();
                let token = read_to_string(data.join("token")).unwrap().trim().to_owned();
                let server = Server { child, data: data.to_owned(), address, token };
                server.until("ready", || {
                    server.plain("GET", "/v1/health/ready", &[], b"").is_ok_and(|r| ready(r.status))
                });
                return server;
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!(
                    "it ended with {status}: {}",
                    read_to_string(data.with_extension("log")).unwrap()
                );
            }
            assert!(begun.elapsed() < WAIT_MAX, "it did not start");
            sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        read_to_string(self.data.with_extension("log")).unwrap()
    }

    pub fn banner(&self) -> String {
        read_to_string(self.data.with_extension("out")).unwrap()
    }

    /// Polls until `done`.
    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < WAIT_MAX, "waited in vain until {what}; {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits until no store is behind.
    pub fn until_idle(&self) {
        self.until("nothing is owed", || {
            let status = self.send("GET", "/v1/status", b"").json();
            let coordinator = &status["coordinator"];
            let stores = coordinator["stores"].as_array().cloned().unwrap_or_default();
            coordinator["intents"] == 0
                && stores.len() == 3
                && stores.iter().all(|store| store["backlog"] == 0)
        });
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    pub fn ended(mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < WAIT_MAX, "it did not end; {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Stops it politely.
    pub fn stop(self) -> ExitStatus {
        self.signal("-TERM");
        self.ended()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A request with the token, which must be answered.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        self.send_with(method, path, &[], body)
    }

    /// The same with more headers.
    pub fn send_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}; {}", self.log()))
    }

    /// The same, which may fail.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        self.plain(method, path, &all, body)
    }

    /// A request with these headers and no others but `Host`, unless that is given.
    pub fn plain(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        request(self.address, method, path, headers, body)
    }

    /// Runs a verb of the command line against this server.
    pub fn cli(&self, args: &[&str]) -> Output {
        cli_with(args, &self.data).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A verb on a data folder, not started yet.
pub fn cli_with(args: &[&str], data: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).arg("--data").arg(data).stdin(Stdio::null());
    command.env_remove("TIDELOCK_URL").env_remove("TIDELOCK_TOKEN");
    command
}

/// `serve` that is expected to refuse: its exit code and what it said.
pub fn refused_start(data: &Path, args: &[&str]) -> (i32, String) {
    let mut command = cli_with(&["serve", "--listen", "127.0.0.1:0"], data);
    let mut child =
        command.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > WAIT_MAX {
            child.kill().unwrap();
            panic!("it started instead of refusing");
        }
        sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Tells the sites 1 and 2 of each other.
pub fn introduce(a: &Server, b: &Server) {
    for (server, node, other) in [(a, "2", b), (b, "1", a)] {
        let url = format!("http://{}", other.address);
        let added = server.cli(&["peer", "add", node, &url, "--site", node]);
        assert!(added.status.success(), "{}", stderr(&added));
    }
}

/// A folder for one test; the data folder in it is `data`.
pub fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One request on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    if !body.is_empty() || method == "PUT" || method == "POST" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server that refuses before it has read everything closes: its answer is what counts.
    let sent = stream.write_all(body);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        sent?;
        read?;
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no answer"));
    };
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("malformed: {head}")))?;
    let reply = Reply { status, head, body: answer[end + 4..].to_vec() };
    let length = reply.header("content-length").and_then(|length| length.parse().ok());
    if length.is_some_and(|length: usize| length != reply.body.len()) && method != "HEAD" {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut off"));
    }
    Ok(reply)
}
