//! The campaign page: verdict first, then the figures, then the proof that faults were felt.
//!
//! Invariant: the page is green only when nothing in the data speaks against it. A campaign of
//! no seeds is not clean, nor is one that counts losses without listing them.

use std::collections::BTreeSet;

use super::histogram::{self, LIMIT_MS};
use super::{Campaign, FaultCount, InvariantCount};
use crate::failure::failure_file_name;
use crate::figures::{count, milliseconds, plural, rate, share, span};
use crate::html::{command, escape, panel, shell};

/// Rows of the violations table; a campaign over broken code can have one per seed.
const VIOLATIONS_SHOWN_MAX: usize = 1_000;

const TICK: &str = r#"<svg width="18" height="18" viewBox="0 0 18 18" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d="M4 9.5l3.5 3.5L14 5.5"/></svg>"#;
const CROSS: &str = r#"<svg width="18" height="18" viewBox="0 0 18 18" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round" aria-hidden="true"><path d="M5 5l8 8M13 5l-8 8"/></svg>"#;
const ALERT: &str = r#"<svg width="18" height="18" viewBox="0 0 18 18" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round" aria-hidden="true"><path d="M9 4v6M9 13.5v.1"/></svg>"#;

/// Renders a campaign as one self-contained HTML page.
///
/// Violations link to `failure-<seed>.html`, expected in the same folder.
pub fn campaign_page(campaign: &Campaign) -> String {
    let body = [
        verdict(campaign),
        figures(campaign),
        violations(campaign),
        recovery(campaign),
        ledger(campaign),
        invariants(campaign),
        faults(campaign),
        situations(campaign),
    ]
    .concat();
    let title = format!(
        "{} · {} · {}",
        campaign.profile,
        plural(campaign.seeds, "seed", "seeds"),
        Verdict::of(campaign).headline()
    );
    shell(&title, &body)
}

enum Verdict {
    NothingRan,
    Clean,
    /// Losses or broken invariants are counted, but no violation says where.
    Unexplained,
    Violated {
        violations: u64,
        seeds: u64,
    },
}

impl Verdict {
    fn of(campaign: &Campaign) -> Self {
        let seeds: BTreeSet<u64> = campaign.violations.iter().map(|each| each.seed).collect();
        let broken = campaign.invariants.values().any(|each| each.violated > 0);
        if !seeds.is_empty() {
            Self::Violated {
                violations: campaign.violations.len() as u64,
                seeds: seeds.len() as u64,
            }
        } else if campaign.lost_writes > 0 || broken {
            Self::Unexplained
        } else if campaign.seeds == 0 {
            Self::NothingRan
        } else {
            Self::Clean
        }
    }

    fn headline(&self) -> String {
        match self {
            Self::NothingRan => "No seed ran".to_owned(),
            Self::Clean => "Clean".to_owned(),
            Self::Unexplained => "Not clean".to_owned(),
            Self::Violated { violations, .. } => plural(*violations, "violation", "violations"),
        }
    }
}

fn verdict(campaign: &Campaign) -> String {
    let verdict = Verdict::of(campaign);
    let (class, sign, sentence) = match &verdict {
        Verdict::NothingRan => ("warn", ALERT, "An empty campaign shows nothing.".to_owned()),
        Verdict::Clean => (
            "good",
            TICK,
            format!(
                "No invariant was broken in {}, and no acknowledged write was lost.",
                plural(campaign.seeds, "seed", "seeds")
            ),
        ),
        Verdict::Unexplained => (
            "bad",
            CROSS,
            format!(
                "{} counted or an invariant marked as broken, but no violation is listed: the data contradicts itself.",
                plural(campaign.lost_writes, "lost write is", "lost writes are")
            ),
        ),
        Verdict::Violated { seeds, .. } => (
            "bad",
            CROSS,
            format!(
                "{} of {} broke an invariant.",
                count(*seeds),
                plural(campaign.seeds, "seed", "seeds")
            ),
        ),
    };
    let last = campaign.first_seed.saturating_add(campaign.seeds.saturating_sub(1));
    let mut facts = format!(
        "<dt>Seeds</dt><dd>{} to {}, profile <code>{}</code></dd>",
        count(campaign.first_seed),
        count(last),
        escape(&campaign.profile)
    );
    if !campaign.commit.is_empty() {
        facts.push_str(&format!(
            "<dt>Commit</dt><dd><code>{}</code></dd>",
            escape(&campaign.commit)
        ));
    }
    facts.push_str(&format!(
        "<dt>Trace hash</dt><dd><code>{}</code></dd>",
        escape(&campaign.trace_hash)
    ));
    if !campaign.command.is_empty() {
        facts.push_str(&format!("<dt>Repeat it</dt><dd>{}</dd>", command(&campaign.command)));
    }
    format!(
        r#"<p class="eyebrow">Simulation campaign</p>
<div class="verdict {class}"><span class="sign">{sign}</span><div><h1>{}</h1><p>{sentence}</p></div></div>
<dl class="facts">{facts}</dl>
"#,
        verdict.headline()
    )
}

