//! Rows of a table of the user's own, as values.
//!
//! ```text
//! row of D1  <->  cells, one for each column  <->  {"sku":"A-1","price":12.5,"stock":null}
//! ```
//!
//! The value of a record is a JSON object with a member for each column, in the table's order and
//! spelled in one way only (see [`cell`]), so that equal rows have equal bytes in every store.
//!
//! Invariant: what [`Schema::accept`] gives is kept by SQLite as it is: type affinity changes none
//! of it. Whatever SQLite would change, or is not of the column's declared type, is refused before
//! anybody is told that it was written. What only the database can know (CHECK, UNIQUE, foreign
//! keys) it refuses itself.

pub mod cell;

pub use cell::Cell;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// What a column takes, by its declared type. <https://www.sqlite.org/datatype3.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Integers.
    Integer,
    /// Reals.
    Real,
    /// Numbers, and text that is no number: dates, times, decimals.
    Numeric,
    /// Text.
    Text,
    /// Blobs.
    Blob,
    /// Everything as it is: no type is declared.
    Any,
}

impl ColumnType {
    /// By SQLite's rules of affinity.
    pub fn of(declared: &str, strict_table: bool) -> Self {
        let upper = declared.to_ascii_uppercase();
        let has = |part: &str| upper.contains(part);
        if upper.is_empty() || (strict_table && upper == "ANY") {
            ColumnType::Any
        } else if has("INT") {
            ColumnType::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            ColumnType::Text
        } else if has("BLOB") {
            ColumnType::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            ColumnType::Real
        } else {
            ColumnType::Numeric
        }
    }

    /// The cell as SQLite keeps it in such a column, if it keeps it unchanged in meaning.
    pub fn keep(self, cell: Cell) -> Result<Cell, &'static str> {
        match (self, cell) {
            (_, Cell::Null) => Ok(Cell::Null),
            (ColumnType::Any, cell) => Ok(cell),
            (ColumnType::Integer, Cell::Integer(n)) => Ok(Cell::Integer(n)),
            (ColumnType::Integer, Cell::Real(real)) => {
                integral(real).map(Cell::Integer).ok_or("an integer")
            }
            (ColumnType::Integer, Cell::Text(_) | Cell::Blob(_)) => Err("an integer"),
            // SQLite keeps a whole real as an integer and has no sign for its zero.
            (ColumnType::Real, Cell::Real(0.0)) => Ok(Cell::Real(0.0)),
            (ColumnType::Real, Cell::Real(real)) => Ok(Cell::Real(real)),
            (ColumnType::Real, Cell::Integer(n)) => {
                exact(n).map(Cell::Real).ok_or("a real, and this integer has too many digits")
            }
            (ColumnType::Real, Cell::Text(_) | Cell::Blob(_)) => Err("a real"),
            (ColumnType::Numeric, Cell::Integer(n)) => Ok(Cell::Integer(n)),
            (ColumnType::Numeric, Cell::Real(real)) => {
                Ok(integral(real).map_or(Cell::Real(real), Cell::Integer))
            }
            (ColumnType::Numeric, Cell::Text(text)) if !is_number(&text) => Ok(Cell::Text(text)),
            (ColumnType::Numeric, Cell::Text(_)) => {
                Err("a number, or text that is none: SQLite would turn this text into a number")
            }
            (ColumnType::Numeric, Cell::Blob(_)) => Err("a number or text"),
            (ColumnType::Text, Cell::Text(text)) => Ok(Cell::Text(text)),
            (ColumnType::Text, Cell::Integer(_) | Cell::Real(_) | Cell::Blob(_)) => Err("text"),
            (ColumnType::Blob, Cell::Blob(bytes)) => Ok(Cell::Blob(bytes)),
            (ColumnType::Blob, Cell::Integer(_) | Cell::Real(_) | Cell::Text(_)) => {
                Err("a blob, such as {\"$blob\": \"<base64>\"}")
            }
        }
    }
}

