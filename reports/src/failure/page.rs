//! The failure page: what broke, how to see it again, then the run under a movable cursor.
//!
//! Invariant: what broke, the faults, the fate of every write and the scenario stand in the HTML
//! itself. Script draws what depends on the cursor: the time line, the state of the stores and
//! the events around it. It reads the run from an embedded JSON element and only ever writes
//! text into the document, never markup.

use serde::Serialize;

use super::{Event, Failure, FaultSpan, Lane, StateChange};
use crate::figures::{count, moment, plural};
use crate::html::{command, escape, json_script, panel, shell};

const TIMELINE_SCRIPT: &str = include_str!("../assets/timeline.js");
const FAILURE_SCRIPT: &str = include_str!("../assets/failure.js");

/// What the page's script reads: the parts that depend on the cursor, and the file to download.
#[derive(Serialize)]
struct Run<'a> {
    at_ms: f64,
    end_ms: f64,
    healed_ms: Option<f64>,
    recovered_ms: Option<f64>,
    lanes: &'a [Lane],
    faults: &'a [FaultSpan],
    events: &'a [Event],
    states: &'a [StateChange],
    scenario_json: &'a str,
    scenario_file: String,
}

/// Renders a failure as one self-contained HTML page.
///
/// The fragment `#t=1234` opens it with the cursor at that moment, in milliseconds.
pub fn failure_page(failure: &Failure) -> String {
    let run = Run {
        at_ms: failure.at_ms,
        end_ms: failure.end_ms,
        healed_ms: failure.healed_ms,
        recovered_ms: failure.recovered_ms,
        lanes: &failure.lanes,
        faults: &failure.faults,
        events: &failure.events,
        states: &failure.states,
        scenario_json: &failure.scenario_json,
        scenario_file: scenario_file(&failure.scenario),
    };
    let body = [
        header(failure),
        TIMELINE.to_owned(),
        CURSOR.to_owned(),
        writes(failure),
        faults(failure),
        scenario(failure),
        json_script("run", &run),
        format!(
            "<script>\n(() => {{\n\"use strict\";\n{TIMELINE_SCRIPT}\n{FAILURE_SCRIPT}}})();\n</script>\n"
        ),
    ]
    .concat();
    shell(&format!("{} · {}", failure.scenario, failure.invariant), &body)
}

/// A file name from `standard:42`, without the characters that some file system refuses.
fn scenario_file(scenario: &str) -> String {
    let safe: String = scenario
        .chars()
        .map(|character| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => character,
            _ => '-',
        })
        .take(80)
        .collect();
    format!("{safe}.json")
}

fn header(failure: &Failure) -> String {
    let recovery = match (failure.healed_ms, failure.recovered_ms) {
        (Some(healed), Some(recovered)) => {
            format!("<small>{} after the heal</small>", moment(recovered - healed))
        }
        _ => String::new(),
    };
    let figures = [
        ("Broken at", moment(failure.at_ms), "<small>virtual time</small>".to_owned()),
        (
            "Last fault ended",
            failure.healed_ms.map_or_else(|| "never".to_owned(), moment),
            String::new(),
        ),
        ("Whole again", failure.recovered_ms.map_or_else(|| "never".to_owned(), moment), recovery),
        (
            "End of the run",
            moment(failure.end_ms),
            format!("<small>{}</small>", plural(failure.events.len() as u64, "event", "events")),
        ),
    ];
    let figures: String = figures
        .iter()
        .map(|(name, value, note)| format!("<div><dt>{name}</dt><dd>{value}{note}</dd></div>"))
        .collect();
    format!(
        r##"<p class="eyebrow">Failure of <code>{scenario}</code></p>
<h1>{invariant} is broken</h1>
<p class="lede">{words}</p>
<p class="message">{message}</p>
<dl class="facts"><dt>See it again</dt><dd>{repro}</dd><dt>Commit</dt><dd><code>{commit}</code></dd><dt>Trace hash</dt><dd><code>{hash}</code></dd></dl>
<dl class="figures small">{figures}</dl>
"##,
        scenario = escape(&failure.scenario),
        invariant = escape(&failure.invariant),
        words = escape(&failure.words),
        message = escape(&failure.message),
        repro = command(&failure.repro),
        commit = escape(&failure.commit),
        hash = escape(&failure.trace_hash),
    )
}

