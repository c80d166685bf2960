//! What a projection holds beside the value, so that its copy stays readable by everyone else and
//! its version can be told without asking the authority.
//!
//! Invariant: text made by [`fit`] fits the store's metadata limit. A history too large for
//! it stays in the authority's row alone; the copy then names its version by its tag.

use crate::blob;
use crate::fields::Fields;
use crate::policy::{Keep, Limits};
use crate::record::{KV_METADATA_BYTES_MAX, R2_METADATA_BYTES_MAX, StoreId, Stored};
use crate::version::{ContentHash, Dot, Sibling, Stamp, Version, VersionVector, push_decimal};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Most metadata fits without a second allocation.
const METADATA_BYTES_USUAL: usize = 512;

/// As it is read. It is written by [`text`].
#[derive(Deserialize)]
struct Metadata {
    /// Format.
    tidelock: u8,
    /// History; absent when too large.
    #[serde(default)]
    history: Option<String>,
    /// Stands for a history that is absent.
    #[serde(default)]
    etag: Option<String>,
    dot: String,
    stamp: (u64, u32),
    hash: String,
    bytes: u64,
    /// See [`Sibling::expires_at_ms`].
    #[serde(default)]
    expires_at_ms: Option<u64>,
    /// The value is elsewhere: this copy is a reference.
    #[serde(default)]
    reference: bool,
    /// This copy has chosen fields of the value.
    #[serde(default)]
    partial: Option<Partial>,
}

#[derive(Deserialize)]
struct Partial {
    /// Stands for the list of fields.
    fields: String,
    /// BLAKE3 of the copy's own bytes; the value's stands beside it.
    hash: String,
}

/// What the bytes of a copy are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The value.
    Whole,
    /// A [`ReferenceBody`].
    Reference,
    /// Chosen fields of the value.
    Partial {
        /// See [`Fields::id`].
        fields: String,
        /// Of the bytes.
        hash: ContentHash,
    },
}

impl Body {
    /// These bytes have these fields of a value.
    pub fn partial(fields: &Fields, bytes: &[u8]) -> Self {
        Body::Partial { fields: fields.id().to_owned(), hash: ContentHash::of(bytes) }
    }
}

/// The body of a copy that is a reference: says where the value is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceBody {
    /// Always `reference`.
    pub tidelock: String,
    /// The store that has the bytes.
    pub store: StoreId,
    /// Under this key.
    pub key: String,
    /// BLAKE3 of the bytes.
    pub hash: ContentHash,
    /// How many.
    pub bytes: u64,
}

/// What a copy says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Which version it is of.
    pub names: Named,
    /// What the copy's bytes are.
    pub body: Body,
    /// Hash of the value.
    pub hash: ContentHash,
    /// See [`Sibling::expires_at_ms`].
    pub expires_at_ms: Option<u64>,
}

/// How a copy names its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its history, which fits.
    Version(Version),
    /// By its tag alone.
    Tag(String),
}

impl Named {
    /// The version's tag.
    pub fn etag(&self) -> String {
        match self {
            Named::Version(version) => version.etag(),
            Named::Tag(etag) => etag.clone(),
        }
    }
}

impl Body {
    /// True when these are the bytes that a copy should have, of a value of this hash.
    pub fn is(&self, bytes: &[u8], value: ContentHash) -> bool {
        match self {
            Body::Whole => ContentHash::of(bytes) == value,
            Body::Reference => refers_to(bytes, value),
            Body::Partial { hash, .. } => ContentHash::of(bytes) == *hash,
        }
    }

    /// True when it is what a projection keeps in this form.
    pub fn has_form(&self, form: &Form) -> bool {
        match form {
            Form::Absent => false,
            Form::Whole => *self == Body::Whole,
            Form::Reference => *self == Body::Reference,
            Form::Partial(fields) => match self {
                Body::Partial { fields: named, .. } => *named == fields.id(),
                Body::Whole | Body::Reference => false,
            },
        }
    }
}

impl Described {
    /// True when these are the bytes that the copy should have.
    pub fn has(&self, body: &[u8]) -> bool {
        self.body.is(body, self.hash)
    }

    /// True when the copy is of this version, in whatever form.
    pub fn names_version(&self, version: &Version) -> bool {
        let same = match &self.names {
            Named::Version(named) => named.history == version.history,
            Named::Tag(etag) => *etag == version.etag(),
        };
        same && self.hash == version.current().hash
    }

    /// True when the copy is of this version, kept in this form.
    pub fn is_of(&self, version: &Version, form: &Form) -> bool {
        self.names_version(version) && self.body.has_form(form)
    }
}

/// How a value stands in a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// No copy: the record is deleted.
    Absent,
    /// The value itself.
    Whole,
    /// A [`ReferenceBody`].
    Reference,
    /// These fields of it.
    Partial(Fields),
}

