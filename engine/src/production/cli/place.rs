//! Where an exported record's file may stand.
//!
//! Invariant: the path of every key is made of plain names below the folder: no `.`, no `..`, no
//! empty and no absolute part. Two keys never get the same path, and no key's path leads through
//! another key's file.
//!
//! What could break that is percent-encoded: `../../x` stands in `%2E%2E/%2E%2E/x`, `a//b` in
//! `a/%2Fb`, `/etc` in `%2Fetc`, and `a/b` in `a%2Fb` when there is a key `a`. A `%` of the key
//! is encoded where two hexadecimal digits follow, so that paths can be turned back into keys.

use std::collections::BTreeSet;

/// Longest name that common file systems take, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The paths given out so far.
#[derive(Debug, Default)]
pub struct Places {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

/// Where a key's file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Names from the folder down, joined by `/`.
    pub path: String,
    /// Part of the key was encoded.
    pub encoded: bool,
}

impl Places {
    /// Gives the key its path. Keys come in their order, so that `a` comes before `a/b`.
    pub fn give(&mut self, key: &str) -> Result<Place, String> {
        let names = self.around_files(names(key)?);
        let path = names.join("/");
        if let Some(long) = names.iter().find(|name| name.len() > NAME_BYTES_MAX) {
            return Err(format!(
                "a file name of {} bytes would be needed, and {NAME_BYTES_MAX} are possible; \
                 export to a .jsonl file instead",
                long.len()
            ));
        }
        if self.folders.contains(&path) {
            return Err("a folder of this name holds other records; export to a .jsonl file".into());
        }
        if !self.files.insert(path.clone()) {
            return Err("another record has this file already; export to a .jsonl file".into());
        }
        for (end, _) in path.match_indices('/') {
            self.folders.insert(path[..end].to_owned());
        }
        let encoded = path != key;
        Ok(Place { path, encoded })
    }

    /// Joins with `%2F` what would lead through a file.
    fn around_files(&self, names: Vec<String>) -> Vec<String> {
        let mut around: Vec<String> = Vec::new();
        let mut above = String::new();
        let mut through_file = false;
        for name in names {
            match around.last_mut() {
                Some(last) if through_file => {
                    last.push_str("%2F");
                    last.push_str(&name);
                }
                Some(_) | None => around.push(name),
            }
            above.clear();
            above.push_str(&around.join("/"));
            through_file = self.files.contains(&above);
        }
        around
    }
}

/// The key's parts as plain names. A part that is empty leaves its slash to the next name; a slash
/// at the end stays with the name before it.
fn names(key: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    let mut slashes = String::new();
    let mut parts = key.split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match (part.is_empty(), is_last, names.last_mut()) {
            (false, _, _) => {
                names.push(format!("{}{}", std::mem::take(&mut slashes), encode(part)))
            }
            (true, false, _) => slashes.push_str("%2F"),
            (true, true, Some(last)) => {
                last.push_str(&slashes);
                last.push_str("%2F");
            }
            (true, true, None) if slashes.is_empty() => return Err("the key is empty".to_owned()),
            (true, true, None) => names.push(std::mem::take(&mut slashes)),
        }
    }
    Ok(names)
}

fn encode(part: &str) -> String {
    if part == "." {
        return "%2E".to_owned();
    }
    if part == ".." {
        return "%2E%2E".to_owned();
    }
    let mut encoded = String::with_capacity(part.len());
    let bytes = part.as_bytes();
    for (at, character) in part.char_indices() {
        let is_hex = |offset: usize| bytes.get(at + offset).is_some_and(u8::is_ascii_hexdigit);
        match character {
            '%' if is_hex(1) && is_hex(2) => encoded.push_str("%25"),
            other => encoded.push(other),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dangerous_parts_are_encoded() {
        let check = |key: &str, expected: &str| {
            let place = Places::default().give(key).unwrap();
            assert_eq!(place.path, expected, "{key:?}");
            assert_eq!(place.encoded, key != expected);
        };
        check("a/b.txt", "a/b.txt");
        check("100%", "100%");
        check("../../x", "%2E%2E/%2E%2E/x");
        check("a/./b", "a/%2E/b");
        check("/etc/passwd", "%2Fetc/passwd");
        check("//x", "%2F%2Fx");
        check("a//b", "a/%2Fb");
        check("a/", "a%2F");
        check("a//", "a%2F%2F");
        check("/", "%2F");
        check("//", "%2F%2F");
        check("%2E%2E/x", "%252E%252E/x");
        check("...", "...");
    }

    #[test]
    fn a_file_and_a_folder_of_one_name() {
        let mut places = Places::default();
        assert_eq!(places.give("a").unwrap().path, "a");
        assert_eq!(places.give("a/b").unwrap().path, "a%2Fb");
        assert_eq!(places.give("a/b/c").unwrap().path, "a%2Fb%2Fc");
        let mut places = Places::default();
        assert_eq!(places.give("a/b").unwrap().path, "a/b");
        assert!(places.give("a").is_err());
    }

    #[test]
    fn names_too_long_are_refused() {
        assert!(Places::default().give(&"k".repeat(256)).is_err());
        assert!(Places::default().give(&format!("{}/b", "k".repeat(255))).is_ok());
    }

    proptest! {
        #[test]
        fn every_path_stays_below_and_is_one_keys_alone(
            keys in proptest::collection::btree_set("[a./%2EF]{1,9}", 1..30),
        ) {
            let mut places = Places::default();
            let mut given: BTreeSet<String> = BTreeSet::new();
            for key in &keys {
                let Ok(place) = places.give(key) else { continue };
                for name in place.path.split('/') {
                    prop_assert!(!name.is_empty() && name != "." && name != "..", "{key} {place:?}");
                }
                prop_assert!(given.insert(place.path.clone()), "{key} {place:?}");
            }
            for path in &given {
                let below = format!("{path}/");
                prop_assert!(!given.iter().any(|other| other.starts_with(&below)), "{path}");
            }
        }
    }
}
