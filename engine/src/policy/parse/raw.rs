//! The file as it is written: fields, their types, and where each stands.

use crate::merge::Strategy;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) node: Option<Spanned<u16>>,
    pub(super) site: Option<u16>,
    pub(super) audit: Option<RawAudit>,
    #[serde(default)]
    pub(super) peer: Vec<Spanned<RawPeer>>,
    #[serde(default)]
    pub(super) rule: Vec<Spanned<RawRule>>,
    #[serde(default)]
    pub(super) webhook: Vec<Spanned<RawWebhook>>,
    #[serde(default)]
    pub(super) dataset: Vec<Spanned<RawDataset>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) name: Spanned<String>,
    pub(super) source: Spanned<String>,
    #[serde(default)]
    pub(super) example: Vec<Spanned<RawExample>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExample {
    pub(super) base: Option<String>,
    pub(super) sides: Vec<String>,
    pub(super) expect: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAudit {
    pub(super) keep: Option<Spanned<String>>,
    pub(super) segments_max: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    pub(super) node: Spanned<u16>,
    pub(super) site: Option<u16>,
    pub(super) url: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWebhook {
    pub(super) name: Spanned<String>,
    pub(super) url: Spanned<String>,
    pub(super) kinds: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) datasets: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) secret_file: Option<Spanned<String>>,
    pub(super) secret_env: Option<Spanned<String>>,
    pub(super) storms: Option<Spanned<String>>,
    pub(super) attempts: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDataset {
    pub(super) name: Spanned<String>,
    pub(super) kind: Spanned<String>,
    pub(super) d1: Option<Spanned<RawAuthority>>,
    pub(super) kv: Option<Spanned<RawProjection>>,
    pub(super) r2: Option<Spanned<RawProjection>>,
    pub(super) strategy: Option<Spanned<RawStrategy>>,
    pub(super) oversize: Option<Spanned<String>>,
    pub(super) read: Option<Spanned<String>>,
    pub(super) durability: Option<Spanned<String>>,
    pub(super) conflict: Option<RawConflict>,
    pub(super) reconcile: Option<RawReconcile>,
    pub(super) backlog: Option<Spanned<String>>,
    pub(super) queue: Option<RawQueue>,
    pub(super) ttl: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuthority {
    pub(super) table: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) keep: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProjection {
    pub(super) prefix: Option<Spanned<String>>,
    pub(super) keep: Option<Spanned<RawKeep>>,
}

pub(super) enum RawKeep {
    Word(String),
    Fields(Vec<String>),
}

impl<'de> Deserialize<'de> for RawKeep {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = RawKeep;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"full\", \"reference\" or a list of fields")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawKeep, E> {
                Ok(RawKeep::Word(text.to_owned()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<RawKeep, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(RawKeep::Fields(names))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStrategy {
    pub(super) d1: Option<Spanned<String>>,
    pub(super) kv: Option<Spanned<String>>,
    pub(super) r2: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReconcile {
    pub(super) every: Option<Spanned<String>>,
    pub(super) recent: Option<Spanned<String>>,
    pub(super) full: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { records = 10000, bytes = \"64MB\" }")]
pub(super) struct RawQueue {
    pub(super) records: Option<Spanned<i64>>,
    pub(super) bytes: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConflict {
    pub(super) default: Option<Spanned<RawRuling>>,
    #[serde(default)]
    pub(super) prefixes: BTreeMap<String, Spanned<RawRuling>>,
    pub(super) fields: Option<Spanned<BTreeMap<String, Strategy>>>,
}

/// `"delete_wins"`, `{ prefer_store = "d1" }`, or `{ rule = "lowest", fallback = "lww" }`.
pub(super) enum RawRuling {
    Word(String),
    PreferStore(String),
    Rule { rule: String, fallback: Box<RawRuling> },
}

impl<'de> Deserialize<'de> for RawRuling {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = RawRuling;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a word such as \"merge\", { prefer_store = \"d1\" } or { rule = \"lowest\" }",
                )
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawRuling, E> {
                Ok(RawRuling::Word(text.to_owned()))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<RawRuling, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Table {
                    prefer_store: Option<String>,
                    rule: Option<String>,
                    fallback: Option<RawRuling>,
                }
                let map = serde::de::value::MapAccessDeserializer::new(map);
                match Table::deserialize(map)? {
                    Table { prefer_store: Some(store), rule: None, fallback: None } => {
                        Ok(RawRuling::PreferStore(store))
                    }
                    Table { prefer_store: None, rule: Some(rule), fallback } => {
                        let fallback = fallback.unwrap_or(RawRuling::Word("lww".to_owned()));
                        Ok(RawRuling::Rule { rule, fallback: Box::new(fallback) })
                    }
                    Table { .. } => Err(serde::de::Error::custom(
                        "a ruling names either a store or a rule, expected \
                         { prefer_store = \"d1\" } or { rule = \"lowest\", fallback = \"lww\" }",
                    )),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}