/// How a value of a dataset stands in one of its projections.
pub fn form(store: StoreId, keep: &Keep, sibling: &Sibling, limits: &Limits) -> Form {
    let bytes_max = match store {
        StoreId::Kv => limits.kv_value_bytes_max,
        StoreId::D1 | StoreId::R2 => limits.value_bytes_max,
    };
    if sibling.deleted {
        Form::Absent
    } else if sibling.bytes > bytes_max as u64 {
        // Of such a value even the chosen fields may be too large, and no listing tells.
        Form::Reference
    } else {
        match keep {
            Keep::Full => Form::Whole,
            Keep::Reference => Form::Reference,
            Keep::Fields(fields) => Form::Partial(fields.clone()),
        }
    }
}

/// The body of a reference to a value.
pub fn reference_body(value: &Stored, sibling: &Sibling, d1_key: &str) -> Bytes {
    let (store, key) = match value {
        Stored::Reference { hash, .. } => (StoreId::R2, blob::key(*hash)),
        Stored::Inline(_) | Stored::Tombstone | Stored::Erased(_) => {
            (StoreId::D1, d1_key.to_owned())
        }
    };
    let body = ReferenceBody {
        tidelock: "reference".to_owned(),
        store,
        key,
        hash: sibling.hash,
        bytes: sibling.bytes,
    };
    Bytes::from(serde_json::to_vec(&body).expect("text and numbers always serialize"))
}

/// True when the body of a copy refers to a value of this hash.
pub fn refers_to(body: &[u8], hash: ContentHash) -> bool {
    serde_json::from_slice::<ReferenceBody>(body)
        .is_ok_and(|body| body.tidelock == "reference" && body.hash == hash)
}

/// What a copy of this version says of itself, its whole history included; but where several values
/// stand beside each other it is no more than its name: whoever reads a copy has not read them all, and
/// none of them can be made of it.
pub fn describe(version: &Version, body: &Body) -> String {
    String::from_utf8(text(version, !version.is_apart(), body))
        .expect("made of digits and field names")
}

/// The metadata of a copy in a store: `whole`, made by [`describe`], if the store can keep it.
pub fn fit(store: StoreId, whole: &str, version: &Version, body: &Body) -> String {
    let bytes_max = match store {
        StoreId::Kv => KV_METADATA_BYTES_MAX,
        StoreId::D1 | StoreId::R2 => R2_METADATA_BYTES_MAX,
    };
    if whole.len() <= bytes_max {
        return whole.to_owned();
    }
    String::from_utf8(text(version, false, body)).expect("made of digits and field names")
}

/// Ends what a reference says of itself.
const REFERENCE_END: &[u8] = b",\"reference\":true}";

/// Written by hand: every put makes one, and every copy that a look or a scrub meets is held against
/// one. All of it is digits, hexadecimal and points, so nothing needs to be escaped.
fn text(version: &Version, with_history: bool, body: &Body) -> Vec<u8> {
    let current = version.current();
    let mut text = Vec::with_capacity(METADATA_BYTES_USUAL);
    text.extend_from_slice(b"{\"tidelock\":1,\"");
    if with_history {
        text.extend_from_slice(b"history\":\"");
        version.history.push_text(&mut text);
    } else {
        text.extend_from_slice(b"etag\":\"");
        text.extend_from_slice(version.etag().as_bytes());
    }
    text.extend_from_slice(b"\",\"dot\":\"");
    current.dot.push_text(&mut text);
    text.extend_from_slice(b"\",\"stamp\":[");
    push_decimal(&mut text, current.stamp.wall_ms);
    text.push(b',');
    push_decimal(&mut text, u64::from(current.stamp.logical));
    text.extend_from_slice(b"],\"hash\":\"");
    current.hash.push_text(&mut text);
    text.extend_from_slice(b"\",\"bytes\":");
    push_decimal(&mut text, current.bytes);
    if let Some(at_ms) = current.expires_at_ms {
        text.extend_from_slice(b",\"expires_at_ms\":");
        push_decimal(&mut text, at_ms);
    }
    match body {
        Body::Whole => text.push(b'}'),
        Body::Reference => text.extend_from_slice(REFERENCE_END),
        Body::Partial { fields, hash } => {
            text.extend_from_slice(b",\"partial\":{\"fields\":\"");
            text.extend_from_slice(fields.as_bytes());
            text.extend_from_slice(b"\",\"hash\":\"");
            hash.push_text(&mut text);
            text.extend_from_slice(b"\"}}");
        }
    }
    text
}

