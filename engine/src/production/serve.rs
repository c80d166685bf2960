//! `tidelock serve`: from the command line to a server that takes requests, and back.
//!
//! ```text
//! folder -> lock -> configuration, token -> port -> journal, stores -> node -> requests
//!                                                          signal -> drain -> stop
//! ```
//!
//! Invariant: nothing in the folder is changed before its lock is held, and nothing is served
//! before the journal was replayed.

use super::audit::{Audit, Log, follow, wall_ms};
use super::cli::ServeArgs;
use super::env::ProductionEnv;
use super::folder;
use super::journal::{DiskJournal, FolderLock};
use super::node::{Drained, Node};
use super::peers::HttpPeers;
use super::reload::Reload;
use super::rest::{About, App, Door};
use super::webhook::Webhooks;
use crate::env::Peer;
use crate::policy::parse::{self, Config};
use crate::policy::{Pace, Policy};
use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A stop waits this long for what is owed; the rest stays in the journal.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Then answers that are under way may take this long.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
const STORES: &str = "embedded in the data folder; no Cloudflare account is touched";

/// Why the server did not run.
#[derive(Debug)]
pub enum ServeError {
    /// The configuration or command line asks for something impossible.
    Config(String),
    /// Folder, port, journal or stores cannot be used.
    Start(String),
    /// It ran and failed.
    Failed(String),
}

impl ServeError {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            ServeError::Failed(_) => 1,
            ServeError::Config(_) => 2,
            ServeError::Start(_) => 3,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Config(problem)
            | ServeError::Start(problem)
            | ServeError::Failed(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for ServeError {}

fn start(error: impl fmt::Display) -> ServeError {
    ServeError::Start(error.to_string())
}

/// Runs the server until a signal.
pub fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| start(format!("the runtime cannot be started: {error}")))?;
    folder::make(&args.data).map_err(start)?;
    let lock = FolderLock::take(&args.data).map_err(start)?;
    let served = runtime.block_on(run(args, &lock));
    // The tasks end here, and with the last of them journal and stores are closed: only then may
    // another process have the folder.
    runtime.shutdown_timeout(GOODBYE_MAX);
    drop(lock);
    served
}

