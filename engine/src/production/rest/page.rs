//! The page at `/`: how the stores are, for a browser that has logged in.
//!
//! Invariant: every word of data goes through `html::escape`, or is set as text by the script.
//! The token is sent once, in the body of the login form; the browser then holds a session cookie
//! that no script can read.

use super::App;
use super::door::Caller;
use super::problem::Problem;
use super::records::body_problem;
use super::status::{Report, report};
use crate::env::Env;
use crate::record::StoreId;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use percent_encoding::percent_decode_str;
use std::fmt::Write as _;
use std::sync::Arc;
use tidelock_reports::html::{STYLE, escape};

const PAGE_STYLE: &str = include_str!("page.css");
const PAGE_SCRIPT: &str = include_str!("page.js");
const LOGO: &str = r#"<svg width="22" height="22" viewBox="0 0 22 22" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" aria-hidden="true"><path d="M2 8c3-3.4 6-3.4 9 0s6 3.4 9 0"/><path d="M2 14.5c3-3.4 6-3.4 9 0s6 3.4 9 0"/></svg>"#;

pub(super) async fn page<E: Env>(State(app): State<Arc<App<E>>>, headers: HeaderMap) -> Response {
    let nonce = format!("{:016x}{:016x}", app.node.env().random(), app.node.env().random());
    match app.door.caller(&headers, app.now()) {
        Caller::Session { csrf } => {
            let report = report(&app);
            answer(StatusCode::OK, &nonce, &shell(&nonce, &csrf, &status_body(&report), true))
        }
        Caller::Token | Caller::Stranger(_) => {
            answer(StatusCode::OK, &nonce, &shell(&nonce, "", &login_body(None), false))
        }
    }
}

pub(super) async fn login<E: Env>(
    State(app): State<Arc<App<E>>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| body_problem(&rejection, 4096))?;
    let token = form_field(&body, "token").unwrap_or_default();
    if !app.door.is_token(token.trim()) {
        let nonce = format!("{:016x}{:016x}", app.node.env().random(), app.node.env().random());
        let problem = "This is not this server's token.";
        let page = shell(&nonce, "", &login_body(Some(problem)), false);
        return Ok(answer(StatusCode::UNAUTHORIZED, &nonce, &page));
    }
    let opened = app.door.open_session(app.now(), || app.node.env().random());
    let headers = [(header::SET_COOKIE, opened.cookie), (header::LOCATION, "/".to_owned())];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

pub(super) async fn logout<E: Env>(
    State(app): State<Arc<App<E>>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = app.door.caller(&headers, app.now());
    app.door.admit(&caller, &Method::POST, &headers)?;
    let closed = app.door.close_session(&headers, app.now());
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, closed.cookie)]).into_response())
}

/// A field of an `application/x-www-form-urlencoded` body.
fn form_field(body: &[u8], name: &str) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, value) =
        body.split('&').filter_map(|pair| pair.split_once('=')).find(|p| p.0 == name)?;
    let spaced = value.replace('+', " ");
    Some(percent_decode_str(&spaced).decode_utf8().ok()?.into_owned())
}

fn answer(status: StatusCode, nonce: &str, page: &str) -> Response {
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src \
         'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    (status, [(header::CONTENT_SECURITY_POLICY, policy)], Html(page.to_owned())).into_response()
}

fn shell(nonce: &str, csrf: &str, body: &str, is_live: bool) -> String {
    let (push, script) = if is_live {
        (
            r#"<span class="push"><span id="live" class="tag" role="status">Connecting</span><button type="button" id="logout">Log out</button></span>"#,
            format!("<script nonce=\"{nonce}\">\n{PAGE_SCRIPT}</script>"),
        )
    } else {
        ("", String::new())
    };
    let csrf = escape(csrf);
    format!(
        r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Status · Tidelock</title>
<link rel="icon" href="data:,">
<style nonce="{nonce}">
{STYLE}{PAGE_STYLE}</style>
</head>
<body data-csrf="{csrf}">
<a class="skip" href="#main">Skip to the content</a>
<div class="masthead"><div>{LOGO}<span>Tidelock</span>{push}</div></div>
<main id="main">
{body}</main>
{script}
</body>
</html>
"##
    )
}

