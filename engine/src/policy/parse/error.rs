//! Mistakes in a configuration, each with its place and a way out.

use super::Reader;
use std::fmt;
use std::ops::Range;
use toml::Spanned;

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The field, as a path such as `dataset.kv.prefix`.
    pub field: String,
    /// Of which dataset.
    pub dataset: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What would be accepted.
    pub accepted: String,
    /// The line itself.
    pub excerpt: String,
    /// How many of its characters this is about.
    pub width: usize,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gap = " ".repeat(number.len());
        let indent = " ".repeat(self.column - 1);
        let carets = "^".repeat(self.width);
        writeln!(f, "error: {}", self.problem)?;
        writeln!(f, "{gap}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{gap} |")?;
        // A tab would set the carets off.
        writeln!(f, "{number} | {}", self.excerpt.replace('\t', " "))?;
        writeln!(f, "{gap} | {indent}{carets}")?;
        write!(f, "{gap} = field: {}", self.field)?;
        if let Some(dataset) = &self.dataset {
            write!(f, ", of dataset {dataset:?}")?;
        }
        writeln!(f)?;
        write!(f, "{gap} = accepted: {}", self.accepted)
    }
}

impl std::error::Error for PolicyError {}

impl Reader<'_> {
    pub(super) fn refuse(
        &mut self,
        span: Range<usize>,
        field: &str,
        problem: String,
        accepted: &str,
    ) {
        let error = self.at(span, field, problem, accepted);
        self.errors.push(error);
    }

    /// What `toml` and `serde` found: the field and what is accepted stand in their message.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> PolicyError {
        let message = error.message();
        let (problem, accepted) = match message.split_once(", expected ") {
            Some((problem, accepted)) => (problem, accepted),
            None if message.starts_with("missing field") => (message, "the field with a value"),
            None if message.starts_with("unknown field") => (message, "no field here"),
            None => (message, "valid TOML, see the default tidelock.toml"),
        };
        let mut error = self.at(error.span().unwrap_or(0..0), "", problem.to_owned(), accepted);
        let quoted = message.contains(" field `").then(|| message.split('`').nth(1)).flatten();
        let written = error.excerpt.split(['=', '#']).next().unwrap_or_default().trim();
        error.field = quoted.unwrap_or(written).to_owned();
        error.dataset = self.section(error.line);
        error
    }

    /// One of a few words. `later` are those that are known but not built yet.
    pub(super) fn word<T: Copy>(
        &mut self,
        value: &Spanned<String>,
        field: &str,
        words: &[(&str, T)],
        later: &[&str],
    ) -> Option<T> {
        let text = value.get_ref().as_str();
        if let Some((_, found)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*found);
        }
        let problem = if later.contains(&text) {
            format!("{text:?} is not built yet")
        } else {
            format!("{text:?} is not known here")
        };
        let accepted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.refuse(value.span(), field, problem, &accepted.join(", "));
        None
    }

    fn at(&self, span: Range<usize>, field: &str, problem: String, accepted: &str) -> PolicyError {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let excerpt = self.text[line_start..].lines().next().unwrap_or_default();
        let column = before[line_start..].chars().count() + 1;
        let rest = excerpt.chars().count().saturating_sub(column - 1).max(1);
        let spanned = self.text.get(start..span.end).unwrap_or_default().chars().count();
        PolicyError {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            field: field.to_owned(),
            dataset: self.of.clone(),
            problem,
            accepted: accepted.to_owned(),
            excerpt: excerpt.to_owned(),
            width: spanned.clamp(1, rest),
        }
    }

    /// The name of the dataset in whose section a line is. Read from the text, since there is nothing
    /// else where the file could not be read.
    fn section(&self, line: usize) -> Option<String> {
        let lines: Vec<&str> = self.text.lines().map(str::trim).collect();
        let begins = lines.iter().take(line).rposition(|line| line.starts_with("[[dataset]]"))?;
        let section = lines[begins + 1..].iter().take_while(|line| !line.starts_with("[["));
        let names = section.filter_map(|line| line.strip_prefix("name")?.trim().strip_prefix('='));
        let name = names.map(|name| name.trim().split('"').nth(1)).next()?;
        name.map(str::to_owned)
    }
}