fn figures(campaign: &Campaign) -> String {
    let first = campaign.first_seed;
    let figures = [
        ("Seeds", count(campaign.seeds), format!("from {}", count(first))),
        ("Virtual time", span(campaign.virtual_seconds), "simulated in all".to_owned()),
        (
            "Faster than real time",
            format!("{}×", rate(campaign.speedup)),
            "virtual over processor time".to_owned(),
        ),
        (
            "Seeds per CPU second",
            rate(campaign.seeds_per_cpu_second),
            format!("{} per second of wall time", rate(campaign.seeds_per_second)),
        ),
        (
            "Messages delivered",
            count(campaign.delivered_messages),
            per_seed(campaign.delivered_messages, campaign.seeds),
        ),
        (
            "Conflicts resolved",
            count(campaign.conflicts),
            per_seed(campaign.conflicts, campaign.seeds),
        ),
    ];
    let mut drawn = String::from("<dl class=\"figures\">");
    for (name, value, note) in figures {
        drawn.push_str(&format!("<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"));
    }
    drawn + "</dl>\n"
}

fn per_seed(number: u64, seeds: u64) -> String {
    format!("{} per seed", rate(number as f64 / seeds as f64))
}

fn violations(campaign: &Campaign) -> String {
    let all = &campaign.violations;
    if all.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for violation in all.iter().take(VIOLATIONS_SHOWN_MAX) {
        rows.push_str(&format!(
            r#"<tr><th scope="row" class="num"><a href="{}">{}</a></th><td class="nowrap"><code>{}</code></td><td class="words">{}</td><td>{}</td></tr>
"#,
            failure_file_name(violation.seed),
            violation.seed,
            escape(&violation.invariant),
            escape(&violation.message),
            command(&violation.repro)
        ));
    }
    let hidden = all.len().saturating_sub(VIOLATIONS_SHOWN_MAX) as u64;
    let more = if hidden > 0 {
        format!(
            "<p class=\"empty\">{} not shown here; all are in the JSON output.</p>",
            plural(hidden, "more violation is", "more violations are")
        )
    } else {
        String::new()
    };
    panel(
        "violations",
        "Violations",
        "Each seed links to its failure page: what happened, moment by moment.",
        &format!(
            r#"<div class="scroll" tabindex="0" role="region" aria-labelledby="violations"><table><thead><tr><th scope="col" class="num">Seed</th><th scope="col">Invariant</th><th scope="col">What was seen</th><th scope="col">See it again</th></tr></thead><tbody>
{rows}</tbody></table></div>{more}
"#
        ),
    )
}

fn recovery(campaign: &Campaign) -> String {
    let recovery = &campaign.recovery_ms;
    let mut body = String::from("<div class=\"body\">");
    match histogram::svg(recovery) {
        Some(chart) => body.push_str(&chart),
        None => body.push_str("<p class=\"muted\">No run was timed.</p>"),
    }
    let figure = |name: &str, ms: u64| {
        let class = if ms > LIMIT_MS { " class=\"text-bad\"" } else { "" };
        format!("<div><dt>{name}</dt><dd{class}>{}</dd></div>", milliseconds(ms))
    };
    let beyond = if recovery.beyond_drain_bound > 0 { " class=\"text-bad\"" } else { "" };
    body.push_str(&format!(
        r#"<dl class="figures small">{}{}{}<div><dt>Beyond the drain bound</dt><dd{beyond}>{}</dd></div></dl>"#,
        figure("Half within", recovery.p50),
        figure("99 in 100 within", recovery.p99),
        figure("Slowest", recovery.max),
        plural(recovery.beyond_drain_bound, "run", "runs")
    ));
    if !recovery.histogram.is_empty() {
        let rows: String = recovery
            .histogram
            .iter()
            .map(|bucket| {
                format!(
                    "<tr><th scope=\"row\" class=\"num\">{}</th><td class=\"num\">{}</td></tr>",
                    milliseconds(bucket.upto_ms),
                    count(bucket.runs)
                )
            })
            .collect();
        body.push_str(&format!(
            r#"<details><summary>The same as a table</summary><div class="scroll" tabindex="0" role="region" aria-labelledby="recovery"><table><thead><tr><th scope="col" class="num">Within</th><th scope="col" class="num">Runs</th></tr></thead><tbody>{rows}</tbody></table></div></details>"#
        ));
    }
    body.push_str("</div>\n");
    panel(
        "recovery",
        "Recovery",
        "From the end of the last fault on the surviving core until stores and peers are equal, everything acknowledged is confirmed, and a fresh write is readable everywhere.",
        &body,
    )
}