fn login_body(problem: Option<&str>) -> String {
    let problem = problem.map_or(String::new(), |problem| {
        format!(r#"<p class="problem" role="alert">{}</p>"#, escape(problem))
    });
    format!(
        r#"<section class="panel login"><div class="body">
<h1>Log in</h1>
<p class="lede">Paste this server's token. It stands in the file <code>token</code> of the data folder that <code>tidelock serve</code> named when it started.</p>
<form method="post" action="/login">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" spellcheck="false" required autofocus>
{problem}<button type="submit">Log in</button>
</form>
</div></section>
"#
    )
}

fn status_body(report: &Report) -> String {
    let verdict = &report.verdict;
    let mut page = format!(
        r#"<section id="verdict" class="verdict {level}" aria-live="polite"><div><h1 data-path="verdict.title">{title}</h1><p data-path="verdict.detail">{detail}</p></div></section>
<div class="stores">
"#,
        level = verdict.level,
        title = escape(&verdict.title),
        detail = escape(&verdict.detail),
    );
    for (store, name, note) in [
        (StoreId::D1, "D1", "Authority: puts versions in order"),
        (StoreId::Kv, "Workers KV", "Projection: reads at the edge"),
        (StoreId::R2, "R2", "Projection: large values"),
    ] {
        store_card(&mut page, report, store, name, note);
    }
    page.push_str("</div>\n");
    figures(&mut page, report);
    datasets(&mut page, report);
    counters(&mut page, report);
    let _ = write!(
        page,
        r#"<section class="panel" aria-labelledby="server"><header><h2 id="server">Server</h2></header><div class="body"><dl class="facts">
<dt>Data folder</dt><dd><code>{folder}</code></dd>
<dt>Address</dt><dd><code>{address}</code></dd>
<dt>Stores</dt><dd>{stores}</dd>
<dt>Coordinator</dt><dd><code data-path="coordinator.actor">{actor}</code></dd>
<dt>Restarts after a journal failure</dt><dd data-path="restarts">{restarts}</dd>
<dt>Version</dt><dd>{version}</dd>
</dl></div></section>
"#,
        folder = escape(&report.folder),
        address = escape(&report.address),
        stores = escape(report.stores_are),
        actor = report.coordinator.as_ref().map_or("–".into(), |c| escape(&c.actor.to_string())),
        restarts = report.restarts,
        version = escape(report.version),
    );
    page
}

fn store_card(page: &mut String, report: &Report, store: StoreId, name: &str, note: &str) {
    let stores = report.coordinator.iter().flat_map(|status| &status.stores);
    let found = stores.into_iter().find(|status| status.store == store);
    let (class, word) = match found.map(|status| status.breaker) {
        Some("closed") => ("good", "answering"),
        Some("open") => ("bad", "not answering"),
        Some("forced-open") => ("warn", "held by an operator"),
        Some("forced-closed") => ("warn", "forced closed"),
        Some(_) => ("bad", "being probed"),
        None => ("quiet", "unknown"),
    };
    let backlog = found.map_or("–".to_owned(), |status| grouped(status.backlog as u64));
    let _ = writeln!(
        page,
        r#"<section class="store" aria-label="{name}"><header><h2>{name}</h2><span class="tag {class}" data-tag="coordinator.stores.{store}.breaker">{word}</span></header><p>{note}</p><p class="backlog"><span data-path="coordinator.stores.{store}.backlog">{backlog}</span> <small>records behind</small></p></section>"#
    );
}

fn figures(page: &mut String, report: &Report) {
    let status = report.coordinator.as_ref();
    let figure = |label: &str, path: &str, form: &str, value: Option<u64>, shown: String| {
        let shown = value.map_or("–".to_owned(), |_| shown);
        format!(
            r#"<div><dt>{label}</dt><dd data-path="{path}" data-form="{form}">{shown}</dd></div>"#
        )
    };
    let records = status.map(|s| s.records as u64);
    let intents = status.map(|s| s.intents as u64);
    let bytes = status.map(|s| s.intent_bytes as u64);
    page.push_str(r#"<dl class="figures">"#);
    for one in [
        figure("Records known", "coordinator.records", "count", records, opt(records)),
        figure("Writes waiting for D1", "coordinator.intents", "count", intents, opt(intents)),
        figure("Bytes waiting", "coordinator.intent_bytes", "bytes", bytes, sized(bytes)),
        figure("Running for", "uptime_s", "seconds", Some(0), lasted(report.uptime_s)),
    ] {
        page.push_str(&one);
    }
    page.push_str("</dl>\n");
}

fn datasets(page: &mut String, report: &Report) {
    page.push_str(
        r#"<section class="panel" aria-labelledby="datasets"><header><h2 id="datasets">Datasets</h2><p>What is kept where, and what an acknowledged write survives.</p></header><div class="body">"#,
    );
    for dataset in &report.datasets {
        let _ = write!(
            page,
            r#"<div class="dataset"><h3>{} <span class="tag">{}</span>"#,
            escape(&dataset.name),
            dataset.kind
        );
        for kept in &dataset.stores {
            let part = match kept.keep {
                "full" => String::new(),
                keep => format!(", {keep}"),
            };
            let _ = write!(
                page,
                r#"<span class="tag">{} {}{part}</span>"#,
                kept.store.name().to_uppercase(),
                kept.strategy
            );
        }
        let prefix = format!("{}: ", dataset.name);
        let promise = dataset.promise.strip_prefix(&prefix).unwrap_or(&dataset.promise);
        let mut letters = promise.chars();
        let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
        let _ = write!(page, "</h3><p>{}{}.</p></div>", escape(&first), escape(letters.as_str()));
    }
    page.push_str("</div></section>\n");
}

fn counters(page: &mut String, report: &Report) {
    page.push_str(
        r#"<section class="panel" aria-labelledby="counts"><header><h2 id="counts">Since the start</h2></header><div class="body"><dl class="counts">"#,
    );
    let counters = report.coordinator.as_ref().map(|status| &status.counters);
    let json =
        counters.and_then(|counters| serde_json::to_value(counters).ok()).unwrap_or_default();
    for (name, label) in [
        ("writes_acknowledged", "Writes acknowledged"),
        ("writes_pending", "Writes answered as pending"),
        ("writes_refused", "Writes refused"),
        ("writes_unknown", "Writes of unknown outcome"),
        ("reads", "Reads"),
        ("commits", "Journal commits"),
        ("committed_intents", "Writes carried by these commits"),
        ("replayed_intents", "Writes replayed at the start"),
        ("installs", "Versions put in D1"),
        ("puts", "Puts at KV and R2"),
        ("puts_unknown", "Puts without an answer"),
        ("rate_limited", "Asked to slow down (429)"),
        ("conflicts", "Conflicts, losers kept"),
        ("foreign_writes", "Foreign writes taken in"),
        ("copies_damaged", "Damaged copies not served"),
        ("passes", "Looks over a store"),
        ("copies_compared", "Copies compared"),
        ("copies_put_again", "Copies repaired"),
        ("tombstones_reaped", "Tombstones reaped"),
        ("breaker_opened", "Breakers opened"),
        ("probes", "Probes"),
        ("taken_over", "Work taken over"),
    ] {
        let shown = json[name].as_u64().map_or("–".to_owned(), grouped);
        let _ = write!(
            page,
            r#"<div><dt>{label}</dt><dd data-path="coordinator.counters.{name}">{shown}</dd></div>"#
        );
    }
    page.push_str("</dl></div></section>\n");
}

fn opt(value: Option<u64>) -> String {
    value.map_or("–".to_owned(), grouped)
}

/// `1234567` as `1,234,567`, as the script writes it.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn sized(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else { return "–".to_owned() };
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            let tenths = bytes * 10 / unit;
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

fn lasted(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (h, m) {
        (0, 0) => format!("{s} s"),
        (0, _) => format!("{m} min {s} s"),
        (_, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_fields_are_decoded() {
        assert_eq!(form_field(b"a=1&token=ab%2Bc+d", "token"), Some("ab+c d".to_owned()));
        assert_eq!(form_field(b"tok=1", "token"), None);
        assert_eq!(form_field(b"token=%ff", "token"), None);
    }

    #[test]
    fn numbers() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(sized(Some(1536)), "1.5 KiB");
        assert_eq!(lasted(3_700), "1 h 1 min");
    }
}
