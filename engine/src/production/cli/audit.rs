//! `audit`: what the log of a data folder tells, and whether it is what was written.
//!
//! These verbs read the folder's files, but for `redact`, so that they work while the server is down, and an auditor
//! need not ask the server that is audited.

use super::{
    AuditArgs, AuditExportArgs, AuditListArgs, AuditShowArgs, AuditVerb, AuditVerifyArgs, CliError,
    ClientArgs, line, redaction,
};
use crate::audit::{Conflict, Entry, Event, Kind, Original, Settled, Unreadable};
use crate::conflict::Contexts;
use crate::cron;
use crate::policy::parse;
use crate::production::audit::{AuditError, Cursor, Filter, Outcome, Reader, Sound, Wanted};
use serde_json::{Value, json, value::RawValue};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

/// Entries of a page when all that fit are read.
const PAGE_ENTRIES: usize = 500;

impl From<AuditError> for CliError {
    fn from(error: AuditError) -> Self {
        CliError::Failed(error.to_string())
    }
}

pub fn audit(args: &AuditArgs) -> Result<(), CliError> {
    match &args.verb {
        AuditVerb::Verify(args) => verify(args),
        AuditVerb::List(args) => list(args),
        AuditVerb::Show(args) => show(args),
        AuditVerb::Export(args) => export(args),
        AuditVerb::Redact(args) => redaction::redact(args),
    }
}

fn reader(client: &ClientArgs) -> Result<Reader, CliError> {
    let reader = Reader::of(&client.data);
    if !reader.folder().is_dir() {
        return Err(CliError::Usage(format!(
            "there is no audit log at {}; name the server's data folder with --data",
            reader.folder().display()
        )));
    }
    Ok(reader)
}

fn verify(args: &AuditVerifyArgs) -> Result<(), CliError> {
    let reader = reader(&args.client)?;
    match reader.verify(args.expect_head)? {
        Outcome::Sound(sound) => {
            let Sound { verified, segments, archived, torn_bytes } = sound;
            line::print(&if args.client.json {
                json!({
                    "verified": true,
                    "entries": verified.entries,
                    "first_seq": verified.first_seq,
                    "head": { "seq": verified.head.seq, "hash": verified.head.hash },
                    "expected_at": verified.expected_at,
                    "segments": segments,
                    "archived_segments": archived,
                    "unfinished_bytes": torn_bytes,
                })
                .to_string()
            } else {
                told(&sound)
            });
            Ok(())
        }
        Outcome::Broken { broken, place } => {
            let at = place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
            let error = CliError::Failed(format!("the audit log is broken: {broken}{at}"));
            if !args.client.json {
                return Err(error);
            }
            let place = place.map(|place| json!({ "file": place.file, "line": place.line }));
            let said = json!({
                "verified": false,
                "broken": {
                    "seq": broken.seq,
                    "wrong": broken.wrong.name(),
                    "detail": broken.to_string(),
                    "place": place,
                },
            });
            line::print(&said.to_string());
            Err(CliError::Told(Box::new(error)))
        }
    }
}

fn told(sound: &Sound) -> String {
    let Sound { verified, segments, archived, torn_bytes } = sound;
    if verified.entries == 0 {
        return "verified: the log has no entries yet".to_owned();
    }
    let mut told = format!(
        "verified: {} entries, {} to {}, in {segments} segments, {archived} of them archived\n",
        verified.entries, verified.first_seq, verified.head.seq
    );
    if verified.first_seq > 1 {
        let _ = writeln!(
            told,
            "  1 to {} are not here: a checkpoint says that they were archived",
            verified.first_seq - 1
        );
    }
    if *torn_bytes > 0 {
        let _ = writeln!(
            told,
            "  {torn_bytes} bytes at the end are no entry yet: one is being written, or was cut off \
             by a crash"
        );
    }
    match verified.expected_at {
        Some(at) => {
            let _ = writeln!(told, "  the expected head is entry {at}");
        }
        None => told.push_str(
            "  that none is gone from the end shows only against a head that was noted before: \
             --expect-head\n",
        ),
    }
    let _ = write!(told, "  head {}", verified.head.hash);
    told
}

