//! `import`: the files of a folder, or the lines of a `.jsonl` file, as records.
//!
//! ```text
//! folder or lines -> bounded channel -> threads, one request each -> counts
//! ```
//!
//! Many requests are under way at once, so that one journal commit carries many records.
//! Invariant: symbolic links are not followed, nothing but plain files is opened, and what cannot
//! be imported is named and counted; the rest goes on.

use super::client::{Client, NoAnswer};
use super::verbs::read_value;
use super::{CliError, ImportArgs, jsonl, line};
use crate::record::VALUE_BYTES_MAX;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use ureq::http::Method;
use walkdir::WalkDir;

/// Records that wait for a thread.
const WAITING_MAX: usize = 64;
/// Refusals and skips that are listed in the summary; the rest is only counted.
const LISTED_MAX: usize = 1_000;
// Base64 takes four bytes for three; a key and its quotes come on top.
const LINE_BYTES_MAX: u64 = VALUE_BYTES_MAX as u64 / 3 * 4 + 64 * 1024;

/// A record on its way.
enum Item {
    File { key: String, path: PathBuf },
    Value { key: String, value: Vec<u8>, place: String },
}

/// What became of everything.
#[derive(Debug, Default)]
struct Counts {
    stored: u64,
    bytes: u64,
    pending: u64,
    refused: u64,
    skipped: u64,
    listed: Vec<Value>,
    unreachable: Option<String>,
}

struct Import<'a> {
    args: &'a ImportArgs,
    client: Client,
    bar: ProgressBar,
    counts: Mutex<Counts>,
    /// The server is gone: there is no sense in going on.
    over: AtomicBool,
}

pub fn import(args: &ImportArgs) -> Result<(), CliError> {
    let client = Client::find(&args.client)?;
    let kind = dataset_kind(&client, &args.dataset)?;
    let metadata = std::fs::metadata(&args.path)
        .map_err(|error| CliError::Failed(format!("{}: {error}", args.path.display())))?;
    let import = Import {
        args,
        client,
        bar: line::bar("importing", args.client.json),
        counts: Mutex::new(Counts::default()),
        over: AtomicBool::new(false),
    };
    let (items, queue) = sync_channel(WAITING_MAX);
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| import.work(&queue));
        }
        let is_lines = args.path.extension().is_some_and(|ending| ending == "jsonl");
        if metadata.is_file() && is_lines {
            import.lines(&args.path, kind == "json", &items);
        } else {
            import.files(&args.path, &items);
        }
        drop(items);
    });
    import.bar.finish_and_clear();
    import.finish()
}

/// The dataset's kind of values; an error names the datasets that there are.
pub(super) fn dataset_kind(client: &Client, dataset: &str) -> Result<String, CliError> {
    let status = client.document("/v1/status")?;
    let datasets = status["datasets"].as_array().cloned().unwrap_or_default();
    match datasets.iter().find(|known| known["name"] == dataset) {
        Some(known) => Ok(known["kind"].as_str().unwrap_or_default().to_owned()),
        None => {
            let names: Vec<&str> =
                datasets.iter().filter_map(|known| known["name"].as_str()).collect();
            Err(CliError::Failed(format!(
                "there is no dataset {dataset:?}; the datasets are {}",
                names.join(", ")
            )))
        }
    }
}

