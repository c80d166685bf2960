//! One value of a row, as SQLite keeps it and as JSON says it.
//!
//! ```text
//! NULL                 null
//! INTEGER              42, and beyond what every JSON reader keeps exactly {"$integer":"9007199254740993"}
//! REAL                 0.1, 1.0, 1e300 (always with a point or an exponent), {"$real":"Infinity"}
//! TEXT                 "text", and what is no UTF-8 {"$text":"<base64>"}
//! BLOB                 {"$blob":"<base64>"}
//! ```
//!
//! Invariant: a cell has one spelling, and reading that spelling gives the same cell to the bit.
//! Storage classes: <https://www.sqlite.org/datatype3.html>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

/// Integers up to here, and down to its negative, are exact to every reader of JSON
/// (`Number.MAX_SAFE_INTEGER`).
const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;

/// A value in a column of a row.
#[derive(Clone, Debug)]
pub enum Cell {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL; never NaN, which SQLite keeps as NULL.
    Real(f64),
    /// TEXT; SQLite does not check that it is UTF-8.
    Text(Vec<u8>),
    /// BLOB.
    Blob(Vec<u8>),
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Integer(a), Cell::Integer(b)) => a == b,
            // To the bit: 0.0 and -0.0 are two values.
            (Cell::Real(a), Cell::Real(b)) => a.to_bits() == b.to_bits(),
            (Cell::Text(a), Cell::Text(b)) | (Cell::Blob(a), Cell::Blob(b)) => a == b,
            (Cell::Null, _)
            | (Cell::Integer(_), _)
            | (Cell::Real(_), _)
            | (Cell::Text(_), _)
            | (Cell::Blob(_), _) => false,
        }
    }
}

impl Eq for Cell {}

impl Cell {
    /// The storage class, as people call it.
    pub fn class(&self) -> &'static str {
        match self {
            Cell::Null => "NULL",
            Cell::Integer(_) => "an integer",
            Cell::Real(_) => "a real",
            Cell::Text(_) => "text",
            Cell::Blob(_) => "a blob",
        }
    }

    /// Appends the cell's JSON.
    pub fn write_json(&self, json: &mut Vec<u8>) {
        match self {
            Cell::Null => json.extend_from_slice(b"null"),
            Cell::Integer(n) if (-SAFE_INTEGER_MAX..=SAFE_INTEGER_MAX).contains(n) => {
                json.extend_from_slice(n.to_string().as_bytes());
            }
            Cell::Integer(n) => tagged(json, "$integer", &n.to_string()),
            Cell::Real(r) if r.is_finite() => {
                // The shortest digits that read back as the same bits.
                serde_json::to_writer(json, r).expect("a finite number always serializes");
            }
            Cell::Real(r) => {
                tagged(json, "$real", if *r > 0.0 { "Infinity" } else { "-Infinity" });
            }
            Cell::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => string(json, text),
                Err(_) => tagged(json, "$text", &STANDARD.encode(bytes)),
            },
            Cell::Blob(bytes) => tagged(json, "$blob", &STANDARD.encode(bytes)),
        }
    }

    /// Reads a cell's JSON, in its one spelling or another that means the same.
    pub fn read_json(json: &RawValue) -> Result<Cell, String> {
        let text = json.get();
        match text.as_bytes().first() {
            Some(b'n') => Ok(Cell::Null),
            Some(b'"') => serde_json::from_str::<String>(text)
                .map(|text| Cell::Text(text.into_bytes()))
                .map_err(|error| error.to_string()),
            Some(b'{') => read_tagged(text),
            Some(b't' | b'f') => Err("SQLite has no booleans; give 1 or 0, or text".to_owned()),
            Some(b'[') => Err("a column holds no array; give text".to_owned()),
            Some(_) | None => read_number(text),
        }
    }
}

fn string(json: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(json, text).expect("text always serializes");
}

fn tagged(json: &mut Vec<u8>, tag: &str, text: &str) {
    json.push(b'{');
    string(json, tag);
    json.push(b':');
    string(json, text);
    json.push(b'}');
}

fn read_number(text: &str) -> Result<Cell, String> {
    if !text.contains(['.', 'e', 'E']) {
        return text.parse().map(Cell::Integer).map_err(|_| {
            format!("{text} does not fit 64 bits; give a number with a point, or text")
        });
    }
    match text.parse::<f64>() {
        Ok(real) if real.is_finite() => Ok(Cell::Real(real)),
        Ok(_) | Err(_) => Err(format!("{text} is beyond what a REAL holds")),
    }
}