/// What the bytes of a copy are, if its metadata is to the byte what this coordinator's own puts of
/// `version` write. That is what nearly every copy shows, and takes a fraction of [`read`]. `None`
/// says nothing: it may be of this version all the same, written in another way.
pub fn as_written(metadata: &str, version: &Version) -> Option<Body> {
    let whole = text(version, !version.is_apart(), &Body::Whole);
    if metadata.as_bytes() == whole {
        return Some(Body::Whole);
    }
    let open = whole.strip_suffix(b"}").expect("an object ends so");
    (metadata.as_bytes().strip_prefix(open) == Some(REFERENCE_END)).then_some(Body::Reference)
}

/// Reads a copy's metadata; `None`: it is not ours.
pub fn read(metadata: &str) -> Option<Described> {
    let metadata: Metadata = serde_json::from_str(metadata).ok()?;
    if metadata.tidelock != 1 {
        return None;
    }
    let hash = ContentHash::from_str(&metadata.hash).ok()?;
    let sibling = Sibling {
        dot: Dot::from_str(&metadata.dot).ok()?,
        stamp: Stamp { wall_ms: metadata.stamp.0, logical: metadata.stamp.1 },
        hash,
        bytes: metadata.bytes,
        deleted: false,
        expires_at_ms: metadata.expires_at_ms,
    };
    let names = match metadata.history {
        Some(history) => {
            let history = VersionVector::from_str(&history).ok()?;
            if !history.covers_dot(sibling.dot) {
                return None;
            }
            Named::Version(Version::settled(history, sibling))
        }
        None => Named::Tag(metadata.etag?),
    };
    let body = match metadata.partial {
        Some(Partial { fields, hash }) => {
            Body::Partial { fields, hash: ContentHash::from_str(&hash).ok()? }
        }
        None if metadata.reference => Body::Reference,
        None => Body::Whole,
    };
    Some(Described { names, body, hash, expires_at_ms: metadata.expires_at_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, NodeId};

    fn version(actors: u16) -> Version {
        let history: VersionVector = (0..actors)
            .map(|n| (Actor { node: NodeId(n), incarnation: u64::MAX - u64::from(n) }, 1_000))
            .collect();
        let sibling = Sibling {
            dot: Dot { actor: Actor { node: NodeId(0), incarnation: u64::MAX }, counter: 1_000 },
            stamp: Stamp { wall_ms: 1_790_000_000_000, logical: 3 },
            hash: ContentHash::of(b"v"),
            bytes: 1,
            deleted: false,
            expires_at_ms: Some(1_790_000_100_000),
        };
        Version::settled(history, sibling)
    }

    #[test]
    fn metadata_round_trips_and_fits() {
        let fields = Fields::new(vec!["sku".to_owned()]);
        let bodies = [Body::Whole, Body::Reference, Body::partial(&fields, b"{}")];
        for (actors, body) in
            [1, 8, 20, 40, 400].into_iter().flat_map(|n| bodies.iter().map(move |b| (n, b)))
        {
            let version = version(actors);
            for (store, max) in [(StoreId::Kv, 1_024), (StoreId::R2, 8_192)] {
                let text = fit(store, &describe(&version, body), &version, body);
                assert!(text.len() <= max, "{actors} actors take {} bytes", text.len());
                let read = read(&text).expect("ours");
                assert_eq!(read.names.etag(), version.etag());
                assert_eq!(read.body, *body);
                let known = as_written(&text, &version);
                let told = matches!(read.names, Named::Version(_))
                    && !matches!(body, Body::Partial { .. });
                assert_eq!(known, told.then(|| body.clone()));
                let mut other = *version.current();
                other.stamp.logical += 1;
                let other = Version::settled(version.history.clone(), other);
                assert_eq!(as_written(&text, &other), None);
                match read.names {
                    Named::Version(found) => assert_eq!(found, version),
                    Named::Tag(_) => assert!(actors > 20, "a small history is kept in the copy"),
                }
            }
        }
    }

    #[test]
    fn a_copy_in_another_form_is_another_copy() {
        let version = version(1);
        let (one, two) = (Fields::new(vec!["a".to_owned()]), Fields::new(vec!["b".to_owned()]));
        let bodies = [
            (Body::Whole, Form::Whole),
            (Body::Reference, Form::Reference),
            (Body::partial(&one, b"{}"), Form::Partial(one)),
            (Body::partial(&two, b"{}"), Form::Partial(two)),
        ];
        for (at, (body, _)) in bodies.iter().enumerate() {
            let described = read(&describe(&version, body)).expect("ours");
            for (other, (_, form)) in bodies.iter().enumerate() {
                assert_eq!(described.is_of(&version, form), at == other, "{body:?} as {form:?}");
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_nobodys_version() {
        for text in ["", "{}", "{\"tidelock\":9}", "null", "[1]"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
