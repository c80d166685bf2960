use super::*;
use crate::blob::BlobsSeen;
use crate::env::{Outcome, RowStore as _};
use crate::fields::Fields;
use crate::policy::{Dataset, Keep, Kind, Policy, Table};
use crate::production::embedded::{BindError, EmbeddedD1};
use crate::record::Stored;
use crate::resolve::{held, sibling};
use crate::row::{Install, Poll, Row, RowAnswer, RowOp, Seq, StoreTime};
use crate::version::{Actor, Dot, NodeId, SiteId, Stamp};
use proptest::prelude::*;
use std::path::PathBuf;
use tempfile::TempDir;

const PRODUCTS: &str = "CREATE TABLE products(
    sku TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    price REAL,
    stock INTEGER NOT NULL DEFAULT 0,
    ean INTEGER UNIQUE,
    seen DATETIME,
    photo BLOB,
    total REAL GENERATED ALWAYS AS (price * stock),
    CHECK (stock >= 0)
)";

/// A database file, a policy over it, and a second connection as of the sqlite3 tool.
struct World {
    _folder: TempDir,
    path: PathBuf,
    tool: Connection,
}

impl World {
    fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d1.sqlite");
        let tool = Connection::open(&path).unwrap();
        tool.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        tool.execute_batch(sql).unwrap();
        World { _folder: folder, path, tool }
    }

    fn open(&self) -> EmbeddedD1 {
        EmbeddedD1::open(&self.path, Arc::new(|| StoreTime(1_000_000))).unwrap()
    }

    async fn products(&self) -> EmbeddedD1 {
        let d1 = self.open();
        d1.bind(&policy("products", "sku")).await.unwrap();
        d1
    }
}

fn dataset(table: &str, key: &str) -> Dataset {
    let table = Table { name: table.to_owned(), key: key.to_owned(), schema: None };
    Dataset { kind: Kind::Structured, table: Some(table), ..Dataset::everywhere("goods") }
}

fn policy(table: &str, key: &str) -> Policy {
    Policy::new([dataset(table, key)])
}

fn named(key: &str) -> RecordId {
    RecordId { dataset: Arc::from("goods"), key: key.into() }
}

async fn row(d1: &EmbeddedD1, key: &str) -> Option<Row> {
    let Outcome::Applied(batch) = d1.batch([RowOp::Read { record: named(key) }].into()).await
    else {
        panic!("a read is applied")
    };
    let [RowAnswer::Read(row)] = &batch.answers[..] else { panic!("{batch:?}") };
    row.as_deref().cloned()
}