fn read_tagged(text: &str) -> Result<Cell, String> {
    const TAGS: &str = "a column holds no object but {\"$integer\": \"..\"}, {\"$real\": \"..\"}, \
                        {\"$blob\": \"<base64>\"} and {\"$text\": \"<base64>\"}; give text";
    let members: super::Members<'_> = serde_json::from_str(text).map_err(|_| TAGS.to_owned())?;
    let [(tag, value)] = members.0.as_slice() else { return Err(TAGS.to_owned()) };
    let value: String = serde_json::from_str(value.get()).map_err(|_| TAGS.to_owned())?;
    let bytes = || STANDARD.decode(&value).map_err(|error| format!("{tag}: no base64: {error}"));
    match tag.as_str() {
        "$integer" => value
            .parse()
            .map(Cell::Integer)
            .map_err(|_| format!("$integer: {value:?} is no integer of 64 bits")),
        "$real" => match value.as_str() {
            "Infinity" => Ok(Cell::Real(f64::INFINITY)),
            "-Infinity" => Ok(Cell::Real(f64::NEG_INFINITY)),
            _ => Err(format!("$real: {value:?} is not \"Infinity\" or \"-Infinity\"")),
        },
        "$blob" => bytes().map(Cell::Blob),
        "$text" => bytes().map(Cell::Text),
        _ => Err(TAGS.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_cell() -> impl Strategy<Value = Cell> {
        prop_oneof![
            Just(Cell::Null),
            any::<i64>().prop_map(Cell::Integer),
            (-9_007_199_254_740_994_i64..=-9_007_199_254_740_990).prop_map(Cell::Integer),
            (9_007_199_254_740_990_i64..=9_007_199_254_740_994).prop_map(Cell::Integer),
            any::<f64>().prop_filter_map("NaN is NULL", |r| (!r.is_nan()).then_some(Cell::Real(r))),
            any::<u64>().prop_filter_map("NaN is NULL", |bits| {
                let real = f64::from_bits(bits);
                (!real.is_nan()).then_some(Cell::Real(real))
            }),
            any::<String>().prop_map(|text| Cell::Text(text.into_bytes())),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Cell::Text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Cell::Blob),
        ]
    }

    #[track_caller]
    fn check(cell: &Cell, json: &str) {
        let mut written = Vec::new();
        cell.write_json(&mut written);
        assert_eq!(std::str::from_utf8(&written), Ok(json));
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        assert_eq!(Cell::read_json(raw).as_ref(), Ok(cell));
    }

    #[test]
    fn spellings() {
        check(&Cell::Null, "null");
        check(&Cell::Integer(0), "0");
        check(&Cell::Integer(9_007_199_254_740_991), "9007199254740991");
        check(&Cell::Integer(9_007_199_254_740_992), r#"{"$integer":"9007199254740992"}"#);
        check(&Cell::Integer(i64::MIN), r#"{"$integer":"-9223372036854775808"}"#);
        check(&Cell::Real(1.0), "1.0");
        check(&Cell::Real(0.1), "0.1");
        check(&Cell::Real(-0.0), "-0.0");
        check(&Cell::Real(f64::NEG_INFINITY), r#"{"$real":"-Infinity"}"#);
        check(&Cell::Text(b"2026-02-30T25:61:00Z".to_vec()), r#""2026-02-30T25:61:00Z""#);
        check(&Cell::Text(b"a\0\"\xc3\xbc".to_vec()), "\"a\\u0000\\\"\u{fc}\"");
        check(&Cell::Text(b"\xff".to_vec()), r#"{"$text":"/w=="}"#);
        check(&Cell::Blob(Vec::new()), r#"{"$blob":""}"#);
        check(&Cell::Blob(b"\x00\xff".to_vec()), r#"{"$blob":"AP8="}"#);
    }

    #[test]
    fn other_spellings_that_mean_the_same() {
        let read = |json: &str| Cell::read_json(serde_json::from_str(json).unwrap());
        assert_eq!(read("9007199254740993"), Ok(Cell::Integer(9_007_199_254_740_993)));
        assert_eq!(read(r#"{ "$integer" : "7" }"#), Ok(Cell::Integer(7)));
        assert_eq!(read("1E2"), Ok(Cell::Real(100.0)));
        assert_eq!(read(r#"{"$text":"YQ=="}"#), Ok(Cell::Text(b"a".to_vec())));
    }

    #[test]
    fn what_no_column_holds() {
        let refused = [
            "true",
            "[1]",
            "{}",
            r#"{"a":1}"#,
            r#"{"$blob":"AA==","$text":"AA=="}"#,
            r#"{"$blob":"?"}"#,
            r#"{"$integer":"9223372036854775808"}"#,
            r#"{"$integer":7}"#,
            r#"{"$real":"NaN"}"#,
            "9223372036854775808",
            "99999999999999999999999999",
            "1e400",
        ];
        for json in refused {
            assert!(Cell::read_json(serde_json::from_str(json).unwrap()).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn every_cell_comes_back_to_the_bit(cell in any_cell()) {
            let mut json = Vec::new();
            cell.write_json(&mut json);
            let raw: &RawValue = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(Cell::read_json(raw), Ok(cell));
        }
    }
}