/// The integer that SQLite makes of a whole real.
fn integral(real: f64) -> Option<i64> {
    const LEAST: f64 = i64::MIN as f64;
    const PAST: f64 = -LEAST;
    (real.trunc() == real && real > LEAST && real < PAST).then_some(real as i64)
}

/// The real that is exactly this integer.
fn exact(n: i64) -> Option<f64> {
    let real = n as f64;
    (real as i128 == i128::from(n)).then_some(real)
}

/// True when SQLite reads the whole of a text as a number.
fn is_number(text: &[u8]) -> bool {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\x0b' | b'\x0c' | b'\r');
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = unsigned(&text[start..end]);
    let mut mantissa = digits(rest);
    rest = &rest[mantissa..];
    if let Some(b'.') = rest.first() {
        let fraction = digits(&rest[1..]);
        mantissa += fraction;
        rest = &rest[1 + fraction..];
    }
    if mantissa == 0 {
        return false;
    }
    if let Some(b'e' | b'E') = rest.first() {
        rest = unsigned(&rest[1..]);
        let exponent = digits(rest);
        return exponent > 0 && exponent == rest.len();
    }
    rest.is_empty()
}

fn unsigned(text: &[u8]) -> &[u8] {
    match text {
        [b'+' | b'-', rest @ ..] => rest,
        _ => text,
    }
}

/// What a column holds where a value does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// This: the declared default, or NULL.
    Is(Cell),
    /// What only the database can compute, in SQL: the value must say.
    Computed(String),
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// As the table spells it.
    pub name: String,
    /// What it takes.
    pub takes: ColumnType,
    /// It takes no NULL.
    pub not_null: bool,
    /// What it holds where a value does not say.
    pub missing: Missing,
}

/// A table of the user's own: its columns, and which of them is the record's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    table: String,
    columns: Vec<Column>,
    key: usize,
    /// Columns that the database computes: no part of the value.
    generated: Vec<String>,
}

/// Why a value is no row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

