//! Lines for people and programs.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};

/// Prints a line to standard output. A reader that has gone away is no error of ours.
pub fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A bar on standard error; hidden where nobody sees it, and in JSON mode.
pub fn bar(what: &'static str, json: bool) -> ProgressBar {
    let target = if json || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style = ProgressStyle::with_template(
        "{prefix} {wide_bar} {human_pos}/{human_len}  {per_sec}  {elapsed}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(0), target).with_style(style);
    bar.set_prefix(what);
    bar
}

/// Prints a warning or note beside the bar, to standard error.
pub fn note(bar: &ProgressBar, text: &str) {
    // Names come from disks and stores: control characters in them must not reach the terminal.
    let text: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    bar.suspend(|| eprintln!("tidelock: {text}"));
}
