//! Changing the policy of a coordinator that runs.
//!
//! ```text
//! (policy in force, policy asked for, what the coordinator holds) -> changes, or every reason why not
//! ```
//!
//! Invariant: whatever is refused here would leave bytes behind that nobody looks after any more,
//! or a debt that nobody can pay. Everything else may change at any moment, since each operation
//! works with one policy from its beginning to its end.

use super::{Dataset, Policy, Table};
use crate::record::StoreId;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What a coordinator knows of a dataset's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Whether there is any.
    pub records: Records,
    /// Records that are still owed to a store.
    pub owed: usize,
    /// Stores that do not answer, so that nobody knows what they are owed.
    pub away: Vec<StoreId>,
}

/// Whether a dataset has records, deleted ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// The authority's records are still being read.
    Unknown,
    /// None was ever written.
    None,
    /// There are some.
    Some,
}

/// What becomes different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Each in words.
    pub said: Vec<String>,
    /// Projections whose copies must be made, or made anew: only a look over them finds which.
    pub to_fill: BTreeSet<(Arc<str>, StoreId)>,
    /// Projections that are no longer kept.
    pub dropped: BTreeSet<(Arc<str>, StoreId)>,
}

/// Why a policy cannot be put in force now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeError {
    /// Of which dataset, and what of it.
    pub field: String,
    /// What is in the way.
    pub problem: String,
    /// What would work.
    pub way_out: String,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.problem, self.way_out)
    }
}

impl std::error::Error for ChangeError {}

/// Compares two policies. `holdings` tells what the coordinator holds of a dataset.
pub fn compare(
    before: &Policy,
    after: &Policy,
    holdings: impl Fn(&str) -> Holdings,
) -> Result<Changes, Vec<ChangeError>> {
    let mut changes = Changes::default();
    let mut errors = Vec::new();
    for (name, dataset) in &before.datasets {
        match after.datasets.get(name) {
            Some(now) => compare_dataset(dataset, now, &holdings, &mut changes, &mut errors),
            None => match removable(dataset, &holdings(name)) {
                Ok(()) => {
                    changes.said.push(format!("{name} is no longer kept; its data stays"));
                }
                Err(error) => errors.push(error),
            },
        }
    }
    for (name, dataset) in &after.datasets {
        if !before.datasets.contains_key(name) {
            if dataset.table.is_some() {
                errors.push(at_the_start(name, "its table is not known yet"));
            }
            changes.said.push(format!("{name} is kept from now on"));
            changes.to_fill.extend(dataset.projections().map(|store| (name.clone(), store)));
        }
    }
    if errors.is_empty() { Ok(changes) } else { Err(errors) }
}

/// Tables are read when the server starts.
fn at_the_start(name: &str, problem: &str) -> ChangeError {
    ChangeError {
        field: format!("dataset {name}, d1"),
        problem: problem.to_owned(),
        way_out: "restart the server, which reads its columns and sets its triggers".to_owned(),
    }
}

/// Gives the datasets of `after` the columns that those of `before` have been found to have.
pub fn keep_columns(before: &Policy, after: &mut Policy) {
    for (name, dataset) in &mut after.datasets {
        let known = before.datasets.get(name).and_then(|dataset| dataset.table.as_ref());
        if let (Some(table), Some(known)) = (&mut dataset.table, known) {
            table.schema.clone_from(&known.schema);
        }
    }
}

fn removable(dataset: &Dataset, holdings: &Holdings) -> Result<(), ChangeError> {
    let error = |problem: String, way_out: &str| {
        Err(ChangeError {
            field: format!("dataset {}", dataset.name),
            problem: format!("it cannot be taken out: {problem}"),
            way_out: way_out.to_owned(),
        })
    };
    if holdings.owed > 0 {
        let problem = format!("{} of its records are still owed to a store", holdings.owed);
        return error(problem, "wait until `tidelock status` shows nothing behind, then reload");
    }
    if let Some(store) = holdings.away.first() {
        let problem = format!("{store} does not answer, so what it is owed is not known");
        return error(problem, "reload when it answers again");
    }
    match holdings.records {
        Records::Unknown => {
            error("the authority's records are still being read".into(), "reload in a moment")
        }
        Records::None | Records::Some => Ok(()),
    }
}

