//! The command line: `serve` runs the server, every other verb is a client of its REST API, but for
//! `audit`, which reads the log's files.
//!
//! Exit codes: 0 done, 1 failed, differing or some refused, 2 usage or configuration, 3 the server cannot
//! start, 4 no such record, 5 the server cannot be reached or does not know the token.

mod audit;
mod client;
mod conflicts;
mod dlq;
mod export;
mod import;
mod jsonl;
mod line;
mod peer;
mod place;
mod policy;
mod redaction;
mod store;
mod sync;
mod verbs;
mod webhook;

use super::audit::Cursor;
use super::serve::serve;
use crate::audit::Kind;
use crate::policy::parse;
use crate::record::StoreId;
use crate::version::{ContentHash, Dot};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::fmt;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

const DATA_DEFAULT: &str = "./tidelock-data";

#[derive(Debug, Parser)]
#[command(
    name = "tidelock",
    version,
    about = "Keeps records identical across Cloudflare KV, D1 and R2",
    after_help = "Verbs other than serve find server and token in the data folder. TIDELOCK_URL \
                  and TIDELOCK_TOKEN name another server.\n\nExit codes: 0 done, 1 failed or some \
                  refused, 2 usage or configuration, 3 the server cannot start, 4 no such record, \
                  5 server unreachable or token refused."
)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server on a data folder
    Serve(ServeArgs),
    /// Print or save one record's value
    Get(GetArgs),
    /// Write one record
    Put(PutArgs),
    /// Change part of one JSON record, whatever else stands in it
    Patch(PatchArgs),
    /// Add to a number in one JSON record
    Increment(IncrementArgs),
    /// Delete one record
    Delete(DeleteArgs),
    /// Show how the server and its stores are
    Status(StatusArgs),
    /// Write the files of a folder, or the lines of a .jsonl file, as records
    Import(ImportArgs),
    /// Save a dataset's records into a folder or a .jsonl file
    Export(ExportArgs),
    /// Look whether KV and R2 hold what D1 does; change nothing
    Verify(VerifyArgs),
    /// Look whether KV and R2 hold what D1 does, and mend what differs
    Sync(SyncArgs),
    /// The other coordinators
    #[command(subcommand)]
    Peer(PeerVerb),
    /// Look at the configuration, or have the server read it again
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// See to dead letters: what a store refuses for good
    Dlq(DlqArgs),
    /// See what lost against another write of the same record, and bring it back
    Conflicts(ConflictsArgs),
    /// See to those who are told over HTTP of what the audit log tells
    #[command(subcommand)]
    Webhook(WebhookVerb),
    /// Hold a store, or let work through to it whatever it answers
    #[command(subcommand)]
    Store(StoreVerb),
    /// Read the audit log of a data folder, and look whether it is what was written, without a server;
    /// have a server erase bytes
    Audit(AuditArgs),
}