impl Import<'_> {
    /// Walks a folder; keys are the paths below it. A single file's key is its name.
    fn files(&self, root: &Path, items: &SyncSender<Item>) {
        for entry in WalkDir::new(root).follow_links(false).sort_by_file_name() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let name = error.path().unwrap_or(root).display().to_string();
                    self.refuse(&name, &error.to_string());
                    continue;
                }
            };
            let path = entry.path();
            let name = path.display().to_string();
            // The path that was asked for may be a link; those found below it are not followed.
            let kind = if entry.depth() == 0 && entry.path_is_symlink() {
                match std::fs::metadata(path) {
                    Ok(metadata) => metadata.file_type(),
                    Err(error) => {
                        self.refuse(&name, &error.to_string());
                        continue;
                    }
                }
            } else {
                entry.file_type()
            };
            if kind.is_dir() {
                continue;
            }
            if !kind.is_file() {
                let what = if kind.is_symlink() { "a symbolic link" } else { "no plain file" };
                self.skip(&name, what);
                continue;
            }
            let below = if entry.depth() == 0 {
                Path::new(entry.file_name())
            } else {
                path.strip_prefix(root).unwrap_or(path)
            };
            let Some(key) = key_of(below) else {
                self.refuse(&name, "its name is no UTF-8, and keys are; rename it");
                continue;
            };
            self.bar.inc_length(1);
            if items.send(Item::File { key, path: path.to_owned() }).is_err() {
                return;
            }
        }
    }

    fn lines(&self, path: &Path, is_json: bool, items: &SyncSender<Item>) {
        let name = path.display().to_string();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return self.refuse(&name, &error.to_string()),
        };
        let mut reader = BufReader::new(file);
        let mut number = 0_u64;
        let mut buffer = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            number += 1;
            buffer.clear();
            let place = format!("{name}:{number}");
            match reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return self.refuse(&place, &error.to_string()),
            }
            if buffer.len() as u64 > LINE_BYTES_MAX && !buffer.ends_with(b"\n") {
                self.refuse(&place, "the line is longer than any record can be");
                if let Err(error) = reader.skip_until(b'\n') {
                    return self.refuse(&place, &error.to_string());
                }
                continue;
            }
            if buffer.trim_ascii().is_empty() {
                continue;
            }
            match jsonl::read(&buffer, is_json) {
                Ok((key, value)) => {
                    self.bar.inc_length(1);
                    if items.send(Item::Value { key, value, place }).is_err() {
                        return;
                    }
                }
                Err(error) => self.refuse(
                    &place,
                    &format!("{error}; give {{\"key\": .., \"value\": ..}} on each line"),
                ),
            }
        }
    }

    fn work(&self, queue: &Mutex<Receiver<Item>>) {
        loop {
            let item = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(item) = item else { return };
            // What still waits is drained, so that the walk is not left hanging.
            if self.over.load(Ordering::Relaxed) {
                continue;
            }
            self.store(item);
            self.bar.inc(1);
        }
    }

    fn store(&self, item: Item) {
        let (key, name, value) = match item {
            Item::Value { key, value, place } => (key, place, Ok(value)),
            Item::File { key, path } => {
                let name = path.display().to_string();
                let file = File::open(&path);
                let value = file.map_err(|error| CliError::Failed(format!("{name}: {error}")));
                let value = value.and_then(|file| read_value(file, &name));
                (key, name, value)
            }
        };
        let value = match value {
            Ok(value) => value,
            Err(error) => {
                let error = error.to_string();
                let prefix = format!("{name}: ");
                return self.refuse(&name, error.strip_prefix(&prefix).unwrap_or(&error));
            }
        };
        let path = Client::record(&self.args.dataset, &key);
        match self.client.send_patiently(Method::PUT, &path, &[], &value) {
            Ok(answer) => {
                let pending = answer.status == 202;
                if self.args.each {
                    let shown = json!({ "key": key, "etag": answer.header("etag").map(|e| e.trim_matches('"')), "pending": pending });
                    line::print(&if self.args.client.json {
                        shown.to_string()
                    } else {
                        format!("stored {key}")
                    });
                }
                let mut counts = self.counts();
                counts.stored += 1;
                counts.bytes += value.len() as u64;
                counts.pending += u64::from(pending);
            }
            Err(error @ NoAnswer::Connection(_)) => self.give_up(error.detail()),
            Err(NoAnswer::Problem { status: 401, detail, .. }) => self.give_up(&detail),
            Err(error) => self.refuse(&name, error.detail()),
        }
    }

    fn give_up(&self, detail: &str) {
        self.over.store(true, Ordering::Relaxed);
        self.counts().unreachable.get_or_insert_with(|| detail.to_owned());
    }

    fn refuse(&self, name: &str, why: &str) {
        line::note(&self.bar, &format!("refused {name}: {why}"));
        let mut counts = self.counts();
        counts.refused += 1;
        counts.list("refused", name, why);
    }

    fn skip(&self, name: &str, what: &str) {
        line::note(&self.bar, &format!("skipped {name}: it is {what}"));
        let mut counts = self.counts();
        counts.skipped += 1;
        counts.list("skipped", name, what);
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(self) -> Result<(), CliError> {
        let counts = self.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Counts { stored, bytes, pending, refused, skipped, listed, unreachable } = counts;
        let error = match (unreachable, refused) {
            (Some(detail), _) => Some(CliError::Unreachable(format!(
                "stopped early: {detail}. Every record counted as stored is safe; run the same \
                 import again for the rest"
            ))),
            (None, 0) => None,
            (None, refused) => Some(CliError::Failed(format!("{refused} records were refused"))),
        };
        let dataset = &self.args.dataset;
        if self.args.client.json {
            let shown = json!({
                "dataset": dataset, "stored": stored, "bytes": bytes, "pending": pending,
                "refused": refused, "skipped": skipped, "details": listed,
                "error": error.as_ref().map(CliError::to_string),
            });
            line::print(&shown.to_string());
        } else {
            let pending = match pending {
                0 => String::new(),
                some => format!(" ({some} of them pending at a store)"),
            };
            line::print(&format!(
                "stored {stored} records, {bytes} bytes, in {dataset}{pending}; refused {refused}, \
                 skipped {skipped}"
            ));
        }
        error.map_or(Ok(()), |error| Err(CliError::Told(Box::new(error))))
    }
}

impl Counts {
    fn list(&mut self, what: &str, name: &str, why: &str) {
        if self.listed.len() < LISTED_MAX {
            self.listed.push(json!({ "name": name, what: why }));
        }
    }
}

/// A relative path as a key: its names joined by `/`.
fn key_of(path: &Path) -> Option<String> {
    let names: Option<Vec<&str>> = path.iter().map(|name| name.to_str()).collect();
    Some(names?.join("/"))
}