fn compare_dataset(
    before: &Dataset,
    after: &Dataset,
    holdings: &impl Fn(&str) -> Holdings,
    changes: &mut Changes,
    errors: &mut Vec<ChangeError>,
) {
    // By name, so that a field that is added has to be decided about here.
    let Dataset {
        name,
        kind,
        table,
        d1_refers,
        kv: _,
        r2: _,
        strategy,
        oversize,
        read,
        conflict,
        durability,
        backlog,
        queue,
        ttl,
        reconcile_every,
        reconcile_recent,
        reconcile_full,
    } = before;
    let mut fixed = |what: &str, way_out: &str| match holdings(name).records {
        Records::None => {}
        Records::Some => errors.push(ChangeError {
            field: format!("dataset {name}, {what}"),
            problem: "it cannot change while the dataset has records".to_owned(),
            way_out: way_out.to_owned(),
        }),
        Records::Unknown => errors.push(ChangeError {
            field: format!("dataset {name}, {what}"),
            problem: "the authority's records are still being read".to_owned(),
            way_out: "reload in a moment".to_owned(),
        }),
    };
    if *kind != after.kind {
        fixed("kind", "declare a dataset of the new kind and copy them over");
    }
    for store in [StoreId::Kv, StoreId::R2] {
        let place = (name.clone(), store);
        match (before.projection(store), after.projection(store)) {
            (None, None) => {}
            (None, Some(_)) => {
                changes.said.push(format!("{name} is kept in {store} from now on"));
                changes.to_fill.insert(place);
            }
            (Some(_), None) => {
                changes
                    .said
                    .push(format!("{name} is no longer kept in {store}; its copies stay there"));
                changes.dropped.insert(place);
            }
            (Some(then), Some(now)) => {
                if then.prefix != now.prefix {
                    let what = format!("{store}.prefix");
                    fixed(
                        &what,
                        "take the store out, reload, and put it in again under the new prefix; \
                         the copies under the old one are then yours to delete",
                    );
                }
                if then.keep != now.keep {
                    changes.said.push(format!("{name}: what {store} keeps"));
                    changes.to_fill.insert(place);
                }
            }
        }
    }
    let place = |table: &Option<Table>| table.as_ref().map(|t| (t.name.clone(), t.key.clone()));
    if place(table) != place(&after.table) {
        errors.push(at_the_start(name, "its table is another one"));
    } else if let Some(schema) = table.as_ref().and_then(|table| table.schema.as_ref())
        && let Some(violation) = after.fields().find_map(|field| schema.check_field(field).err())
    {
        errors.push(ChangeError {
            field: format!("dataset {name}, keep"),
            problem: violation.0,
            way_out: "name columns that the table has".to_owned(),
        });
    }
    let differing = [
        ("strategy", *strategy != after.strategy),
        ("what D1 keeps of new values", *d1_refers != after.d1_refers),
        ("oversize", *oversize != after.oversize),
        ("read", *read != after.read),
        ("conflict", *conflict != after.conflict),
        ("durability", *durability != after.durability),
        ("backlog", *backlog != after.backlog),
        ("queue", *queue != after.queue),
        ("ttl", *ttl != after.ttl),
        ("reconcile.every", *reconcile_every != after.reconcile_every),
        ("reconcile.recent", *reconcile_recent != after.reconcile_recent),
        ("reconcile.full", *reconcile_full != after.reconcile_full),
    ];
    for (field, differs) in differing {
        if differs {
            changes.said.push(format!("{name}: {field}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::Mode;
    use crate::policy::{Keep, Kind, ReadLevel, Strategy};

    fn holds(records: Records, owed: usize, away: &[StoreId]) -> impl Fn(&str) -> Holdings {
        move |_| Holdings { records, owed, away: away.to_vec() }
    }

    fn with(change: impl Fn(&mut Dataset)) -> Policy {
        let mut dataset = Dataset::everywhere("a");
        change(&mut dataset);
        Policy::new([dataset, Dataset::everywhere("b")])
    }

    #[test]
    fn what_may_change_at_any_moment() {
        let before = with(|_| {});
        let check = |change: fn(&mut Dataset), said: &[&str], fills: bool| {
            let changes = compare(&before, &with(change), holds(Records::Some, 3, &[])).unwrap();
            assert_eq!(changes.said, said);
            assert_eq!(!changes.to_fill.is_empty(), fills, "{changes:?}");
        };
        check(|_| {}, &[], false);
        check(
            |a| *a.strategy.get_mut(&StoreId::Kv).unwrap() = Strategy::WriteThrough,
            &["a: strategy"],
            false,
        );
        check(|a| a.read = ReadLevel::Latest, &["a: read"], false);
        check(|a| a.backlog = Mode::Promise, &["a: backlog"], false);
        check(|a| a.queue.records = Some(5), &["a: queue"], false);
        check(|a| a.reconcile_every = None, &["a: reconcile.every"], false);
        let soon = |a: &mut Dataset| a.reconcile_recent = Some(std::time::Duration::from_secs(5));
        check(soon, &["a: reconcile.recent"], false);
        check(|a| a.kv.as_mut().unwrap().keep = Keep::Reference, &["a: what kv keeps"], true);
        check(|a| a.kv = None, &["a is no longer kept in kv; its copies stay there"], false);
        let without = with(|a| a.kv = None);
        let changes = compare(&without, &before, holds(Records::Some, 0, &[])).unwrap();
        assert_eq!(changes.said, ["a is kept in kv from now on"]);
        assert_eq!(changes.to_fill, BTreeSet::from([(Arc::from("a"), StoreId::Kv)]));
    }

    #[test]
    fn what_is_refused_with_every_reason() {
        let before = with(|_| {});
        let after = with(|a| {
            a.kind = Kind::Text;
            a.kv.as_mut().unwrap().prefix = "elsewhere/".to_owned();
        });
        let check = |records: Records, expected: &[&str]| match compare(
            &before,
            &after,
            holds(records, 0, &[]),
        ) {
            Ok(_) => assert!(expected.is_empty()),
            Err(errors) => {
                assert_eq!(errors.len(), expected.len(), "{errors:?}");
                for (error, expected) in errors.iter().zip(expected) {
                    assert!(error.to_string().contains(expected), "{error}");
                }
            }
        };
        check(Records::None, &[]);
        check(Records::Some, &["dataset a, kind: it cannot change", "a, kv.prefix: it cannot"]);
        check(Records::Unknown, &["reload in a moment", "reload in a moment"]);
    }

    #[test]
    fn a_dataset_goes_only_when_nothing_is_owed() {
        let (both, one) = (with(|_| {}), Policy::new([Dataset::everywhere("a")]));
        let check = |owed: usize, away: &[StoreId], records: Records, expected: &str| match compare(
            &both,
            &one,
            holds(records, owed, away),
        ) {
            Ok(changes) => assert_eq!(changes.said, [expected]),
            Err(errors) => assert!(errors[0].to_string().contains(expected), "{errors:?}"),
        };
        check(2, &[], Records::Some, "dataset b: it cannot be taken out: 2 of its records are");
        check(0, &[StoreId::Kv], Records::Some, "kv does not answer");
        check(0, &[], Records::Unknown, "still being read");
        check(0, &[], Records::Some, "b is no longer kept; its data stays");
        let changes = compare(&one, &both, holds(Records::Some, 0, &[])).unwrap();
        assert_eq!(changes.said, ["b is kept from now on"]);
        assert_eq!(changes.to_fill.len(), 2);
    }

    #[test]
    fn a_table_is_bound_when_the_server_starts() {
        let of = |table: Option<&str>| {
            with(|a| {
                a.kind = Kind::Structured;
                a.table = table.map(|name| Table {
                    name: name.to_owned(),
                    key: "sku".to_owned(),
                    schema: None,
                });
            })
        };
        let refused = |before: &Policy, after: &Policy| {
            let errors = compare(before, after, holds(Records::None, 0, &[])).unwrap_err();
            assert!(errors.iter().any(|error| error.way_out.contains("restart")), "{errors:?}");
        };
        refused(&of(Some("products")), &of(Some("prices")));
        refused(&of(Some("products")), &of(None));
        let mut without = of(Some("products"));
        without.datasets.remove("a");
        refused(&without, &of(Some("products")));
        let same = compare(&of(Some("products")), &of(Some("products")), |_| unreachable!());
        assert_eq!(same.unwrap(), Changes::default());
    }
}