/// `tidelock serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where everything is kept; made when it is missing
    #[arg(long, value_name = "DIR", default_value = DATA_DEFAULT)]
    pub data: PathBuf,
    /// The configuration; by default tidelock.toml in the data folder, written at the first start
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to answer at, in place of the configured ones (127.0.0.1:7878); port 0
    /// takes a free one
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Another host name to answer under, beside the address and localhost
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// Form of the log on standard error; RUST_LOG chooses what is logged
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
struct ClientArgs {
    /// The server's data folder, which holds its address and token
    #[arg(long, value_name = "DIR", default_value = DATA_DEFAULT)]
    data: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    dataset: String,
    key: String,
    /// Write the value to this file, which must not exist yet
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read this store's copy
    #[arg(long, value_name = "kv|d1|r2", conflicts_with = "latest")]
    store: Option<StoreId>,
    /// Ask the authority instead of the nearest copy
    #[arg(long)]
    latest: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct PutArgs {
    dataset: String,
    key: String,
    /// The value; `-` or nothing reads standard input
    #[arg(value_name = "FILE|-")]
    file: Option<PathBuf>,
    /// Only over this version, named by its etag
    #[arg(long, value_name = "ETAG", conflicts_with = "create")]
    if_match: Option<String>,
    /// Only when there is no such record
    #[arg(long)]
    create: bool,
    /// Over what was read with this context; what has been written since stands against it
    #[arg(long, value_name = "CONTEXT", conflicts_with_all = ["create", "if_match"])]
    context: Option<String>,
    /// The value expires after this, as in 90s, 1h or 30d; never: it does not, whatever the dataset
    /// says
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct PatchArgs {
    dataset: String,
    key: String,
    /// A merge patch (RFC 7396): members to set, or with null to remove; `-` or nothing reads standard
    /// input
    #[arg(value_name = "FILE|-")]
    file: Option<PathBuf>,
    /// It is a list of operations instead (RFC 6902)
    #[arg(long)]
    operations: bool,
    /// Only this version, named by its etag
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct IncrementArgs {
    dataset: String,
    key: String,
    /// Where the number is, as in /stock or /sizes/0 (RFC 6901)
    pointer: String,
    /// How much to add
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    by: i64,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    dataset: String,
    key: String,
    /// Only this version, named by its etag
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// The dataset to write to
    #[arg(long, value_name = "NAME")]
    dataset: String,
    /// A folder, a file, or a .jsonl file of {"key": .., "value": ..} lines
    path: PathBuf,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Also print each key as soon as its record is acknowledged
    #[arg(long)]
    each: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// The dataset to read
    #[arg(long, value_name = "NAME")]
    dataset: String,
    /// Read this store's copies; what it lacks is taken from the authority and counted
    #[arg(long, value_name = "kv|d1|r2")]
    store: Option<StoreId>,
    /// A folder, or a file that ends in .jsonl; nothing that exists is overwritten
    out: PathBuf,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Over {
    /// Only this dataset
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Only this store
    #[arg(long, value_name = "kv|r2")]
    store: Option<StoreId>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    #[command(flatten)]
    over: Over,
}

#[derive(Debug, Args)]
struct SyncArgs {
    /// Mend even if much would be deleted, or a store is empty that should not be
    #[arg(long)]
    approve: bool,
    #[command(flatten)]
    over: Over,
}

#[derive(Debug, Subcommand)]
enum PeerVerb {
    /// Show them
    List(ClientArgs),
    /// Talk to another coordinator from now on; the file `peer-token` must hold the same in both
    /// data folders
    Add {
        /// Its number
        node: u16,
        /// Where it answers, such as http://10.0.0.8:7878
        url: String,
        /// The site whose stores it has; by default it shares this one's
        #[arg(long, value_name = "N")]
        site: Option<u16>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Have this coordinator itself leave, so that it can be retired: it takes no new writes, and
    /// nothing of it is needed any more once this says so
    Leave {
        /// Wait so long for it
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        within: u32,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Talk to it no more; have it leave first, or what its journal alone holds is lost with its disk
    Retire {
        /// Its number
        node: u16,
        #[command(flatten)]
        client: ClientArgs,
    },
}

impl PeerVerb {
    fn json(&self) -> bool {
        match self {
            PeerVerb::List(client)
            | PeerVerb::Add { client, .. }
            | PeerVerb::Leave { client, .. }
            | PeerVerb::Retire { client, .. } => client.json,
        }
    }
}

#[derive(Debug, Subcommand)]
enum PolicyVerb {
    /// Have the server read its configuration file again; it takes all of it or nothing
    Reload(ReloadArgs),
    /// Show what is kept where, as the server has it in force
    Show(PolicyShowArgs),
    /// Look for mistakes in a configuration file, and whether a running server would take it
    Check(PolicyCheckArgs),
    /// Try the rules of a configuration file: their examples, and many conflicts made up from them
    Test(PolicyTestArgs),
    /// Show what past conflicts would have come to under a configuration file; nothing is changed
    Simulate(PolicySimulateArgs),
}

#[derive(Debug, Args)]
struct ReloadArgs {
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct PolicyShowArgs {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct PolicyCheckArgs {
    /// The configuration
    file: PathBuf,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct PolicyTestArgs {
    /// The configuration
    file: PathBuf,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct PolicySimulateArgs {
    /// The configuration
    file: PathBuf,
    /// How far back to go, as in 24h
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = ago)]
    since: Duration,
    #[command(flatten)]
    client: ClientArgs,
}

fn ago(text: &str) -> Result<Duration, String> {
    parse::lifetime(text).ok_or_else(|| "a number with s, m, h or d, as in 24h".to_owned())
}

#[derive(Debug, Args)]
struct DlqArgs {
    #[command(subcommand)]
    verb: DlqVerb,
}

#[derive(Debug, Subcommand)]
enum DlqVerb {
    /// Show what is refused, and how the last ones ended
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one with the history of its tries
    Show {
        id: String,
        /// Give the bytes of a write that D1 refuses, and nothing else
        #[arg(long)]
        value: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Try one again now
    Retry {
        id: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Give up a write that was acknowledged and that D1 refuses
    Discard {
        id: String,
        /// Why; it is logged
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

impl DlqArgs {
    fn json(&self) -> bool {
        match &self.verb {
            DlqVerb::List { client }
            | DlqVerb::Show { client, .. }
            | DlqVerb::Retry { client, .. }
            | DlqVerb::Discard { client, .. } => client.json,
        }
    }
}

#[derive(Debug, Args)]
struct ConflictsArgs {
    #[command(subcommand)]
    verb: ConflictsVerb,
}

#[derive(Debug, Subcommand)]
enum ConflictsVerb {
    /// List them, the newest first
    List {
        /// Of this dataset alone
        #[arg(long, value_name = "NAME")]
        dataset: Option<String>,
        /// The records of which several values stand beside each other now, by dataset and key
        #[arg(long)]
        open: bool,
        /// So many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one: what lost, what stands now, and how they differ
    Show {
        /// The operation id of the write that lost
        id: Dot,
        /// Give the bytes that lost, and nothing else
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Put one value in the place of several that stand beside each other
    Resolve(ConflictsResolveArgs),
    /// Write what lost again, over what stands now
    Restore {
        /// The operation id of the write that lost
        id: Dot,
        /// Only over this version, named by its etag; default: the one that stands at this moment
        #[arg(long, value_name = "ETAG")]
        if_match: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("with").required(true).args(["take", "value_file", "delete"]))]
struct ConflictsResolveArgs {
    dataset: String,
    key: String,
    /// The value of this operation, one of those that stand there
    #[arg(long, value_name = "OPERATION")]
    take: Option<Dot>,
    /// Another value, from this file, or - for standard input
    #[arg(long, value_name = "FILE|-")]
    value_file: Option<PathBuf>,
    /// None: delete the record
    #[arg(long)]
    delete: bool,
    /// What was seen, as `conflicts list --open` and reads give it; anything else is left alone
    #[arg(long, value_name = "CONTEXT")]
    context: String,
    /// Why; it is logged
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ConflictsArgs {
    fn json(&self) -> bool {
        match &self.verb {
            ConflictsVerb::List { client, .. }
            | ConflictsVerb::Show { client, .. }
            | ConflictsVerb::Restore { client, .. } => client.json,
            ConflictsVerb::Resolve(args) => args.client.json,
        }
    }
}

#[derive(Debug, Subcommand)]
enum StoreVerb {
    /// Show how each store does
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Force its breaker open: nothing is sent to it by this coordinator, writes wait in the journal
    Open(ForceArgs),
    /// Force its breaker closed: work is sent to it whatever it answers
    Close(ForceArgs),
    /// Let its breaker find out by itself again
    Auto(ForceArgs),
}

#[derive(Debug, Args)]
struct ForceArgs {
    #[arg(value_name = "kv|d1|r2")]
    store: StoreId,
    /// Why; it is logged, and shown while it holds
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl StoreVerb {
    fn json(&self) -> bool {
        match self {
            StoreVerb::List { client } => client.json,
            StoreVerb::Open(args) | StoreVerb::Close(args) | StoreVerb::Auto(args) => {
                args.client.json
            }
        }
    }
}

#[derive(Debug, Subcommand)]
enum WebhookVerb {
    /// Show how each does, and its dead letters
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Send a signed ping, and show the answer; one that is taken has a disabled webhook told again
    Test {
        /// The webhook
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Send a dead letter once more
    Retry {
        /// The webhook
        name: String,
        /// The dead letter
        id: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Give a dead letter up; the audit log keeps what it tells of
    Discard {
        /// The webhook
        name: String,
        /// The dead letter
        id: String,
        /// Why; it is logged
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

impl WebhookVerb {
    fn json(&self) -> bool {
        match self {
            WebhookVerb::List { client }
            | WebhookVerb::Test { client, .. }
            | WebhookVerb::Retry { client, .. }
            | WebhookVerb::Discard { client, .. } => client.json,
        }
    }
}

#[derive(Debug, Args)]
struct AuditArgs {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Look whether the log and its archive are what was written: 0 they are, 1 they are not
    Verify(AuditVerifyArgs),
    /// Show entries, the newest first
    List(AuditListArgs),
    /// Show one entry by its number, or all that name a conflict
    Show(AuditShowArgs),
    /// Save entries as lines of JSON, the oldest first
    Export(AuditExportArgs),
    /// Have the server erase the bytes of what lost or was superseded, for good; without --yes it shows
    /// what that would be
    Redact(AuditRedactArgs),
}

#[derive(Debug, Args)]
struct AuditVerifyArgs {
    /// The hash of an entry that must be in the log, noted elsewhere before: the head of then
    #[arg(long, value_name = "HASH")]
    expect_head: Option<ContentHash>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct AuditListArgs {
    /// Only what is about this dataset's records
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Only this kind: conflict, operator, restored, resolved, redacted, archived or set-back
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Only what is no older, as in 90s, 24h or 30d, or since these milliseconds after the epoch
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// No more than so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<Cursor>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct AuditShowArgs {
    /// An entry's number, or a conflict's id
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct AuditExportArgs {
    /// Only what is no older, as in 90s, 24h or 30d, or since these milliseconds after the epoch
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// A file that must not exist yet, or - for standard output
    #[arg(short, long, value_name = "FILE|-")]
    output: PathBuf,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct AuditRedactArgs {
    /// The operation id of a write that lost
    #[arg(value_name = "CONFLICT", conflicts_with_all = ["dataset", "key"])]
    conflict: Option<Dot>,
    /// With --key: all of a record but what stands there now
    #[arg(long, value_name = "NAME", requires = "key", required_unless_present = "conflict")]
    dataset: Option<String>,
    /// The record's key
    #[arg(long, value_name = "KEY", requires = "dataset")]
    key: Option<String>,
    /// Why; it is logged, and shown in place of the bytes
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Erase
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl AuditArgs {
    fn json(&self) -> bool {
        match &self.verb {
            AuditVerb::Verify(args) => args.client.json,
            AuditVerb::List(args) => args.client.json,
            AuditVerb::Show(args) => args.client.json,
            AuditVerb::Export(args) => args.client.json,
            AuditVerb::Redact(args) => args.client.json,
        }
    }
}

/// Why a verb did not do what was asked.
#[derive(Debug)]
pub enum CliError {
    /// It failed, or part of it was refused.
    Failed(String),
    /// The command line cannot be meant.
    Usage(String),
    /// No such record.
    NotFound(String),
    /// The server does not answer, or not to us.
    Unreachable(String),
    /// One of these, and the summary on standard output has said so already.
    Told(Box<CliError>),
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            CliError::Failed(_) => 1,
            CliError::Usage(_) => 2,
            CliError::NotFound(_) => 4,
            CliError::Unreachable(_) => 5,
            CliError::Told(error) => error.code(),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Failed(problem)
            | CliError::Usage(problem)
            | CliError::NotFound(problem)
            | CliError::Unreachable(problem) => f.write_str(problem),
            CliError::Told(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CliError {}

/// Runs the process.
pub fn main() -> ExitCode {
    let (ended, json) = match Line::parse().verb {
        Verb::Serve(args) => {
            log(args.log_format);
            return match serve(args) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("tidelock: {error}");
                    ExitCode::from(error.code())
                }
            };
        }
        Verb::Get(args) => (verbs::get(&args), args.client.json),
        Verb::Put(args) => (verbs::put(&args), args.client.json),
        Verb::Patch(args) => (verbs::patch(&args), args.client.json),
        Verb::Increment(args) => (verbs::increment(&args), args.client.json),
        Verb::Delete(args) => (verbs::delete(&args), args.client.json),
        Verb::Status(args) => (verbs::status(&args), args.client.json),
        Verb::Import(args) => (import::import(&args), args.client.json),
        Verb::Export(args) => (export::export(&args), args.client.json),
        Verb::Verify(args) => (sync::verify(&args), args.over.client.json),
        Verb::Sync(args) => (sync::sync(&args), args.over.client.json),
        Verb::Peer(verb) => (peer::peer(&verb), verb.json()),
        Verb::Policy(PolicyVerb::Reload(args)) => (policy::reload(&args), args.client.json),
        Verb::Policy(PolicyVerb::Show(args)) => (policy::show(&args), args.client.json),
        Verb::Policy(PolicyVerb::Check(args)) => (policy::check(&args), args.client.json),
        Verb::Policy(PolicyVerb::Test(args)) => (policy::test(&args), args.json),
        Verb::Policy(PolicyVerb::Simulate(args)) => (policy::simulate(&args), args.client.json),
        Verb::Dlq(args) => (dlq::dlq(&args), args.json()),
        Verb::Conflicts(args) => (conflicts::conflicts(&args), args.json()),
        Verb::Webhook(verb) => (webhook::webhook(&verb), verb.json()),
        Verb::Store(verb) => (store::store(&verb), verb.json()),
        Verb::Audit(args) => (audit::audit(&args), args.json()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidelock: {error}");
            if json && !matches!(error, CliError::Told(_)) {
                let problem = serde_json::json!({ "error": error.to_string() });
                line::print(&problem.to_string());
            }
            ExitCode::from(error.code())
        }
    }
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
        }
        LogFormat::Json => lines.json().init(),
    }
}