fn ledger(campaign: &Campaign) -> String {
    let answered = [campaign.acked_writes, campaign.refused_writes, campaign.unknown_writes];
    let sum = answered.into_iter().fold(0, u64::saturating_add);
    let mut x = 0.0;
    let mut bars = String::new();
    for (class, part) in ["fill-good", "fill-muted", "fill-warn"].into_iter().zip(answered) {
        let width = if sum == 0 { 0.0 } else { part as f64 * 100.0 / sum as f64 };
        bars.push_str(&format!(
            r#"<rect class="{class}" x="{x:.3}%" width="{width:.3}%" height="14"/>"#
        ));
        x += width;
    }
    let notice = if sum == campaign.attempted_writes {
        String::new()
    } else {
        format!(
            "<p class=\"notice\" role=\"note\">The ledger does not add up: {} attempted, {} answered.</p>",
            count(campaign.attempted_writes),
            count(sum)
        )
    };
    let lost = if campaign.lost_writes > 0 { "bad" } else { "good" };
    panel(
        "ledger",
        "Write ledger",
        "Every attempted write ends in one of three answers. An excused loss is one whose policy asked for no more than the disk that was destroyed.",
        &format!(
            r#"<div class="body"><svg class="ledger" role="img" aria-label="Of {attempted} attempted writes {acked} were acknowledged, {refused} refused and {unknown} left unknown.">{bars}</svg>
<ul class="equation">
<li><strong>{attempted}</strong>attempted</li><li class="sign" aria-hidden="true">=</li>
<li><strong>{acked}</strong><span class="swatch good"></span>acknowledged</li><li class="sign" aria-hidden="true">+</li>
<li><strong>{refused}</strong><span class="swatch"></span>refused</li><li class="sign" aria-hidden="true">+</li>
<li><strong>{unknown}</strong><span class="swatch warn"></span>unknown</li></ul>{notice}
<dl class="figures small"><div><dt>Lost</dt><dd>{lost_count} <span class="pill {lost}">{lost_words}</span></dd></div><div><dt>Excused</dt><dd>{excused}<small>{excused_share} of acknowledged</small></dd></div><div><dt>Acknowledged</dt><dd>{acked_share}<small>of attempted</small></dd></div></dl></div>
"#,
            attempted = count(campaign.attempted_writes),
            acked = count(campaign.acked_writes),
            refused = count(campaign.refused_writes),
            unknown = count(campaign.unknown_writes),
            lost_count = count(campaign.lost_writes),
            lost_words = if campaign.lost_writes > 0 { "violation" } else { "none" },
            excused = count(campaign.excused_writes),
            excused_share = share(campaign.excused_writes, campaign.acked_writes),
            acked_share = share(campaign.acked_writes, campaign.attempted_writes),
        ),
    )
}

fn invariants(campaign: &Campaign) -> String {
    if campaign.invariants.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for (id, invariant) in &campaign.invariants {
        rows.push_str(&format!(
            r#"<tr><th scope="row" class="nowrap"><code>{}</code></th><td class="words">{}</td><td class="num">{}</td><td class="num">{}</td><td>{}</td></tr>
"#,
            escape(id),
            escape(&invariant.words),
            count(invariant.checked),
            count(invariant.violated),
            invariant_state(invariant)
        ));
    }
    panel(
        "invariants",
        "Invariants",
        "What must hold, how often it was checked against the checker’s own model, and how often it did not.",
        &format!(
            r#"<div class="scroll" tabindex="0" role="region" aria-labelledby="invariants"><table><thead><tr><th scope="col">Invariant</th><th scope="col">In words</th><th scope="col" class="num">Checks</th><th scope="col" class="num">Violations</th><th scope="col">State</th></tr></thead><tbody>
{rows}</tbody></table></div>
"#
        ),
    )
}

