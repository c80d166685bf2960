//! Texts merged by lines, any number of sides at once.
//!
//! ```text
//! base   a b c d e f
//! side 1 a B c d e f      hunk 1..2
//! side 2 a b c d E f      hunk 4..5        disjoint: a B c d E f
//! side 3 a x y d e f      hunk 1..3        touches side 1's: the later writer's lines stand
//! ```
//!
//! Invariant: a hunk that touches no other side's is in the result, whatever the order of the sides.
//! Hunks touch when no unchanged line is between them. An edit that several sides made alike is
//! made once.

use similar::{Algorithm, DiffOp, capture_diff_slices};
use std::ops::Range;

/// Lines of both texts between their common ends that are compared line by line. Beyond, all of
/// them are one hunk.
const COMPARED_LINES_MAX: usize = 1 << 16;

/// What became of the lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lines {
    pub text: String,
    /// Places where edits touched and differed.
    pub touching: usize,
}

/// A side's replacement for some lines of the base.
struct Hunk<'a, 't> {
    base: Range<usize>,
    side: usize,
    lines: &'a [&'t str],
}

/// Merges the sides over the base; `rank` is greater for the later writer.
pub(super) fn merge<R: Ord>(base: &str, sides: &[&str], rank: impl Fn(usize) -> R) -> Lines {
    let base = lines_of(base);
    let texts: Vec<Vec<&str>> = sides.iter().map(|text| lines_of(text)).collect();
    let mut hunks: Vec<Hunk<'_, '_>> = Vec::new();
    for (side, text) in texts.iter().enumerate() {
        push_hunks(&base, text, side, &mut hunks);
    }
    hunks.sort_by_key(|hunk| (hunk.base.start, hunk.base.end, hunk.side));
    let mut merged = Lines { text: String::new(), touching: 0 };
    let mut copied = 0;
    let mut rest = hunks.as_slice();
    while let Some(first) = rest.first() {
        let mut span = first.base.clone();
        let mut count = 1;
        while let Some(hunk) = rest.get(count).filter(|hunk| hunk.base.start <= span.end) {
            span.end = span.end.max(hunk.base.end);
            count += 1;
        }
        let (cluster, after) = rest.split_at(count);
        rest = after;
        merged.text.extend(base[copied..span.start].iter().copied());
        copied = span.end;
        let mut editors: Vec<usize> = cluster.iter().map(|hunk| hunk.side).collect();
        editors.sort_unstable();
        editors.dedup();
        let latest = editors.iter().copied().max_by_key(|side| rank(*side));
        let latest = latest.expect("a cluster has a hunk");
        let stands = edited(&base, &span, cluster, latest);
        if editors.iter().any(|side| edited(&base, &span, cluster, *side) != stands) {
            merged.touching += 1;
        }
        merged.text.push_str(&stands);
    }
    merged.text.extend(base[copied..].iter().copied());
    merged
}

fn lines_of(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// What one side made of these lines of the base.
fn edited(base: &[&str], span: &Range<usize>, cluster: &[Hunk<'_, '_>], side: usize) -> String {
    let mut text = String::new();
    let mut copied = span.start;
    for hunk in cluster.iter().filter(|hunk| hunk.side == side) {
        text.extend(base[copied..hunk.base.start].iter().copied());
        text.extend(hunk.lines.iter().copied());
        copied = hunk.base.end;
    }
    text.extend(base[copied..span.end].iter().copied());
    text
}

fn push_hunks<'a, 't>(
    base: &[&str],
    text: &'a [&'t str],
    side: usize,
    hunks: &mut Vec<Hunk<'a, 't>>,
) {
    let head = base.iter().zip(text).take_while(|(a, b)| a == b).count();
    let (old, new) = (&base[head..], &text[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    if old.is_empty() && new.is_empty() {
        return;
    }
    if old.len() + new.len() > COMPARED_LINES_MAX {
        hunks.push(Hunk { base: head..head + old.len(), side, lines: new });
        return;
    }
    // The range of an open hunk, of the base and of the text.
    let mut open: Option<(Range<usize>, Range<usize>)> = None;
    let mut close = |open: &mut Option<(Range<usize>, Range<usize>)>| {
        if let Some((of_base, of_text)) = open.take() {
            let base = head + of_base.start..head + of_base.end;
            hunks.push(Hunk { base, side, lines: &new[of_text] });
        }
    };
    for op in capture_diff_slices(Algorithm::Myers, old, new) {
        match op {
            DiffOp::Equal { .. } => close(&mut open),
            DiffOp::Delete { .. } | DiffOp::Insert { .. } | DiffOp::Replace { .. } => {
                let (of_base, of_text) = (op.old_range(), op.new_range());
                match &mut open {
                    Some((base, text)) => (base.end, text.end) = (of_base.end, of_text.end),
                    None => open = Some((of_base, of_text)),
                }
            }
        }
    }
    close(&mut open);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters for lines; later sides are later writers.
    #[track_caller]
    fn check(base: &str, sides: &[&str], expected: &str, touching: usize) {
        let lines = |text: &str| text.chars().map(|c| format!("{c}\n")).collect::<String>();
        let texts: Vec<String> = sides.iter().map(|side| lines(side)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let merged = merge(&lines(base), &texts, |side| side);
        assert_eq!(merged, Lines { text: lines(expected), touching }, "{base} {sides:?}");
    }

    #[test]
    fn edits() {
        check("abcdef", &["aBcdef", "abcdEf"], "aBcdEf", 0);
        check("abcdef", &["aBcdef", "abcdEf", "abcdef"], "aBcdEf", 0);
        check("abcdef", &["bcdef", "abcde"], "bcde", 0);
        check("abc", &["xabc", "abcy"], "xabcy", 0);
        check("abc", &["aXc", "aXc"], "aXc", 0);
        check("abc", &["abcX", "abcX", "Yabc"], "YabcX", 0);
        check("", &["", ""], "", 0);
    }

    #[test]
    fn edits_that_touch() {
        check("abc", &["aXc", "aYc"], "aYc", 1);
        check("abcd", &["aXcd", "abYd"], "abYd", 1);
        check("abc", &["abcX", "abcY"], "abcY", 1);
        check("abc", &["ac", "aYc"], "aYc", 1);
        check("", &["x", "y"], "y", 1);
        // One edit reaches over two others; the latest writer's part of it stands.
        check("abcdefg", &["aBcdeFg", "aXYZfg"], "aXYZfg", 1);
        check("abcdefg", &["aXYZfg", "aBcdeFg"], "aBcdeFg", 1);
        // A conflict in one place is none in another.
        check("abcdefg", &["aXcdefG", "aYcdefg"], "aYcdefG", 1);
    }

    #[test]
    fn a_last_line_without_an_end() {
        let merged = merge("a\nb\nc", &["A\nb\nc", "a\nb\nc\n"], |side| side);
        assert_eq!(merged, Lines { text: "A\nb\nc\n".to_owned(), touching: 0 });
    }

    #[test]
    fn long_texts_without_a_line_in_common() {
        let long = |c: char| (0..300_000).map(|n| format!("{c}{n}\n")).collect::<String>();
        let (base, a, b) = (long('o'), long('a'), long('b'));
        let merged = merge(&base, &[&a, &b], |side| side);
        assert_eq!(merged, Lines { text: b, touching: 1 });
    }
}