const TIMELINE: &str = r##"<section class="panel" aria-labelledby="timeline-title">
<header><h2 id="timeline-title">Time line</h2><p>One lane per node. Shades are faults, marks are events, arrows are messages.</p></header>
<div class="body">
<noscript><p class="notice">The time line is drawn by the page’s own script, which is switched off. Writes, faults and the scenario are below.</p></noscript>
<div id="timeline-view" hidden>
<div class="toolbar">
<span class="group" role="group" aria-label="Zoom"><button type="button" id="zoom-out" aria-label="Zoom out">−</button><button type="button" id="zoom-in" aria-label="Zoom in">+</button></span>
<span class="group" role="group" aria-label="Window"><button type="button" id="window-all">Whole run</button><button type="button" id="window-violation">Around the violation</button></span>
<span class="push"><label>From <input type="number" id="window-from" min="0" step="any" inputmode="decimal"> s</label><label>to <input type="number" id="window-to" min="0" step="any" inputmode="decimal"> s</label></span>
</div>
<div class="timeline">
<svg id="overview" height="34" role="img" aria-label="The whole run; the window shown below is marked"></svg>
<svg id="timeline" role="img" aria-label="Time line"><defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 1l7 3-7 3z"/></marker><clipPath id="plot-clip"><rect/></clipPath></defs></svg>
<label class="scrub" id="scrub"><input type="range" id="scrubber" step="any" aria-label="Cursor" aria-describedby="scrub-help"></label>
</div>
<div class="readout"><span class="muted">Cursor</span><output id="cursor-time" for="scrubber"></output><span class="group" role="group" aria-label="Move the cursor"><button type="button" id="step-back">‹ Previous</button><button type="button" id="step-on">Next ›</button><button type="button" id="to-violation">Violation</button></span><span class="muted" id="scrub-help"><kbd>←</kbd> <kbd>→</kbd> to the next moment at which something happens, with <kbd>Shift</kbd> 100 ms. Drag the time line to move it, <kbd>Ctrl</kbd> and wheel to zoom.</span></div>
<p class="notice" id="arrows-note" role="status" hidden></p>
<div class="legend" id="fault-legend" role="group" aria-label="Faults shown"></div>
<div class="legend" id="mark-legend"></div>
</div></div>
</section>
"##;

const CURSOR: &str = r##"<div class="columns" id="cursor-view" hidden>
<section class="panel" aria-labelledby="states-title">
<header><h2 id="states-title">Stores at <span class="at-cursor"></span></h2><p id="states-summary" role="status"></p><label class="filter"><input type="checkbox" id="only-differing"> Only records that differ</label></header>
<div class="scroll tall" tabindex="0" role="region" aria-labelledby="states-title"><table id="states"><thead></thead><tbody></tbody></table></div>
</section>
<section class="panel" aria-labelledby="events-title">
<header><h2 id="events-title">Events around <span class="at-cursor"></span></h2><p id="events-summary"></p><div class="toolbar"><label>Lane <select id="event-lane"><option value="">all</option></select></label><label>Kind <select id="event-kind"><option value="">all</option></select></label></div></header>
<div class="scroll tall" tabindex="0" role="region" aria-labelledby="events-title"><table id="events"><thead><tr><th scope="col" class="num">Time</th><th scope="col">Lane</th><th scope="col">Event</th></tr></thead><tbody></tbody></table></div>
</section>
</div>
"##;