fn invariant_state(invariant: &InvariantCount) -> &'static str {
    match invariant {
        InvariantCount { violated: 1.., .. } => r#"<span class="pill bad">broken</span>"#,
        InvariantCount { checked: 0, .. } => r#"<span class="pill warn">never checked</span>"#,
        _ => r#"<span class="pill good">held</span>"#,
    }
}

fn faults(campaign: &Campaign) -> String {
    if campaign.faults.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    let mut unfelt = 0;
    for (kind, fault) in &campaign.faults {
        if never_felt(fault) {
            unfelt += 1;
        }
        let slow = if fault.recovery_ms_max > LIMIT_MS { " text-bad" } else { "" };
        rows.push_str(&format!(
            r#"<tr><th scope="row" class="nowrap"><code>{}</code></th><td class="num">{}</td><td class="num">{}</td><td>{}</td><td class="num{slow}">{}</td></tr>
"#,
            escape(kind),
            count(fault.injected),
            count(fault.felt),
            fault_meter(fault),
            if fault.recovery_ms_max == 0 { "–".to_owned() } else { milliseconds(fault.recovery_ms_max) }
        ));
    }
    let notice = if unfelt > 0 {
        format!(
            "<p class=\"notice\" role=\"note\">{} injected but never felt: no engine call came out otherwise, so nothing was tested by it.</p>",
            plural(unfelt, "fault kind was", "fault kinds were")
        )
    } else {
        String::new()
    };
    panel(
        "faults",
        "Faults",
        "A fault counts as felt when an engine call came out otherwise than it would have.",
        &format!(
            r#"{notice}<div class="scroll" tabindex="0" role="region" aria-labelledby="faults"><table><thead><tr><th scope="col">Kind</th><th scope="col" class="num">Injected</th><th scope="col" class="num">Felt</th><th scope="col">Felt of injected</th><th scope="col" class="num">Slowest recovery</th></tr></thead><tbody>
{rows}</tbody></table></div>
"#
        ),
    )
}

fn never_felt(fault: &FaultCount) -> bool {
    fault.injected > 0 && fault.felt == 0
}

fn fault_meter(fault: &FaultCount) -> String {
    if never_felt(fault) {
        return r#"<span class="pill warn">never felt</span>"#.to_owned();
    }
    if fault.injected == 0 {
        return r#"<span class="muted">not injected</span>"#.to_owned();
    }
    // One fault can be felt by many calls; the bar is full then, and the counts say the rest.
    let percent = (fault.felt as f64 * 100.0 / fault.injected as f64).min(100.0);
    format!(
        r#"<svg class="meter" aria-hidden="true"><rect width="{percent:.1}%" height="8"/></svg>"#
    )
}

fn situations(campaign: &Campaign) -> String {
    if campaign.sometimes.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    let mut missed = 0;
    for (name, seeds) in &campaign.sometimes {
        let state = if *seeds == 0 {
            missed += 1;
            r#"<span class="pill warn">never reached</span>"#.to_owned()
        } else {
            format!(
                r#"<svg class="meter" aria-hidden="true"><rect width="{:.1}%" height="8"/></svg>"#,
                (*seeds as f64 * 100.0 / campaign.seeds.max(1) as f64).clamp(0.5, 100.0)
            )
        };
        rows.push_str(&format!(
            r#"<tr><th scope="row"><code>{}</code></th><td class="num">{}</td><td class="num">{}</td><td>{state}</td></tr>
"#,
            escape(name),
            count(*seeds),
            share(*seeds, campaign.seeds)
        ));
    }
    let notice = if missed > 0 {
        format!(
            "<p class=\"notice\" role=\"note\">{} never reached: this campaign says nothing about them.</p>",
            plural(missed, "situation was", "situations were")
        )
    } else {
        String::new()
    };
    panel(
        "situations",
        "Situations reached",
        "Rare paths that a campaign has to come through to be worth its time.",
        &format!(
            r#"{notice}<div class="scroll" tabindex="0" role="region" aria-labelledby="situations"><table><thead><tr><th scope="col">Situation</th><th scope="col" class="num">Seeds</th><th scope="col" class="num">Share</th><th scope="col">Of all seeds</th></tr></thead><tbody>
{rows}</tbody></table></div>
"#
        ),
    )
}