impl Schema {
    /// Of a table; `key` must be one of its columns, and take text or integers.
    pub fn new(
        table: &str,
        columns: Vec<Column>,
        key: &str,
        generated: Vec<String>,
    ) -> Result<Self, Violation> {
        let Some(at) = columns.iter().position(|column| column.name == key) else {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let problem = match generated.iter().any(|name| name == key) {
                true => format!("the key column {key:?} of table {table:?} is generated"),
                false => format!("table {table:?} has no column {key:?}"),
            };
            return Err(Violation(format!("{problem}; its columns are {}", names.join(", "))));
        };
        match columns[at].takes {
            ColumnType::Text | ColumnType::Integer => {}
            ColumnType::Real | ColumnType::Numeric | ColumnType::Blob | ColumnType::Any => {
                return Err(Violation(format!(
                    "the key column {key:?} of table {table:?} holds neither text nor integers, \
                     so it gives no key of a record; declare it TEXT or INTEGER, or choose another"
                )));
            }
        }
        Ok(Schema { table: table.to_owned(), columns, key: at, generated })
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The columns that make a value, in the table's order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The key's column.
    pub fn key(&self) -> &Column {
        &self.columns[self.key]
    }

    /// The place of the key's column among the others.
    pub fn key_at(&self) -> usize {
        self.key
    }

    /// The cell that a record's key is in its row; `None`: no row has such a key.
    pub fn key_cell(&self, key: &str) -> Option<Cell> {
        match self.key().takes {
            ColumnType::Integer => {
                let n: i64 = key.parse().ok()?;
                // Every row has one key: "+7" and "007" are none.
                (n.to_string() == key).then_some(Cell::Integer(n))
            }
            _ => Some(Cell::Text(key.as_bytes().to_vec())),
        }
    }

    /// The value of a row.
    pub fn encode(&self, cells: &[Cell]) -> Vec<u8> {
        let mut json = Vec::with_capacity(16 * cells.len());
        json.push(b'{');
        for (at, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            if at > 0 {
                json.push(b',');
            }
            serde_json::to_writer(&mut json, &column.name).expect("text always serializes");
            json.push(b':');
            cell.write_json(&mut json);
        }
        json.push(b'}');
        json
    }

    /// The row that a value is, for the record of this key: the cells are exactly what SQLite
    /// keeps. A column that is not mentioned has its declared default, or is NULL.
    pub fn decode(&self, key: &str, value: &[u8]) -> Result<Vec<Cell>, Violation> {
        self.decode_over(key, value, None)
    }

    /// The same over a row that stands there: a column that is not mentioned stays as it is. Only a
    /// value from before the column was added, or from a table without it, mentions less than all.
    pub fn decode_over(
        &self,
        key: &str,
        value: &[u8],
        before: Option<&[Cell]>,
    ) -> Result<Vec<Cell>, Violation> {
        let table = &self.table;
        let members: Members<'_> = serde_json::from_slice(value).map_err(|error| {
            Violation(format!(
                "the dataset keeps rows of table {table:?}, and the value is no JSON object with \
                 a member for each column: {error}"
            ))
        })?;
        let mut given: Vec<Option<Cell>> = vec![None; self.columns.len()];
        for (name, raw) in &members.0 {
            let Some(at) = self.columns.iter().position(|column| column.name == *name) else {
                return Err(self.no_column(name));
            };
            if given[at].is_some() {
                return Err(Violation(format!("the value names column {name:?} twice")));
            }
            let cell = Cell::read_json(raw).map_err(|problem| self.in_column(at, &problem))?;
            given[at] = Some(cell);
        }
        let key_cell = self.key_cell(key).ok_or_else(|| {
            Violation(format!(
                "{key:?} is no key of table {table:?}, whose column {:?} holds integers",
                self.key().name
            ))
        })?;
        let mut cells = Vec::with_capacity(self.columns.len());
        for (at, (column, given)) in self.columns.iter().zip(given).enumerate() {
            let cell = match (given, &column.missing) {
                (Some(cell), _) => cell,
                (None, _) if at == self.key => key_cell.clone(),
                (None, missing) => match (before, missing) {
                    (Some(before), _) => before[at].clone(),
                    (None, Missing::Is(cell)) => cell.clone(),
                    (None, Missing::Computed(sql)) => {
                        let problem =
                            format!("is missing, and only D1 can compute its default {sql}");
                        return Err(self.in_column(at, &problem));
                    }
                },
            };
            let class = cell.class();
            let kept = column.takes.keep(cell).map_err(|wanted| {
                self.in_column(at, &format!("takes {wanted}; the value has {class}"))
            })?;
            if kept == Cell::Null && column.not_null {
                return Err(self.in_column(at, "takes no NULL"));
            }
            if at == self.key && kept != key_cell {
                let problem = format!("is the key, and differs from the record's key {key:?}");
                return Err(self.in_column(at, &problem));
            }
            cells.push(kept);
        }
        Ok(cells)
    }

    /// The one spelling of a value, for the record of this key.
    pub fn accept(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, Violation> {
        self.decode(key, value).map(|cells| self.encode(&cells))
    }

    /// Refuses a field that no value of the table has.
    pub fn check_field(&self, name: &str) -> Result<(), Violation> {
        match self.columns.iter().any(|column| column.name == name) {
            true => Ok(()),
            false => Err(self.no_column(name)),
        }
    }

    fn no_column(&self, name: &str) -> Violation {
        if self.generated.iter().any(|generated| generated == name) {
            return Violation(format!(
                "column {name:?} of table {:?} is generated: leave it out",
                self.table
            ));
        }
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        Violation(format!(
            "table {:?} has no column {name:?}; its columns are {}",
            self.table,
            names.join(", ")
        ))
    }

    fn in_column(&self, at: usize, problem: &str) -> Violation {
        Violation(format!(
            "column {:?} of table {:?}: {problem}",
            self.columns[at].name, self.table
        ))
    }
}

/// The members of a JSON object, each as it is spelled, in their order.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests;
