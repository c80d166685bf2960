//! The page that every report is put into: head, styles, content security policy, escaping.
//!
//! Invariant: [`escape`] is the only way from data to markup, and `json_script` the only way
//! from data to script. Neither output can close the element or attribute it stands in.
//!
//! Left to others: what stands on the page. A page that has to fetch (the live status page) takes
//! [`STYLE`] and sends its own policy, since the one here forbids every connection.

use serde::Serialize;

/// The style sheet of all pages, light and dark; it refers to no other file.
pub const STYLE: &str = include_str!("assets/style.css");

const PAGE_SCRIPT: &str = include_str!("assets/page.js");

/// Nothing may be fetched; the page's own styles and scripts are inline, images are data.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'";

/// Runs before anything else, so that an error in any later script is on record in the document.
const ERROR_SCRIPT: &str = "addEventListener('error', (event) => { document.documentElement.dataset.error = event.message || 'error'; });\naddEventListener('unhandledrejection', (event) => { document.documentElement.dataset.error = String(event.reason); });";

const LOGO: &str = r#"<svg width="22" height="22" viewBox="0 0 22 22" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" aria-hidden="true"><path d="M2 8c3-3.4 6-3.4 9 0s6 3.4 9 0"/><path d="M2 14.5c3-3.4 6-3.4 9 0s6 3.4 9 0"/></svg>"#;

/// Escapes text for an element's content or a quoted attribute.
///
/// A NUL, which HTML cannot hold, becomes U+FFFD.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\0' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Wraps `body`, which is markup already, into a whole page with the shared styles and script.
///
/// `title` is text and is escaped here. When all scripts have run, the root element carries
/// `data-ready="true"`; an error in any of them leaves its message in `data-error`.
pub fn shell(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title} · Tidelock</title>
<link rel="icon" href="data:,">
<style>
{STYLE}</style>
<script>
{ERROR_SCRIPT}
</script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<div class="masthead"><div>{LOGO}<span>Tidelock</span></div></div>
<main id="main">
{body}</main>
<script>
{PAGE_SCRIPT}</script>
</body>
</html>
"##
    )
}

/// Embeds `data` for a script of the page to read by the element's `id`.
///
/// The characters that could end the element or start a comment, and the two line separators
/// that are line ends in script but not in JSON, are written as JSON escapes: they can only stand
/// inside strings, so the data stays the same.
pub(crate) fn json_script<T: Serialize>(id: &str, data: &T) -> String {
    let json = serde_json::to_string(data)
        .expect("report data is structs, lists, strings and numbers, which JSON can all hold");
    let mut safe = String::with_capacity(json.len() + json.len() / 8);
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                safe.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => safe.push(other),
        }
    }
    format!("<script type=\"application/json\" id=\"{}\">{safe}</script>\n", escape(id))
}

/// Shows a command with a button that copies it; without script the text can be selected.
pub(crate) fn command(text: &str) -> String {
    let text = escape(text);
    format!(
        r#"<div class="command"><code tabindex="0">{text}</code><button type="button" data-copy hidden aria-label="Copy {text}">Copy</button></div>"#
    )
}

/// Opens no element that it does not close: a titled block of a page. `note` and `body` are markup.
pub(crate) fn panel(id: &str, title: &str, note: &str, body: &str) -> String {
    format!(
        r#"<section class="panel" aria-labelledby="{id}">
<header><h2 id="{id}">{}</h2><p>{note}</p></header>
{body}</section>
"#,
        escape(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_json_reads_back_and_cannot_leave_its_element() {
        let hostile = "</script><!-- & \u{2028}\u{2029} \"\\ ";
        let element = json_script("d", &hostile);
        let inside = element
            .strip_prefix("<script type=\"application/json\" id=\"d\">")
            .and_then(|rest| rest.strip_suffix("</script>\n"))
            .expect("the element is as written above");
        assert!(!inside.contains(['<', '>', '&', '\u{2028}', '\u{2029}']));
        assert_eq!(serde_json::from_str::<String>(inside).unwrap(), hostile);
    }

    #[test]
    fn own_scripts_and_styles_cannot_end_their_element() {
        for text in [STYLE, PAGE_SCRIPT, ERROR_SCRIPT] {
            assert!(!text.contains("</") && !text.contains("<!--"));
        }
    }
}