fn writes(failure: &Failure) -> String {
    let lost = failure.writes.iter().filter(|write| is_lost(&write.fate)).count() as u64;
    let mut rows = String::new();
    for write in &failure.writes {
        rows.push_str(&format!(
            r#"<tr{}><th scope="row" class="num">{}</th><td>{}</td><td><code>{}</code></td><td><code>{}</code></td><td>{}</td><td>{}</td><td class="words">{}</td></tr>
"#,
            if is_lost(&write.fate) { " class=\"lost\"" } else { "" },
            moment_link(write.at_ms),
            escape(lane_title(failure, &write.session)),
            escape(&write.record),
            escape(&write.id),
            pill(&write.outcome),
            pill(&write.fate),
            escape(&write.detail)
        ));
    }
    let table = if failure.writes.is_empty() {
        "<p class=\"empty\">No session wrote anything.</p>\n".to_owned()
    } else {
        format!(
            r#"<div class="scroll tall" tabindex="0" role="region" aria-labelledby="writes"><table><thead><tr><th scope="col" class="num">Tried at</th><th scope="col">Session</th><th scope="col">Record</th><th scope="col">Operation</th><th scope="col">Session was told</th><th scope="col">Became</th><th scope="col">Why</th></tr></thead><tbody>
{rows}</tbody></table></div>
"#
        )
    };
    // The filter is a style rule, so that it works without script.
    let filter = format!(
        r#"<div class="body"><label class="filter"><input type="checkbox" id="only-lost"> Only lost ({})</label></div>"#,
        count(lost)
    );
    let note = format!(
        "{}, {}. A time moves the cursor there.",
        plural(failure.writes.len() as u64, "write", "writes"),
        if lost == 0 { "none lost".to_owned() } else { format!("{} lost", count(lost)) }
    );
    format!(
        "<div class=\"writes-panel\">{}</div>\n",
        panel("writes", "Fate of every write", &note, &(filter + &table))
    )
}

fn is_lost(fate: &str) -> bool {
    fate == "lost"
}

/// A word about a write, coloured by whether it is what a client may rely on.
fn pill(word: &str) -> String {
    let class = match word {
        "acked" | "current" => "good",
        "lost" => "bad",
        "unknown" | "loser" => "warn",
        _ => "",
    };
    format!("<span class=\"pill {class}\">{}</span>", escape(word))
}

fn faults(failure: &Failure) -> String {
    if failure.faults.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for fault in &failure.faults {
        let lanes: Vec<String> =
            fault.lanes.iter().map(|id| escape(lane_title(failure, id))).collect();
        let felt = if fault.felt == 0 {
            "<span class=\"pill\">not felt</span>".to_owned()
        } else {
            count(fault.felt)
        };
        rows.push_str(&format!(
            r#"<tr><th scope="row" class="nowrap"><code>{}</code></th><td class="num">{}</td><td class="num">{}</td><td>{}</td><td class="num">{felt}</td><td class="words">{}</td></tr>
"#,
            escape(&fault.kind),
            moment_link(fault.from_ms),
            moment_link(fault.to_ms),
            lanes.join(", "),
            escape(&fault.detail)
        ));
    }
    panel(
        "faults",
        "Faults injected",
        "Felt counts the engine calls that came out otherwise because of it.",
        &format!(
            r#"<div class="scroll tall" tabindex="0" role="region" aria-labelledby="faults"><table><thead><tr><th scope="col">Kind</th><th scope="col" class="num">From</th><th scope="col" class="num">To</th><th scope="col">Hit</th><th scope="col" class="num">Felt</th><th scope="col">Particulars</th></tr></thead><tbody>
{rows}</tbody></table></div>
"#
        ),
    )
}

fn scenario(failure: &Failure) -> String {
    format!(
        r#"<section class="panel"><details><summary><h2>Minimal scenario</h2></summary>
<p class="muted">The least that still breaks the invariant. Save it, edit it, and replay it from the file.</p>
<p><a class="button" id="download" hidden>Download {}</a></p>
<pre tabindex="0">{}</pre></details></section>
"#,
        escape(&scenario_file(&failure.scenario)),
        escape(&failure.scenario_json)
    )
}

fn lane_title<'a>(failure: &'a Failure, id: &'a str) -> &'a str {
    failure.lanes.iter().find(|lane| lane.id == id).map_or(id, |lane| &lane.title)
}

/// A time that moves the cursor; one that is not finite leads nowhere.
fn moment_link(ms: f64) -> String {
    if ms.is_finite() { format!("<a href=\"#t={ms}\">{}</a>", moment(ms)) } else { moment(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_scripts_cannot_end_their_element() {
        for text in [TIMELINE_SCRIPT, FAILURE_SCRIPT] {
            assert!(!text.contains("</") && !text.contains("<!--"));
        }
    }

    #[test]
    fn scenario_file_names_hold_nothing_special() {
        assert_eq!(scenario_file("standard:42"), "standard-42.json");
        assert_eq!(scenario_file("../<x>"), "----x-.json");
    }
}
