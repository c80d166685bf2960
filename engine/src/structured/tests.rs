use super::*;

fn column(name: &str, declared: &str) -> Column {
    Column {
        name: name.to_owned(),
        takes: ColumnType::of(declared, false),
        not_null: false,
        missing: Missing::Is(Cell::Null),
    }
}

fn products() -> Schema {
    let columns = vec![
        Column { not_null: true, ..column("sku", "TEXT") },
        Column { not_null: true, ..column("price", "REAL") },
        Column { missing: Missing::Is(Cell::Integer(0)), ..column("stock", "INTEGER") },
        column("seen", "DATETIME"),
        column("photo", "BLOB"),
        Column { missing: Missing::Computed("CURRENT_TIMESTAMP".into()), ..column("made", "TEXT") },
        column("any", ""),
    ];
    Schema::new("products", columns, "sku", vec!["total".to_owned()]).unwrap()
}

#[track_caller]
fn accepted(value: &str, expected: &str) {
    let schema = products();
    let canonical = schema.accept("a", value.as_bytes()).unwrap_or_else(|v| panic!("{v}"));
    assert_eq!(std::str::from_utf8(&canonical), Ok(expected));
    // The one spelling is its own.
    assert_eq!(schema.accept("a", &canonical).as_deref(), Ok(&canonical[..]));
}

#[track_caller]
fn refused(value: &str, part: &str) {
    let violation = products().accept("a", value.as_bytes()).unwrap_err();
    assert!(violation.0.contains(part), "{violation}");
    assert!(violation.0.contains("\"products\"") || violation.0.contains("twice"), "{violation}");
}

#[test]
fn one_spelling_in_the_order_of_the_table() {
    accepted(
        r#"{ "price": 1, "made":"m" }"#,
        r#"{"sku":"a","price":1.0,"stock":0,"seen":null,"photo":null,"made":"m","any":null}"#,
    );
    accepted(
        r#"{"any":1.0,"made":null,"photo":{"$blob":"AA=="},"seen":"2026-01-02","stock":3.0,
            "price":-0.0,"sku":"a"}"#,
        r#"{"sku":"a","price":0.0,"stock":3,"seen":"2026-01-02","photo":{"$blob":"AA=="},"made":null,"any":1.0}"#,
    );
    accepted(
        r#"{"made":"","price":9007199254740992,"stock":9007199254740993,"seen":20.5}"#,
        r#"{"sku":"a","price":9007199254740992.0,"stock":{"$integer":"9007199254740993"},"seen":20.5,"photo":null,"made":"","any":null}"#,
    );
}

#[test]
fn what_is_no_row_of_the_table_is_refused_by_column() {
    refused("7", "no JSON object");
    refused(
        r#"{"price":1,"made":"","weight":2}"#,
        "no column \"weight\"; its columns are sku, price",
    );
    refused(r#"{"price":1,"made":"","total":2}"#, "\"total\" of table \"products\" is generated");
    refused(r#"{"price":1,"price":2,"made":""}"#, "\"price\" twice");
    refused(r#"{"price":null,"made":""}"#, "\"price\" of table \"products\": takes no NULL");
    refused(r#"{"made":""}"#, "\"price\" of table \"products\": takes no NULL");
    refused(r#"{"price":1}"#, "only D1 can compute its default CURRENT_TIMESTAMP");
    refused(r#"{"sku":"b","price":1,"made":""}"#, "differs from the record's key \"a\"");
    refused(r#"{"price":"1","made":""}"#, "takes a real; the value has text");
    refused(r#"{"price":9007199254740993,"made":""}"#, "too many digits");
    refused(r#"{"price":1,"made":"","stock":1.5}"#, "takes an integer; the value has a real");
    refused(r#"{"price":1,"made":7}"#, "takes text; the value has an integer");
    refused(r#"{"price":1,"made":"","photo":"text"}"#, "takes a blob");
    refused(r#"{"price":1,"made":"","stock":true}"#, "no booleans");
    refused(r#"{"price":1,"made":"","any":[]}"#, "no array");
    for text in ["12.50", " 7", "7 ", "+.5", "5.", "1e3", "-1E-3"] {
        refused(&format!(r#"{{"price":1,"made":"","seen":"{text}"}}"#), "turn this text into");
    }
    for text in ["", "-", ".", "1e", "0x10", "7 8", "2026-01-02", "1_000", "Infinity", "5\\u0000"] {
        let value = format!(r#"{{"price":1,"made":"","seen":"{text}"}}"#);
        assert!(products().accept("a", value.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn integer_keys_have_one_spelling() {
    let schema =
        Schema::new("t", vec![column("id", "INTEGER"), column("x", "TEXT")], "id", vec![]).unwrap();
    assert_eq!(schema.accept("-7", b"{}").as_deref(), Ok(&br#"{"id":-7,"x":null}"#[..]));
    assert!(schema.accept("-7", br#"{"id":-7.0}"#).is_ok());
    assert!(schema.accept("-7", br#"{"id":7}"#).is_err());
    for key in ["007", "+7", "7.0", "x", "9223372036854775808", "-0"] {
        assert_eq!(schema.key_cell(key), None, "{key}");
        assert!(schema.accept(key, b"{}").is_err(), "{key}");
    }
}

#[test]
fn keys_that_make_no_key_of_a_record() {
    let columns = || vec![column("id", "INTEGER"), column("r", "REAL"), column("b", "BLOB")];
    for (key, part) in [
        ("r", "neither text nor integers"),
        ("b", "neither text nor integers"),
        ("sku", "has no column \"sku\"; its columns are id, r, b"),
        ("g", "is generated"),
    ] {
        let error = Schema::new("t", columns(), key, vec!["g".to_owned()]).unwrap_err();
        assert!(error.0.contains(part), "{error}");
    }
}

#[test]
fn types_by_the_rules_of_affinity() {
    for (declared, takes) in [
        ("INT", ColumnType::Integer),
        ("unsigned big int", ColumnType::Integer),
        ("CHARINT", ColumnType::Integer),
        ("varchar(20)", ColumnType::Text),
        ("BLOB", ColumnType::Blob),
        ("double precision", ColumnType::Real),
        ("FLOATING POINT", ColumnType::Integer),
        ("DATE", ColumnType::Numeric),
        ("STRING", ColumnType::Numeric),
        ("ANY", ColumnType::Numeric),
        ("", ColumnType::Any),
    ] {
        assert_eq!(ColumnType::of(declared, false), takes, "{declared}");
    }
    assert_eq!(ColumnType::of("any", true), ColumnType::Any);
}
