//! What coordinators send each other, as bytes: postcard, compressed with zstd, under a version
//! number that stands outside.
//!
//! Invariant: bytes from a peer are never unpacked past a bound, and what does not decode to a
//! message is an error and nothing else.

use crate::env::{Peer, PeerMessage};
use crate::record::VALUE_BYTES_MAX;
use crate::version::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;

/// What this build speaks. Another number is refused before anything is decoded.
pub const VERSION: &str = "5";
/// The header that carries it.
pub const VERSION_HEADER: &str = "x-tidelock-wire";
/// A message, unpacked: one value to be kept, or names of records.
pub const MESSAGE_BYTES_MAX: usize = VALUE_BYTES_MAX + 16 * 1024 * 1024;
/// An answer, unpacked: at the worst one value and what lost against it.
pub const ANSWER_BYTES_MAX: usize = 4 * VALUE_BYTES_MAX;
/// Fast, and half the size of what is text.
const LEVEL: i32 = 1;

/// A message with its sender and the one that it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who sends it.
    pub from: Peer,
    /// Whom it is for: an address may have been given to somebody else.
    pub to: NodeId,
    /// What it says.
    pub message: PeerMessage,
}

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// They unpack to more than is allowed.
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// They do not unpack, or not to a message.
    Malformed(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::TooLarge { bytes_max } => {
                write!(f, "it unpacks to more than the {bytes_max} bytes that are allowed")
            }
            WireError::Malformed(problem) => write!(f, "it cannot be read ({problem})"),
        }
    }
}

impl std::error::Error for WireError {}

/// Packs a message or an answer.
pub fn pack(value: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let malformed = |error: &dyn fmt::Display| WireError::Malformed(error.to_string());
    let plain = postcard::to_stdvec(value).map_err(|error| malformed(&error))?;
    zstd::encode_all(&*plain, LEVEL).map_err(|error| malformed(&error))
}

/// Unpacks one, up to `bytes_max`.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, WireError> {
    let malformed = |error: &dyn fmt::Display| WireError::Malformed(error.to_string());
    let unpacking = zstd::Decoder::new(bytes).map_err(|error| malformed(&error))?;
    let mut plain = Vec::new();
    let mut bounded = unpacking.take(bytes_max as u64 + 1);
    bounded.read_to_end(&mut plain).map_err(|error| malformed(&error))?;
    if plain.len() > bytes_max {
        return Err(WireError::TooLarge { bytes_max });
    }
    postcard::from_bytes(&plain).map_err(|error| malformed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{PeerReply, Wanted, Whole};
    use crate::record::{Loser, RecordId, Stored, Written};
    use crate::resolve::{Held, sibling};
    use crate::row::Seq;
    use crate::tree::{Leaf, Node, Sums};
    use crate::version::{Actor, Dot, SiteId, Stamp, Version, VersionVector};
    use bytes::Bytes;

    fn held() -> Held {
        let value = Stored::Inline(Bytes::from_static(b"high water at six"));
        let dot = Dot { actor: Actor { node: NodeId(2), incarnation: 9 }, counter: 4 };
        let written = sibling(dot, Stamp { wall_ms: 7, logical: 1 }, &value);
        Held { version: Version::write(&VersionVector::new(), written), value }
    }

    #[test]
    fn what_is_packed_comes_out_whole() {
        let record = RecordId { dataset: "notes".into(), key: "tide".into() };
        let held = held();
        let current = *held.version.current();
        let loser = Loser { sibling: current, value: Stored::Tombstone, winner: current.dot };
        let (over, value) = (held.version.history.clone(), held.value.clone());
        let (losers, writes) = (vec![loser], vec![Written { sibling: current, over, value }]);
        let whole = Whole { record: record.clone(), held: Some(held.clone()), losers, writes };
        let answer = PeerReply::Values(vec![whole]);
        assert_eq!(unpack(&pack(&answer).unwrap(), ANSWER_BYTES_MAX), Ok(answer));
        let wanted = Wanted { record, known: held.version.history, current: Some(current.dot) };
        let envelope = Envelope {
            from: Peer { node: NodeId(1), site: SiteId(3) },
            to: NodeId(2),
            message: PeerMessage::Fetch(vec![wanted]),
        };
        assert_eq!(unpack(&pack(&envelope).unwrap(), MESSAGE_BYTES_MAX), Ok(envelope));
    }

    #[test]
    fn the_largest_page_of_sums_is_small() {
        let dataset: std::sync::Arc<str> = "notes".into();
        let nodes: Vec<Node> = Node::ROOT.children().flat_map(Node::children).take(64).collect();
        let leaves = vec![Leaf(0), Leaf(65_535)];
        for message in [
            PeerMessage::Roots,
            PeerMessage::Children { dataset: dataset.clone(), nodes },
            PeerMessage::Leaves { dataset: dataset.clone(), leaves, after: Some("tide".into()) },
        ] {
            let packed = pack(&message).unwrap();
            assert_eq!(unpack(&packed, MESSAGE_BYTES_MAX), Ok(message));
        }
        let sums = Sums { count: 1_000, lanes: [u32::MAX; 4] };
        let answers = [
            PeerReply::Roots { at: Seq(7), roots: vec![(dataset, sums)] },
            PeerReply::Children { at: Seq(7), sums: vec![sums; 64 * 16] },
            PeerReply::Leaves { changes: Vec::new(), through: 2, after: None },
        ];
        for answer in answers {
            let plain = postcard::to_stdvec(&answer).unwrap().len();
            assert!(plain < 32 * 1024, "{plain} bytes");
            assert_eq!(unpack(&pack(&answer).unwrap(), ANSWER_BYTES_MAX), Ok(answer));
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = zstd::encode_all(&*vec![0; 8 * 1024 * 1024], LEVEL).unwrap();
        assert!(bomb.len() < 4096, "it is small on the wire: {} bytes", bomb.len());
        let unpacked = unpack::<PeerReply>(&bomb, 1024 * 1024);
        assert_eq!(unpacked, Err(WireError::TooLarge { bytes_max: 1024 * 1024 }));
    }

    #[test]
    fn nonsense_is_an_error() {
        let packed = pack(&PeerReply::Noted).unwrap();
        for wrong in [&b""[..], b"x", &packed[..packed.len() - 1]] {
            let unpacked = unpack::<Envelope>(wrong, MESSAGE_BYTES_MAX);
            assert!(matches!(unpacked, Err(WireError::Malformed(_))), "{unpacked:?}");
        }
        let unpacked = unpack::<Envelope>(&packed, MESSAGE_BYTES_MAX);
        assert!(matches!(unpacked, Err(WireError::Malformed(_))), "another type: {unpacked:?}");
    }
}