async fn run(args: ServeArgs, lock: &FolderLock) -> Result<(), ServeError> {
    let data = args.data.as_path();
    let (file, config) = config(data, args.config.as_deref())?;
    let reload = Arc::new(Reload::new(file, &config));
    let token = folder::token(data, folder::TOKEN_FILE, rand::random).map_err(start)?;
    let secret = folder::token(data, folder::PEER_TOKEN_FILE, rand::random).map_err(start)?;
    let own = Peer { node: config.node, site: config.site };
    let peers = Arc::new(HttpPeers::open(data, own, config.peers, secret).map_err(start)?);
    let webhooks = Webhooks::open(data, own, config.webhooks);
    let webhooks = Arc::new(webhooks.map_err(|error| ServeError::Config(error.to_string()))?);
    let listener = bind(args.listen.unwrap_or(config.listen)).await?;
    let address = listener.local_addr().map_err(start)?;
    let mut signals = Signals::new().map_err(start)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(start)?;

    let journal = DiskJournal::open(data, lock).map_err(start)?;
    let env = ProductionEnv::open(data, journal, peers.clone()).map_err(start)?;
    let policy = env.bind(config.policy).await.map_err(|error| {
        let own = data.join(folder::CONFIG_FILE);
        let file = args.config.as_deref().unwrap_or(&own).display();
        ServeError::Config(format!("the configuration {file} does not fit D1: {error}"))
    })?;
    let node = Node::start(env, config.node, policy, Pace::default()).await;
    let node = node.map_err(start)?;

    let url = format!("http://{}", reachable(address));
    let shown = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let shown = shown.display().to_string();
    let about = About { folder: shown.clone(), address: url.clone(), stores: STORES };
    let door = Door::new(&token, address, args.allow_host);
    let log = Log::open(data, lock).map_err(start)?;
    let audit = Audit::start(log, data, wall_ms(&node), config.audit).map_err(start)?;
    tokio::spawn(follow(node.clone(), audit.clone()));
    webhooks.start(&audit);
    let app = App::new(node.clone(), door, about, peers, reload.clone(), audit.clone(), webhooks);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let goodbye = async {
        // A sender that is gone means the same as one that spoke.
        let _ = stopped.await;
    };
    let server = axum::serve(listener, app.router()).with_graceful_shutdown(goodbye);
    let mut server = tokio::spawn(server.into_future());
    folder::write_address(data, &url).map_err(start)?;
    banner(&shown, &url, address, &node.policy());
    tracing::info!(%address, folder = shown, "serving");

    let named = loop {
        tokio::select! {
            named = signals.next() => break named,
            _ = hangup.recv() => match reload.now(&node, &audit) {
                Ok(changes) => {
                    let said = changes.said.join("; ");
                    tracing::info!(changed = said, "reloaded");
                    audit.operator(wall_ms(&node), "policy reload", &said, "SIGHUP").await;
                }
                Err(refused) => tracing::error!(
                    "the configuration was not reloaded, and the former one holds: {}",
                    refused.reasons().join("\n")
                ),
            },
            ended = &mut server => {
                folder::remove_address(data);
                return Err(ServeError::Failed(format!("the server ended by itself: {ended:?}")));
            }
        }
    };
    tracing::info!(signal = named, "stopping: no new writes; delivering what is owed");
    tokio::select! {
        drained = node.drain(DRAIN_MAX) => match drained {
            Drained::Clean => tracing::info!("everything that this run acknowledged is in its stores"),
            Drained::Owing { intents } => tracing::warn!(
                intents,
                "some work is left; the journal and the authority keep it for the next start"
            ),
        },
        named = signals.next() => {
            tracing::warn!(signal = named, "stopping at once; what is owed stays in the journal");
        }
    }
    audit.end();
    let _ = stop.send(());
    tokio::select! {
        ended = tokio::time::timeout(GOODBYE_MAX, &mut server) => if ended.is_err() {
            tracing::warn!("some clients were still connected, and are cut off");
        },
        _ = signals.next() => {}
    }
    server.abort();
    folder::remove_address(data);
    tracing::info!("stopped");
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The configuration that is named, or the folder's own, written when there is none.
fn config(data: &Path, named: Option<&Path>) -> Result<(PathBuf, Config), ServeError> {
    let own = data.join(folder::CONFIG_FILE);
    let path = named.unwrap_or(&own);
    if named.is_none() {
        folder::write_new(path, parse::DEFAULT, 0o644).map_err(start)?;
    }
    let text = folder::read_text(path).map_err(|error| match named {
        Some(_) => ServeError::Config(format!("the configuration cannot be read: {error}")),
        None => start(error),
    })?;
    let config = parse::parse(&path.display().to_string(), &text).map_err(|mistakes| {
        let mut text = format!("the configuration {} is not accepted\n", path.display());
        for mistake in mistakes {
            text.push_str(&format!("\n{mistake}\n"));
        }
        ServeError::Config(text.trim_end().to_owned())
    })?;
    Ok((path.to_owned(), config))
}

async fn bind(listen: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(listen).await.map_err(|error| {
        start(format!(
            "cannot listen on {listen} ({error}); choose another address with --listen, or stop \
             what uses this one"
        ))
    })
}

/// An address that a client on this machine can use: a server that listens everywhere answers on
/// the loopback too.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn banner(data: &str, url: &str, address: SocketAddr, policy: &Policy) {
    let mut text = format!(
        "Tidelock {version} keeps records identical across KV, D1 and R2.\n\n\
         \x20 Stores   {STORES}\n\
         \x20 Data     {data}\n\
         \x20 Address  {url}\n\
         \x20 Status   open {url} in a browser and paste the token from {data}/token\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    if !address.ip().is_loopback() {
        text.push_str(
            "\n  This address is reachable from other machines, without encryption: the token and \
             every value cross the network readable.\n",
        );
    }
    text.push_str("\n  What an acknowledged write survives\n");
    for dataset in policy.datasets.values() {
        text.push_str(&format!("    {}\n", dataset.promise()));
    }
    // Nobody has to be there to read it.
    let _ = writeln!(std::io::stdout(), "{text}");
}
