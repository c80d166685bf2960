//! `export`: a dataset's records as files below a folder, or as lines of a `.jsonl` file.
//!
//! Invariant: nothing is written outside the folder, nothing that exists is overwritten, and no
//! symbolic link in the folder is followed, whatever the keys are (`place`).

use super::client::{Client, NoAnswer};
use super::import::dataset_kind;
use super::place::Places;
use super::verbs::{Note, find};
use super::{CliError, ExportArgs, jsonl, line};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const WAITING_MAX: usize = 64;
const LISTED_MAX: usize = 1_000;
/// A listing shows what the authority holds: what is on its way there is waited for this long.
const SETTLE_MAX: Duration = Duration::from_secs(10);
const SETTLE_LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Counts {
    saved: u64,
    bytes: u64,
    references: u64,
    missing: u64,
    encoded: u64,
    refused: u64,
    gone: u64,
    listed: Vec<Value>,
    unreachable: Option<String>,
}

struct Export<'a> {
    args: &'a ExportArgs,
    client: Client,
    bar: ProgressBar,
    counts: Mutex<Counts>,
    over: AtomicBool,
}

/// Where a record goes.
struct Item {
    key: String,
    /// Below the folder; none for lines.
    path: Option<String>,
}

pub fn export(args: &ExportArgs) -> Result<(), CliError> {
    let client = Client::find(&args.client)?;
    let is_json = dataset_kind(&client, &args.dataset)? == "json";
    wait_for_intents(&client)?;
    let failed =
        |error: std::io::Error| CliError::Failed(format!("{}: {error}", args.out.display()));
    let is_lines = args.out.extension().is_some_and(|ending| ending == "jsonl");
    let lines = if is_lines {
        let file = OpenOptions::new().write(true).create_new(true).open(&args.out);
        Some(Mutex::new(BufWriter::new(file.map_err(failed)?)))
    } else {
        std::fs::create_dir_all(&args.out).map_err(failed)?;
        None
    };
    let export = Export {
        args,
        client,
        bar: line::bar("exporting", args.client.json),
        counts: Mutex::new(Counts::default()),
        over: AtomicBool::new(false),
    };
    let (items, queue) = sync_channel(WAITING_MAX);
    let queue = Mutex::new(queue);
    let listed = std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| export.work(&queue, lines.as_ref(), is_json));
        }
        let mut places = Places::default();
        let listed = export.list(|key| {
            let path = if is_lines { None } else { Some(export.place(&mut places, &key)?) };
            items.send(Item { key, path }).ok()
        });
        // The threads end when the last of what was sent is done.
        drop(items);
        listed
    });
    export.bar.finish_and_clear();
    listed?;
    if let Some(lines) = lines {
        let mut lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
        lines.flush().map_err(failed)?;
    }
    export.finish()
}

fn wait_for_intents(client: &Client) -> Result<(), CliError> {
    let begun = Instant::now();
    loop {
        let status = client.document("/v1/status")?;
        let waiting = status["coordinator"]["intents"].as_u64().unwrap_or(0);
        if waiting == 0 {
            return Ok(());
        }
        if begun.elapsed() >= SETTLE_MAX {
            eprintln!(
                "tidelock: {waiting} acknowledged writes have not reached the authority yet; what \
                 they write may be missing or older in this export"
            );
            return Ok(());
        }
        std::thread::sleep(SETTLE_LOOK);
    }
}