fn list(args: &AuditListArgs) -> Result<(), CliError> {
    let reader = reader(&args.client)?;
    let filter = Filter {
        dataset: args.dataset.clone(),
        kind: args.kind,
        since_ms: args.since.as_deref().map(since_ms).transpose()?,
    };
    let (mut left, mut damaged) = (args.limit as usize, 0);
    let mut from: Option<Cursor> = args.cursor;
    let mut shown = 0;
    while left > 0 {
        let page = reader.page(&filter, from, left.min(PAGE_ENTRIES))?;
        for entry in &page.entries {
            line::print(&if args.client.json { entry.to_line() } else { brief(entry) });
        }
        left -= page.entries.len();
        shown += page.entries.len();
        damaged += page.damaged;
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    match from {
        // Standard output is for entries alone.
        Some(next) => eprintln!("tidelock: there are older ones: --cursor {next}"),
        None if shown == 0 && !args.client.json => line::print("No entries."),
        None => {}
    }
    if damaged > 0 {
        let problem = format!(
            "{damaged} lines are not as they were written and are not shown; see `tidelock audit \
             verify`"
        );
        return Err(CliError::Told(Box::new(CliError::Failed(problem))));
    }
    Ok(())
}

fn show(args: &AuditShowArgs) -> Result<(), CliError> {
    let wanted: Wanted = args.id.parse().map_err(CliError::Usage)?;
    let entries = reader(&args.client)?.find(wanted)?;
    if entries.is_empty() {
        return Err(CliError::NotFound(format!("the audit log has no entry for {}", args.id)));
    }
    for entry in &entries {
        line::print(&if args.client.json { entry.to_line() } else { whole(entry) });
    }
    Ok(())
}

fn export(args: &AuditExportArgs) -> Result<(), CliError> {
    let reader = reader(&args.client)?;
    let since_ms = args.since.as_deref().map(since_ms).transpose()?;
    let name = args.output.display().to_string();
    let failed = |error: std::io::Error| CliError::Failed(format!("{name}: {error}"));
    let to_stdout = args.output.as_os_str() == "-";
    let out: Box<dyn Write> = if to_stdout {
        Box::new(std::io::stdout().lock())
    } else {
        let mut options = OpenOptions::new();
        // Neither over a file that is there nor readable by others: it names records and people.
        let file = options.write(true).create_new(true).mode(0o600).open(&args.output);
        Box::new(file.map_err(failed)?)
    };
    let mut out = BufWriter::new(out);
    let (mut entries, mut damaged, mut written) = (0_u64, 0_u64, Ok(()));
    reader.each_line(|line| {
        match Entry::parse(line) {
            Ok(entry) if since_ms.is_some_and(|since_ms| entry.at_ms() < since_ms) => {
                return ControlFlow::Continue(());
            }
            Ok(_) => entries += 1,
            // As it stands: whoever looks into it needs just that.
            Err(Unreadable::Form { .. } | Unreadable::Hash { .. }) => damaged += 1,
        }
        written = out.write_all(line).and_then(|()| out.write_all(b"\n"));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    match written.and_then(|()| out.flush()) {
        // A reader that went away has read what it wanted.
        Err(error) if to_stdout && error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.map_err(failed)?,
    }
    if !to_stdout {
        line::print(&if args.client.json {
            json!({ "entries": entries, "damaged": damaged }).to_string()
        } else {
            format!("{entries} entries saved in {name}")
        });
    }
    if damaged > 0 {
        let problem = format!(
            "{damaged} lines are not as they were written, and were exported as they stand; see \
             `tidelock audit verify`"
        );
        return Err(CliError::Told(Box::new(CliError::Failed(problem))));
    }
    Ok(())
}

/// A time back from now, as in `24h`, or milliseconds since the epoch.
fn since_ms(text: &str) -> Result<u64, CliError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(at_ms) = text.parse().ok().filter(|_| is_number) {
        return Ok(at_ms);
    }
    let back = parse::lifetime(text).ok_or_else(|| {
        CliError::Usage(format!(
            "--since {text:?} is no time; give how far back, as in 90s, 24h or 30d, or milliseconds \
             since the epoch"
        ))
    })?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(now.saturating_sub(back).as_millis()).unwrap_or(u64::MAX))
}

/// One line for people.
fn brief(entry: &Entry) -> String {
    let told = match entry.event() {
        Ok(event) => summary(&event),
        Err(_) => format!("an event that this build does not know: {}", entry.event_json()),
    };
    let kind = entry.kind().map_or("?", Kind::name);
    let at = cron::utc_text(entry.at_ms());
    printable(&format!("{:>6}  {at}  {kind:<13}  {told}", entry.seq()))
}

/// Without what moves a terminal's cursor or turns the direction of its text around: a log that can be
/// made to look like another is no log.
fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

fn summary(event: &Event) -> String {
    match event {
        Event::Conflict(conflict) => {
            let facts = conflict.facts();
            let losers: Vec<String> = facts.losers.iter().map(|l| l.dot.to_text()).collect();
            format!(
                "{}  {}: {} by {}, over {}",
                conflict.id(),
                facts.record,
                facts.winner,
                &*facts.strategy,
                losers.join(", ")
            )
        }
        Event::Operator { who, action, target, reason } => {
            format!("{who}: {action} {target}: {reason}")
        }
        Event::Restored { conflict, record, lost, dot, by, reason } => {
            format!("{conflict}  {record}: {lost} is back as {dot}, by {by}: {reason}")
        }
        Event::Resolved { record, superseded, wrote, by, reason } => {
            let superseded: Vec<String> = superseded.iter().map(|s| s.dot.to_text()).collect();
            format!("{record}: {} over {}, by {by}: {reason}", wrote.dot, superseded.join(", "))
        }
        Event::Redacted { record, erased, by, reason } => {
            let erased: Vec<String> = erased.iter().map(|erased| erased.dot.to_text()).collect();
            format!("{record}: bytes of {} erased, by {by}: {reason}", erased.join(", "))
        }
        Event::Archived { through_seq, entries, .. } => {
            format!("{entries} entries through {through_seq} left the log")
        }
        Event::SetBack { last, behind } => {
            let from = |settled: &Option<Settled>| match settled {
                Some(settled) => format!("behind {} at {}", settled.lost, settled.seq.0),
                None => "from its first conflict on".to_owned(),
            };
            format!(
                "D1 was set to another time: it was followed {}, and is now {}",
                from(last),
                from(behind)
            )
        }
    }
}

/// Everything, for people.
fn whole(entry: &Entry) -> String {
    let mut shown = brief(entry);
    shown.push('\n');
    if let Ok(Event::Conflict(conflict)) = entry.event() {
        detail(&mut shown, &conflict);
    } else {
        let pretty = serde_json::from_str::<&RawValue>(entry.event_json())
            .ok()
            .and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok())
            .and_then(|value| serde_json::to_string_pretty(&value).ok());
        for line in pretty.as_deref().unwrap_or(entry.event_json()).lines() {
            let _ = writeln!(shown, "  {}", printable(line));
        }
    }
    let _ = write!(shown, "  hash      {}\n  follows   {}", entry.hash(), entry.prev());
    shown
}

