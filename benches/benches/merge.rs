//! What it costs to merge a document of 4 KiB, and to patch it.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tidelock_engine::json::Node;
use tidelock_engine::merge::{self, FieldRules, Side, Strategy};
use tidelock_engine::patch::{JSON_PATCH, Patch};
use tidelock_engine::version::{Actor, Dot, NodeId, Stamp};

/// A product of 4 KiB: members, objects in objects, a list of items, a set, some lines of text. What
/// the writers change is given.
fn document(stock: u32, note: &str, price: &str, tag: &str, quantity: u32) -> String {
    let items: Vec<String> = (0..36)
        .map(|n| {
            let quantity = if n == 7 { quantity } else { n };
            format!(
                r#"{{"id":"sku-{n:04}","quantity":{quantity},"place":"shelf {n}","price":{n}.50}}"#
            )
        })
        .collect();
    let members: Vec<String> =
        (0..34).map(|n| format!(r#""attribute_{n}":"the value of {n}""#)).collect();
    let lines: Vec<String> = (0..16).map(|n| format!("Line {n} of the text.")).collect();
    let prices: Vec<String> =
        (0..8).map(|n| format!(r#""c{n}":{{"net":1.10,"tax":{n}}}"#)).collect();
    format!(
        r#"{{"name":"A tide gauge","stock":{stock},"note":"{note}","price":{price},
"tags":["brass","sea","{tag}"],"prices":{{{}}},{},"lines":[{}],"blurb":"{}\n{note}\n"}}"#,
        prices.join(","),
        members.join(","),
        items.join(","),
        lines.join("\\n"),
    )
}

fn side<V>(node: u16, value: V) -> Side<V> {
    let actor = Actor { node: NodeId(node), incarnation: 1 };
    let stamp = Stamp { wall_ms: u64::from(node), logical: 0 };
    Side { dot: Dot { actor, counter: 1 }, stamp, value }
}

fn rules() -> FieldRules {
    FieldRules::new([
        ("/stock", Strategy::DeltaSum),
        ("/tags", Strategy::SetUnion),
        ("/lines", Strategy::ListMap("id".to_owned())),
        ("/lines/*/quantity", Strategy::DeltaSum),
        ("/blurb", Strategy::Text3),
    ])
    .expect("the rules are good")
}

fn merges(criterion: &mut Criterion) {
    let base = document(5, "none", "12.50", "old", 7);
    let texts = [
        document(6, "first", "12.50", "old", 8),
        document(6, "none", "13.00", "new", 9),
        document(9, "none", "12.50", "old", 7),
        document(5, "none", "12.50", "rare", 7),
        document(4, "last", "14.00", "old", 6),
    ];
    let size = base.len();
    assert!((3_900..4_400).contains(&size), "the document has {size} bytes");
    let trees: Vec<Node<'_>> =
        texts.iter().map(|text| Node::parse(text.as_bytes()).expect("JSON")).collect();
    let base_tree = Node::parse(base.as_bytes()).expect("JSON");
    let (plain, declared) = (FieldRules::default(), rules());
    let mut group = criterion.benchmark_group("merge 4 KiB");
    for count in [2_u16, 5] {
        let of_bytes: Vec<Side<&[u8]>> =
            (0..count).map(|n| side(n, texts[usize::from(n)].as_bytes())).collect();
        let of_trees: Vec<Side<&Node<'_>>> =
            (0..count).map(|n| side(n, &trees[usize::from(n)])).collect();
        for (name, rules) in [("no rules", &plain), ("five rules", &declared)] {
            group.bench_function(format!("from bytes, {count} sides, {name}"), |bencher| {
                bencher.iter(|| merge::json(rules, Some(black_box(base.as_bytes())), &of_bytes));
            });
            group.bench_function(format!("from trees, {count} sides, {name}"), |bencher| {
                bencher.iter(|| merge::json_trees(rules, Some(black_box(&base_tree)), &of_trees));
            });
        }
    }
    group.bench_function("one tree from bytes", |bencher| {
        bencher.iter(|| Node::parse(black_box(base.as_bytes())));
    });
    let patch = br#"[{"op":"test","path":"/stock","value":5},
        {"op":"replace","path":"/stock","value":6},{"op":"add","path":"/tags/-","value":"new"}]"#;
    let patch = Patch::parse(JSON_PATCH, patch).expect("a patch");
    group.bench_function("a patch of three operations", |bencher| {
        bencher.iter(|| patch.apply(black_box(base.as_bytes())));
    });
    group.finish();
}

criterion_group!(benches, merges);
criterion_main!(benches);
