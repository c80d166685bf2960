//! Records as lines: `{"key": .., "value": ..}`, or `{"key": .., "base64": ..}` for bytes that
//! are no text.
//!
//! Invariant: what [`write`] makes, [`read`] turns back into the same bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    value: Option<Value>,
    base64: Option<String>,
}

/// Key and bytes of a line. In a JSON dataset a value is JSON; elsewhere a string is its text.
pub fn read(line: &[u8], is_json: bool) -> Result<(String, Vec<u8>), String> {
    let Line { key, value, base64 } = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let bytes = match (value, base64) {
        (Some(Value::String(text)), None) if !is_json => text.into_bytes(),
        (Some(value), None) => value.to_string().into_bytes(),
        (None, Some(base64)) => STANDARD.decode(base64).map_err(|e| format!("`base64`: {e}"))?,
        (None, None) if is_json => b"null".to_vec(),
        (None, None) | (Some(_), Some(_)) => {
            return Err("give one of `value` and `base64`".to_owned());
        }
    };
    Ok((key, bytes))
}

/// The line of a record, without its end.
pub fn write(key: &str, bytes: &[u8], is_json: bool) -> String {
    let value = if is_json {
        // Only where the text comes back as it stands: spaces and the order of members count.
        serde_json::from_slice(bytes)
            .ok()
            .filter(|value: &Value| value.to_string().as_bytes() == bytes)
    } else {
        std::str::from_utf8(bytes).ok().map(Value::from)
    };
    match value {
        Some(value) => json!({ "key": key, "value": value }).to_string(),
        None => json!({ "key": key, "base64": STANDARD.encode(bytes) }).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_the_same_bytes() {
        for is_json in [false, true] {
            for bytes in [
                &b"text"[..],
                b"",
                b"\xff\x00",
                b"{\"b\": 1, \"a\":2}",
                b"{\"a\":2}",
                b"null",
                b"1.50",
            ] {
                let line = write("k/\u{1F30A}", bytes, is_json);
                let (key, back) = read(line.as_bytes(), is_json).unwrap();
                assert_eq!((key.as_str(), back.as_slice()), ("k/\u{1F30A}", bytes), "{line}");
            }
        }
    }

    #[test]
    fn lines_of_others() {
        let check = |line: &str, is_json: bool, expected: Result<&str, ()>| {
            let read = read(line.as_bytes(), is_json);
            let read = read.map(|(_, bytes)| String::from_utf8(bytes).unwrap()).map_err(drop);
            assert_eq!(read, expected.map(str::to_owned), "{line}");
        };
        check(r#"{"key":"k","value":"v"}"#, false, Ok("v"));
        check(r#"{"key":"k","value":"v"}"#, true, Ok("\"v\""));
        check(r#"{"key":"k","value":{"a":[1]}}"#, false, Ok(r#"{"a":[1]}"#));
        check(r#"{"key":"k"}"#, false, Err(()));
        check(r#"{"key":"k","value":1,"base64":""}"#, false, Err(()));
        check(r#"{"value":1}"#, false, Err(()));
        check("nonsense", false, Err(()));
    }
}