fn value(row: Option<&Row>) -> Option<String> {
    match row?.value.clone()? {
        Stored::Inline(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
        Stored::Tombstone => None,
        Stored::Reference { .. } | Stored::Erased(_) => panic!("a row stands whole in its table"),
    }
}

fn install(key: &str, over: Option<&Row>, value: Stored) -> RowOp {
    let actor = Actor { node: NodeId(1), incarnation: 1 };
    let expect = over.map(Row::expect).unwrap_or_default();
    let counter = 10 + expect.row_seq;
    let own = sibling(Dot { actor, counter }, Stamp { wall_ms: counter, logical: 0 }, &value);
    RowOp::Install(Box::new(Install {
        record: named(key),
        version: Version::write(&expect.history, own),
        expect,
        value,
        losers: vec![],
        owe: vec![],
        holder: actor,
        blobs_seen: BlobsSeen::default(),
        by: Default::default(),
        writes: vec![],
    }))
}

/// What a client's value becomes, as the coordinator would have it.
fn accepted(d1: &EmbeddedD1, key: &str, json: &str) -> Stored {
    let tables = d1.tables_for_tests();
    Stored::Inline(Bytes::from(tables["goods"].accept(key, json.as_bytes()).unwrap()))
}

async fn put(d1: &EmbeddedD1, key: &str, json: &str) -> Row {
    let value = accepted(d1, key, json);
    let over = row(d1, key).await;
    let done = d1.batch([install(key, over.as_ref(), value)].into()).await;
    let Outcome::Applied(batch) = done else { panic!("{done:?}") };
    assert!(matches!(batch.answers[..], [RowAnswer::Installed { .. }]), "{batch:?}");
    row(d1, key).await.unwrap()
}

async fn foreign(d1: &EmbeddedD1) -> Vec<String> {
    let actor = Actor { node: NodeId(1), incarnation: 1 };
    let page = d1.poll(Poll { actor, after: Seq(0), limit: 100 }).await.unwrap();
    let changes = page.changes.into_iter().filter(|change| change.foreign);
    let mut keys: Vec<String> = changes.map(|change| change.record.key.to_string()).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_row_stands_in_its_own_table_and_comes_back_to_the_byte() {
    let world = World::new(PRODUCTS);
    let d1 = world.products().await;
    let json = r#"{"sku":"a/1","name":"ü \"1\"","price":0.1,"stock":9007199254740993,"ean":null,"seen":"2026-01-02 03:04:05","photo":{"$blob":"AP8="}}"#;
    let row = put(&d1, "a/1", json).await;
    let kept = json.replace("9007199254740993", r#"{"$integer":"9007199254740993"}"#);
    assert_eq!(value(Some(&row)), Some(kept));
    assert!(!row.has_foreign_write() && row.row_seq == 1);
    let of_tool: (String, f64, i64, Vec<u8>) = world
        .tool
        .query_row("SELECT name, price, stock, photo FROM products", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap();
    assert_eq!(of_tool, ("ü \"1\"".to_owned(), 0.1, 9_007_199_254_740_993, vec![0, 255]));
    let records = "SELECT count(*) FROM tidelock_records";
    assert_eq!(world.tool.query_row(records, [], |row| row.get::<_, i64>(0)), Ok(0));
    let over = d1.batch([install("a/1", Some(&row), Stored::Tombstone)].into()).await;
    assert!(matches!(over, Outcome::Applied(_)));
    let count = world.tool.query_row("SELECT count(*) FROM products", [], |r| r.get::<_, i64>(0));
    assert_eq!(count, Ok(0));
}

#[tokio::test]
async fn foreign_writes_are_counted_by_triggers() {
    let world = World::new(PRODUCTS);
    let d1 = world.products().await;
    put(&d1, "a", r#"{"name":"n","ean":1}"#).await;
    put(&d1, "b", r#"{"name":"n","ean":2}"#).await;
    assert_eq!(foreign(&d1).await, Vec::<String>::new());
    let steps: [(&str, &[&str], &str, Option<&str>); 6] = [
        ("UPDATE products SET stock = 7 WHERE sku = 'a'", &["a"], "a", Some("\"stock\":7")),
        ("INSERT INTO products(sku, name) VALUES ('c', 'new')", &["a", "c"], "c", Some("new")),
        ("UPDATE products SET sku = 'd' WHERE sku = 'c'", &["a", "c", "d"], "c", None),
        ("DELETE FROM products WHERE sku = 'd'", &["a", "c", "d"], "d", None),
        // Deletes b, which no trigger of a delete is told.
        (
            "INSERT OR REPLACE INTO products(sku, name, ean) VALUES ('e', 'n', 2)",
            &["a", "b", "c", "d", "e"],
            "b",
            None,
        ),
        (
            "UPDATE OR REPLACE products SET ean = 2 WHERE sku = 'a'",
            &["a", "b", "c", "d", "e"],
            "e",
            None,
        ),
    ];
    for (sql, keys, key, part) in steps {
        let before = row(&d1, key).await.map_or(0, |row| row.row_seq);
        world.tool.execute(sql, []).unwrap();
        assert_eq!(foreign(&d1).await, keys, "{sql}");
        let found = row(&d1, key).await.unwrap();
        assert!(found.has_foreign_write() && found.row_seq > before, "{sql}: {found:?}");
        match (value(Some(&found)), part) {
            (None, None) => {}
            (Some(value), Some(part)) => assert!(value.contains(part), "{sql}: {value}"),
            (value, _) => panic!("{sql}: {value:?}"),
        }
    }
    // Taken in over exactly that row, it is foreign no more, and the row is not touched.
    world
        .tool
        .execute_batch(
            "CREATE TABLE touched(n); CREATE TRIGGER touch AFTER UPDATE ON products \
        BEGIN INSERT INTO touched VALUES (1); END",
        )
        .unwrap();
    let found = row(&d1, "a").await.unwrap();
    let taken = held(SiteId(0), &named("a"), &found).unwrap();
    let RowOp::Install(mut op) = install("a", Some(&found), taken.value.clone()) else { panic!() };
    op.version = taken.version;
    assert!(matches!(d1.batch([RowOp::Install(op)].into()).await, Outcome::Applied(_)));
    assert!(!row(&d1, "a").await.unwrap().has_foreign_write());
    let touched = "SELECT count(*) FROM touched";
    assert_eq!(world.tool.query_row(touched, [], |row| row.get::<_, i64>(0)), Ok(0));
}

#[tokio::test]
async fn only_columns_that_differ_are_updated() {
    let world = World::new(&format!(
        "{PRODUCTS}; CREATE TABLE log(what);
         CREATE TRIGGER of_name AFTER UPDATE OF name ON products BEGIN INSERT INTO log VALUES ('name'); END;
         CREATE TRIGGER of_stock AFTER UPDATE OF stock ON products BEGIN INSERT INTO log VALUES ('stock'); END;"
    ));
    let d1 = world.products().await;
    put(&d1, "a", r#"{"name":"n","stock":1}"#).await;
    put(&d1, "a", r#"{"name":"n","stock":2}"#).await;
    put(&d1, "a", r#"{"name":"n","stock":2}"#).await;
    let log: Vec<String> = world
        .tool
        .prepare("SELECT what FROM log")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(log, ["stock"]);
}

#[tokio::test]
async fn what_the_users_trigger_makes_of_a_row_is_a_foreign_write_over_ours() {
    let world = World::new(&format!(
        "{PRODUCTS}; CREATE TRIGGER upper AFTER INSERT ON products
         BEGIN UPDATE products SET name = upper(name) WHERE sku = NEW.sku; END;"
    ));
    let d1 = world.products().await;
    let found = put(&d1, "a", r#"{"name":"n"}"#).await;
    assert!(found.has_foreign_write(), "{found:?}");
    assert!(value(Some(&found)).unwrap().contains("\"name\":\"N\""));
    assert_eq!(foreign(&d1).await, ["a"]);
}

#[tokio::test]
async fn what_only_d1_knows_is_a_constraint_of_that_record_alone() {
    let world = World::new(PRODUCTS);
    let d1 = world.products().await;
    put(&d1, "a", r#"{"name":"n","ean":1}"#).await;
    for json in [r#"{"name":"n","ean":1}"#, r#"{"name":"n","stock":-1}"#] {
        let op = install("b", None, accepted(&d1, "b", json));
        let Outcome::Refused(refusal) = d1.batch([op].into()).await else { panic!("refused") };
        assert_eq!(refusal.kind, RefusalKind::Constraint, "{json}");
        assert_eq!(row(&d1, "b").await, None, "{json}");
    }
    put(&d1, "b", r#"{"name":"n","ean":2}"#).await;
}

#[tokio::test]
async fn rows_that_were_there_before_are_foreign_writes() {
    let world = World::new(&format!(
        "{PRODUCTS}; INSERT INTO products(sku, name) VALUES ('a', 'x'), ('b', 'y'), (NULL, 'z'), (x'00', 'z');"
    ));
    let d1 = world.products().await;
    assert_eq!(foreign(&d1).await, ["a", "b"]);
    // A row without a key is the user's own affair, and his writes go on.
    world.tool.execute("UPDATE products SET stock = 1", []).unwrap();
    world.tool.execute("DELETE FROM products WHERE sku IS NULL", []).unwrap();
    // A key that is no UTF-8 is no record's, and hides no other.
    world
        .tool
        .execute("INSERT INTO products(sku, name) VALUES (CAST(x'ff' AS TEXT), 'w')", [])
        .unwrap();
    assert_eq!(foreign(&d1).await, ["a", "b", "\u{fffd}"]);
    assert_eq!(row(&d1, "\u{fffd}").await, None);
}

#[tokio::test]
async fn integer_keys() {
    let world = World::new("CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    let d1 = world.open();
    d1.bind(&policy("t", "id")).await.unwrap();
    put(&d1, "7", r#"{"x":1.5}"#).await;
    world.tool.execute("INSERT INTO t(x) VALUES ('next')", []).unwrap();
    assert_eq!(foreign(&d1).await, ["8"]);
    world.tool.execute("UPDATE t SET id = -1 WHERE id = 7", []).unwrap();
    assert_eq!(foreign(&d1).await, ["-1", "7", "8"]);
    assert_eq!(value(row(&d1, "-1").await.as_ref()).as_deref(), Some(r#"{"id":-1,"x":1.5}"#));
    assert_eq!(row(&d1, "007").await, None);
}

#[tokio::test]
async fn any_name_is_quoted() {
    let world = World::new(
        r#"CREATE TABLE "we""ird 'name'; --"("the ""key""" TEXT PRIMARY KEY, "select" TEXT, "ü x" INTEGER UNIQUE)"#,
    );
    let d1 = world.open();
    d1.bind(&policy("we\"ird 'name'; --", "the \"key\"")).await.unwrap();
    let json = r#"{"the \"key\"":"k'\"","select":"s","ü x":1}"#;
    let own = put(&d1, "k'\"", json).await;
    assert_eq!(value(Some(&own)).as_deref(), Some(json));
    world.tool.execute(r#"UPDATE "we""ird 'name'; --" SET "select" = NULL"#, []).unwrap();
    assert_eq!(foreign(&d1).await, ["k'\""]);
    let sql = r#"REPLACE INTO "we""ird 'name'; --" VALUES ('other', '', 1)"#;
    world.tool.execute(sql, []).unwrap();
    assert_eq!(value(row(&d1, "k'\"").await.as_ref()), None);
}

#[tokio::test]
async fn a_dropped_trigger_is_put_back_and_what_it_missed_is_found() {
    let world = World::new(PRODUCTS);
    let d1 = world.products().await;
    for key in ["a", "b", "c"] {
        put(&d1, key, r#"{"name":"n"}"#).await;
    }
    let drop_them = |tool: &Connection| {
        for event in ["insert", "update", "rename", "delete"] {
            tool.execute(&format!("DROP TRIGGER tidelock_table_goods_{event}"), []).unwrap();
        }
    };
    drop_them(&world.tool);
    world.tool.execute("UPDATE products SET stock = 1 WHERE sku = 'b'", []).unwrap();
    world.tool.execute("INSERT INTO products(sku, name) VALUES ('new', 'n')", []).unwrap();
    // Absence without evidence is no delete.
    world.tool.execute("DELETE FROM products WHERE sku = 'c'", []).unwrap();
    assert_eq!(foreign(&d1).await, ["b", "new"]);
    world.tool.execute("UPDATE products SET stock = 2 WHERE sku = 'a'", []).unwrap();
    assert_eq!(foreign(&d1).await, ["a", "b", "new"]);
    drop(d1);
    // The same at a start.
    drop_them(&world.tool);
    world.tool.execute("UPDATE products SET stock = 3 WHERE sku = 'new'", []).unwrap();
    let d1 = world.products().await;
    assert_eq!(foreign(&d1).await, ["a", "b", "new"]);
    assert!(!row(&d1, "c").await.unwrap().has_foreign_write());
}

#[tokio::test]
async fn a_changed_table_is_noticed() {
    let world = World::new(PRODUCTS);
    let d1 = world.products().await;
    put(&d1, "a", r#"{"name":"n"}"#).await;
    // More columns: what is known of the rows is kept up, and the next start takes them in.
    world.tool.execute("ALTER TABLE products ADD COLUMN brand TEXT DEFAULT 'none'", []).unwrap();
    put(&d1, "a", r#"{"name":"m"}"#).await;
    assert_eq!(foreign(&d1).await, Vec::<String>::new());
    drop(d1);
    let d1 = world.products().await;
    assert_eq!(foreign(&d1).await, ["a"]);
    let found = value(row(&d1, "a").await.as_ref()).unwrap();
    assert!(found.contains("\"brand\":\"none\""), "{found}");
    // A write that was journalled before the column came leaves it alone, and is no longer whole.
    world.tool.execute("UPDATE products SET brand = 'b'", []).unwrap();
    let before = row(&d1, "a").await.unwrap();
    let old =
        value(Some(&before)).unwrap().replace(",\"brand\":\"b\"", "").replace("\"m\"", "\"o\"");
    let op = install("a", Some(&before), Stored::Inline(Bytes::from(old)));
    assert!(matches!(d1.batch([op].into()).await, Outcome::Applied(_)));
    let after = row(&d1, "a").await.unwrap();
    assert!(after.has_foreign_write());
    let after = value(Some(&after)).unwrap();
    assert!(after.contains("\"name\":\"o\"") && after.contains("\"brand\":\"b\""), "{after}");
    // Fewer: nothing can be read or written until somebody puts it right.
    world.tool.execute("ALTER TABLE products RENAME TO gone", []).unwrap();
    let op = RowOp::Read { record: named("a") };
    let Outcome::Refused(refusal) = d1.batch([op.clone()].into()).await else { panic!("refused") };
    assert_eq!(refusal.kind, RefusalKind::Constraint);
    assert!(refusal.detail.contains("no table \"products\""), "{refusal}");
    world.tool.execute("ALTER TABLE gone RENAME TO products", []).unwrap();
    assert!(matches!(d1.batch([op.clone()].into()).await, Outcome::Applied(_)));
    world.tool.execute("ALTER TABLE products DROP COLUMN seen", []).unwrap();
    let Outcome::Refused(refusal) = d1.batch([op].into()).await else { panic!("refused") };
    assert!(refusal.detail.contains("column \"seen\""), "{refusal}");
}

#[tokio::test]
async fn tables_that_cannot_be_had_are_refused_with_the_way_out() {
    let world = World::new(
        "CREATE TABLE no_key(a TEXT, b TEXT);
         CREATE TABLE two_keys(a TEXT, b TEXT, PRIMARY KEY (a, b));
         CREATE TABLE nullable(a TEXT UNIQUE, b TEXT);
         CREATE TABLE partly(a TEXT NOT NULL, b TEXT); CREATE UNIQUE INDEX p ON partly(a) WHERE b > 1;
         CREATE TABLE folded(a TEXT PRIMARY KEY COLLATE NOCASE);
         CREATE TABLE blobs(a BLOB PRIMARY KEY);
         CREATE TABLE ok(id INTEGER PRIMARY KEY, a TEXT UNIQUE NOT NULL);
         CREATE TABLE parent(a TEXT PRIMARY KEY);
         CREATE TABLE child(a TEXT PRIMARY KEY, p REFERENCES parent DEFERRABLE
             INITIALLY  DEFERRED);
         CREATE VIEW seen AS SELECT * FROM ok;",
    );
    let d1 = world.open();
    let cases = [
        ("missing", "a", "no table \"missing\"; create it first (blobs, child, folded"),
        ("OK", "a", "no table \"OK\""),
        ("seen", "a", "is a view"),
        ("no_key", "a", "it has no primary key"),
        ("two_keys", "a", "its primary key is (a, b)"),
        ("nullable", "a", "may be NULL"),
        ("partly", "a", "need not be unique"),
        ("folded", "a", "byte by byte"),
        ("blobs", "a", "neither text nor integers"),
        ("ok", "b", "has no column \"b\"; its columns are id, a"),
        ("child", "a", "INITIALLY DEFERRED"),
        ("parent", "a", "\"child\" has a foreign key"),
    ];
    for (table, key, part) in cases {
        let BindError(problem) = d1.bind(&policy(table, key)).await.unwrap_err();
        assert!(problem.contains("dataset \"goods\"") && problem.contains(part), "{problem}");
    }
    let mut lacking = dataset("ok", "a");
    lacking.kv.as_mut().unwrap().keep =
        Keep::Fields(Fields::new(vec!["a".to_owned(), "price".to_owned()]));
    let BindError(problem) = d1.bind(&Policy::new([lacking])).await.unwrap_err();
    assert!(problem.contains("no column \"price\""), "{problem}");
    // Nothing of what was refused stays behind.
    let left = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '%goods%'";
    assert_eq!(world.tool.query_row(left, [], |row| row.get::<_, i64>(0)), Ok(0));
    d1.bind(&policy("ok", "a")).await.unwrap();
    // A dataset is one table for good.
    let BindError(problem) = d1.bind(&policy("ok", "id")).await.unwrap_err();
    assert!(problem.contains("was table \"ok\" with the key \"a\" before"), "{problem}");
    let BindError(problem) =
        d1.bind(&Policy::new([Dataset::everywhere("goods")])).await.unwrap_err();
    assert!(problem.contains("structured over table \"ok\" before"), "{problem}");
    let other = world.tool.execute("INSERT INTO tidelock_records VALUES ('other', 'k', 'v')", []);
    other.unwrap();
    let renamed = Dataset { name: Arc::from("other"), ..dataset("parent", "a") };
    world.tool.execute("DROP TABLE child", []).unwrap();
    let BindError(problem) = d1.bind(&Policy::new([renamed])).await.unwrap_err();
    assert!(problem.contains("1 records of another kind"), "{problem}");
}

#[tokio::test]
async fn defaults_are_those_of_the_table() {
    let world = World::new(
        "CREATE TABLE t(k TEXT PRIMARY KEY, a INTEGER DEFAULT -5, b TEXT DEFAULT 'it''s', c BLOB DEFAULT x'00ff',
            d REAL DEFAULT 2, e DEFAULT TRUE, f TEXT DEFAULT CURRENT_TIMESTAMP, g DEFAULT (1 + 1), h TEXT DEFAULT 7)",
    );
    let d1 = world.open();
    let schemas = d1.bind(&policy("t", "k")).await.unwrap();
    let schema = &schemas["goods"];
    let refused = |json: &str| schema.accept("k", json.as_bytes()).unwrap_err().0;
    assert!(refused("{}").contains("CURRENT_TIMESTAMP"));
    assert!(refused(r#"{"f":""}"#).contains("1 + 1"));
    assert!(
        refused(r#"{"f":"","g":1}"#).contains("default 7"),
        "a default that affinity would change"
    );
    let full = schema.accept("k", br#"{"f":"","g":1,"h":"7"}"#).unwrap();
    assert_eq!(
        std::str::from_utf8(&full),
        Ok(
            r#"{"k":"k","a":-5,"b":"it's","c":{"$blob":"AP8="},"d":2.0,"e":1,"f":"","g":1,"h":"7"}"#
        )
    );
}

fn any_cell() -> impl Strategy<Value = Cell> {
    let number_like = "[ \t]?[-+]?[0-9]{0,20}[.]?[0-9]{0,3}(e[-+]?[0-9]{0,3})?[ x]?";
    prop_oneof![
        Just(Cell::Null),
        any::<i64>().prop_map(Cell::Integer),
        (-20_i64..20).prop_map(|n| Cell::Integer((1_i64 << 53) + n)),
        any::<u64>().prop_filter_map("NaN is NULL", |bits| {
            let real = f64::from_bits(bits);
            (!real.is_nan()).then_some(Cell::Real(real))
        }),
        any::<i32>().prop_map(|n| Cell::Real(f64::from(n))),
        (0_i32..70).prop_map(|n| Cell::Real(-2_f64.powi(n))),
        (0_i32..70).prop_map(|n| Cell::Real(2_f64.powi(n))),
        Just(Cell::Real(-0.0)),
        Just(Cell::Real(f64::INFINITY)),
        number_like.prop_map(|text| Cell::Text(text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(Cell::Text),
        any::<String>().prop_map(|text| Cell::Text(text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(Cell::Blob),
    ]
}

proptest! {
    /// What the schema accepts is what SQLite keeps, and what SQLite keeps comes back.
    #[test]
    fn sqlite_keeps_what_the_schema_accepts(cell in any_cell(), declared in 0_usize..7, strict: bool) {
        let loose = ["INTEGER", "REAL", "NUMERIC", "TEXT", "BLOB", "", "DATETIME"];
        let tight = ["INTEGER", "REAL", "INT", "TEXT", "BLOB", "ANY", "ANY"];
        let declared = if strict { tight[declared] } else { loose[declared] };
        let connection = Connection::open_in_memory().unwrap();
        let end = if strict { "STRICT" } else { "" };
        connection.execute_batch(&format!("CREATE TABLE t(x {declared}) {end}")).unwrap();
        let takes = ColumnType::of(declared, strict);
        if let Ok(kept) = takes.keep(cell.clone()) {
            connection.execute("INSERT INTO t VALUES (?1)", [Bound(&kept)]).unwrap();
            let stored = connection.query_row("SELECT x FROM t", [], |row| cell_of(row.get_ref(0)?));
            prop_assert_eq!(stored.unwrap(), kept.clone(), "{} of {:?}", declared, cell);
            let mut json = Vec::new();
            kept.write_json(&mut json);
            let raw = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(Cell::read_json(raw), Ok(kept));
        }
    }

    /// A cell that somebody else put there is read as it stands, and is kept as it stands.
    #[test]
    fn what_stands_in_a_column_goes_back_unchanged(cell in any_cell(), declared in 0_usize..5) {
        let declared = ["INTEGER", "REAL", "NUMERIC", "TEXT", ""][declared];
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&format!("CREATE TABLE t(x {declared})")).unwrap();
        connection.execute("INSERT INTO t VALUES (?1)", [Bound(&cell)]).unwrap();
        let read = || connection.query_row("SELECT x FROM t", [], |row| cell_of(row.get_ref(0)?));
        let stands = read().unwrap();
        let mut json = Vec::new();
        stands.write_json(&mut json);
        let back = Cell::read_json(serde_json::from_slice(&json).unwrap()).unwrap();
        connection.execute("UPDATE t SET x = ?1", [Bound(&back)]).unwrap();
        prop_assert_eq!(read().unwrap(), stands);
    }
}