fn detail(shown: &mut String, conflict: &Conflict) {
    let facts = conflict.facts();
    let mut tell = |name: &str, told: String| {
        let _ = writeln!(shown, "  {name:<8}  {}", printable(&told));
    };
    tell("conflict", conflict.id().to_string());
    tell("record", facts.record.to_string());
    let settled = match facts.settled_ms {
        0 => "before that was noted".to_owned(),
        at_ms => cron::utc_text(at_ms),
    };
    tell("settled", format!("{settled}, at {}, by {}", facts.site, &*facts.strategy));
    if let Some(why) = &facts.why {
        tell("why", why.to_string());
    }
    tell("won", facts.won.as_ref().map_or_else(|| facts.winner.to_text(), original));
    for loser in &facts.losers {
        tell("lost", original(loser));
    }
    if let Some(Contexts { before, after }) = &facts.contexts {
        tell("before", if before.is_empty() { "no record".to_owned() } else { before.to_string() });
        tell("after", after.to_string());
    }
}

fn original(original: &Original) -> String {
    let Original { dot, stamp, hash, bytes, deleted, .. } = original;
    let at = cron::utc_text(stamp.wall_ms);
    let value = if *deleted { "a delete".to_owned() } else { format!("{bytes} bytes, {hash}") };
    format!("{dot} at {at}: {value}")
}