impl Export<'_> {
    /// Gives each key of the dataset, in order.
    fn list(&self, mut each: impl FnMut(String) -> Option<()>) -> Result<(), CliError> {
        let mut after: Option<String> = None;
        loop {
            let page =
                self.client.document(&Client::listing(&self.args.dataset, after.as_deref()))?;
            let records = page["records"].as_array().map(Vec::as_slice).unwrap_or_default();
            self.bar.inc_length(records.len() as u64);
            for key in records.iter().filter_map(|record| record["key"].as_str()) {
                if self.over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                // What got no place was refused, and is counted.
                let _ = each(key.to_owned());
            }
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(()),
            }
        }
    }

    fn place(&self, places: &mut Places, key: &str) -> Option<String> {
        match places.give(key) {
            Ok(place) => {
                if place.encoded {
                    let text = format!(
                        "{key:?} is saved as {:?}: as it stands, it is no safe file name",
                        place.path
                    );
                    line::note(&self.bar, &text);
                    let mut counts = self.counts();
                    counts.encoded += 1;
                    counts.list("saved_as", key, &place.path);
                }
                Some(place.path)
            }
            Err(why) => {
                self.refuse(key, &why);
                None
            }
        }
    }

    fn work(
        &self,
        queue: &Mutex<Receiver<Item>>,
        lines: Option<&Mutex<BufWriter<File>>>,
        is_json: bool,
    ) {
        loop {
            let item = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(item) = item else { return };
            if self.over.load(Ordering::Relaxed) {
                continue;
            }
            self.save(&item, lines, is_json);
            self.bar.inc(1);
        }
    }

    fn save(&self, item: &Item, lines: Option<&Mutex<BufWriter<File>>>, is_json: bool) {
        let (key, store) = (&item.key, self.args.store);
        let found = match find(&self.client, &self.args.dataset, key, store, store.is_none()) {
            Ok(found) => found,
            Err(NoAnswer::Problem { kind, .. }) if kind == "not-found" => {
                // Deleted since it was listed.
                self.counts().gone += 1;
                return;
            }
            Err(error @ NoAnswer::Connection(_)) => return self.give_up(error.detail()),
            Err(NoAnswer::Problem { status: 401, detail, .. }) => return self.give_up(&detail),
            Err(error) => return self.refuse(key, error.detail()),
        };
        if found.answer.status == 300 {
            let why = "several values stand beside each other; decide with `tidelock put --context`, \
                       or give --store d1 for the one that copies hold";
            return self.refuse(key, why);
        }
        let value = &found.answer.body;
        let written = match (&item.path, lines) {
            (Some(path), _) => write_below(&self.args.out, path, value),
            (None, Some(lines)) => {
                let text = jsonl::write(key, value, is_json);
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                writeln!(lines, "{text}").map_err(|error| error.to_string())
            }
            (None, None) => unreachable!("records without a path go into the lines"),
        };
        if let Err(why) = written {
            return self.refuse(key, &why);
        }
        let mut counts = self.counts();
        counts.saved += 1;
        counts.bytes += value.len() as u64;
        match found.note {
            Some(Note::Reference) => counts.references += 1,
            Some(Note::Missing) => counts.missing += 1,
            None => {}
        }
    }

    fn give_up(&self, detail: &str) {
        self.over.store(true, Ordering::Relaxed);
        self.counts().unreachable.get_or_insert_with(|| detail.to_owned());
    }

    fn refuse(&self, key: &str, why: &str) {
        line::note(&self.bar, &format!("refused {key:?}: {why}"));
        let mut counts = self.counts();
        counts.refused += 1;
        counts.list("refused", key, why);
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(self) -> Result<(), CliError> {
        let counts = self.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let error = match (counts.unreachable, counts.refused) {
            (Some(detail), _) => Some(CliError::Unreachable(format!("stopped early: {detail}"))),
            (None, 0) => None,
            (None, refused) => Some(CliError::Failed(format!("{refused} records were refused"))),
        };
        let store = self.args.store.map(|store| store.name());
        if self.args.client.json {
            let shown = json!({
                "dataset": self.args.dataset, "store": store, "out": self.args.out.display().to_string(),
                "saved": counts.saved, "bytes": counts.bytes, "references": counts.references,
                "missing": counts.missing, "encoded": counts.encoded, "refused": counts.refused,
                "gone": counts.gone, "details": counts.listed,
                "error": error.as_ref().map(CliError::to_string),
            });
            line::print(&shown.to_string());
        } else {
            let mut text = format!(
                "saved {} records, {} bytes, in {}; refused {}",
                counts.saved,
                counts.bytes,
                self.args.out.display(),
                counts.refused
            );
            let store = store.unwrap_or("the store");
            for (count, what) in [
                (counts.encoded, "under encoded names".to_owned()),
                (counts.references, format!("referred to by {store}, fetched whole")),
                (counts.missing, format!("not in {store}, taken from the authority")),
                (counts.gone, "deleted meanwhile".to_owned()),
            ] {
                if count > 0 {
                    text.push_str(&format!("; {count} {what}"));
                }
            }
            line::print(&text);
        }
        error.map_or(Ok(()), |error| Err(CliError::Told(Box::new(error))))
    }
}

impl Counts {
    fn list(&mut self, what: &str, key: &str, why: &str) {
        if self.listed.len() < LISTED_MAX {
            self.listed.push(json!({ "key": key, what: why }));
        }
    }
}

/// Writes a new file at a path of plain names below a folder.
fn write_below(root: &Path, path: &str, value: &[u8]) -> Result<(), String> {
    let mut folder = root.to_owned();
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    for part in above.split('/').filter(|part| !part.is_empty()) {
        folder.push(part);
        enter(&folder)?;
    }
    let file: PathBuf = folder.join(name);
    let told = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => format!(
            "{} is there already and is not overwritten (names may differ in case only); export \
             to an empty folder",
            file.display()
        ),
        _ => format!("{}: {error}", file.display()),
    };
    // `create_new` neither replaces a file nor follows a link.
    let mut opened = OpenOptions::new().write(true).create_new(true).open(&file).map_err(told)?;
    if let Err(error) = opened.write_all(value) {
        let _ = std::fs::remove_file(&file);
        return Err(told(error));
    }
    Ok(())
}

/// Makes a folder, or finds a real one.
fn enter(folder: &Path) -> Result<(), String> {
    match std::fs::create_dir(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(format!("{}: {error}", folder.display())),
    }
    let metadata = std::fs::symlink_metadata(folder);
    let metadata = metadata.map_err(|error| format!("{}: {error}", folder.display()))?;
    if metadata.file_type().is_symlink() {
        return Err(format!("{} is a symbolic link and is not followed", folder.display()));
    }
    if !metadata.is_dir() {
        return Err(format!("{} is in the way: a folder is needed there", folder.display()));
    }
    Ok(())
}
