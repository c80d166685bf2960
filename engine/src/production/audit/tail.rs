//! The end of the last segment: all of an append, or nothing of it.
//!
//! Invariant: as long as this takes more, the file is as long as what was appended and synced. A write
//! that fails is taken back; where that fails too, or a sync does, nobody knows what the disk holds,
//! and nothing more is taken: whoever has this opens the file anew, and reads it, before it goes on.

use std::fs::File;
use std::io::{Result, Write};

/// A file that is appended to.
pub(super) trait Medium: std::fmt::Debug + Send {
    /// Writes all of it behind what is there.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes what is there durable.
    fn sync(&mut self) -> Result<()>;
    /// Drops what stands behind so many bytes.
    fn cut(&mut self, bytes: u64) -> Result<()>;
}

impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, bytes: u64) -> Result<()> {
        self.set_len(bytes)
    }
}

/// How an append failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing of it is there.
    Undone(std::io::Error),
    /// It may be there, whole or in part.
    Unknown(std::io::Error),
    /// It was not tried: an append before it failed so.
    Poisoned,
}

#[derive(Debug)]
pub(super) struct Tail {
    medium: Box<dyn Medium>,
    bytes: u64,
    is_poisoned: bool,
}

impl Tail {
    /// Of a file that holds so many bytes and is appended to.
    pub(super) fn of(medium: Box<dyn Medium>, bytes: u64) -> Self {
        Tail { medium, bytes, is_poisoned: false }
    }

    /// An append before failed so that nobody knows what the disk holds.
    pub(super) fn is_poisoned(&self) -> bool {
        self.is_poisoned
    }

    /// Goes on in a file without bytes.
    pub(super) fn follow(&mut self, medium: Box<dyn Medium>) {
        self.medium = medium;
        self.bytes = 0;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes all of it and syncs once.
    pub(super) fn append(&mut self, bytes: &[u8]) -> std::result::Result<(), Failed> {
        if self.is_poisoned {
            return Err(Failed::Poisoned);
        }
        if let Err(error) = self.medium.append(bytes) {
            // Synced, or what was taken back could be there again after a power cut.
            return Err(match self.medium.cut(self.bytes).and_then(|()| self.medium.sync()) {
                Ok(()) => Failed::Undone(error),
                Err(_) => self.poisoned(error),
            });
        }
        if let Err(error) = self.medium.sync() {
            // The kernel may have dropped what it could not write, and calls it clean from now on.
            let _ = self.medium.cut(self.bytes);
            return Err(self.poisoned(error));
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn poisoned(&mut self, error: std::io::Error) -> Failed {
        self.is_poisoned = true;
        Failed::Unknown(error)
    }

    #[cfg(test)]
    pub(super) fn replace(&mut self, medium: Box<dyn Medium>) {
        self.medium = medium;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};
    use std::sync::{Arc, Mutex};

    /// A disk with room for so many bytes more, and what it does when asked for other things.
    #[derive(Debug)]
    pub(in super::super) struct Small<M> {
        pub(in super::super) medium: M,
        pub(in super::super) room: usize,
        pub(in super::super) syncs: bool,
        pub(in super::super) cuts: bool,
    }

    impl<M: Medium> Medium for Small<M> {
        fn append(&mut self, bytes: &[u8]) -> Result<()> {
            let fits = bytes.len().min(self.room);
            self.room -= fits;
            self.medium.append(&bytes[..fits])?;
            if fits == bytes.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
        }

        fn sync(&mut self) -> Result<()> {
            if self.syncs { self.medium.sync() } else { Err(Error::other("EIO")) }
        }

        fn cut(&mut self, bytes: u64) -> Result<()> {
            if self.cuts { self.medium.cut(bytes) } else { Err(Error::other("EIO")) }
        }
    }

    #[derive(Clone, Debug, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Medium for Memory {
        fn append(&mut self, bytes: &[u8]) -> Result<()> {
            self.0.lock().unwrap().extend(bytes);
            Ok(())
        }

        fn sync(&mut self) -> Result<()> {
            Ok(())
        }

        fn cut(&mut self, bytes: u64) -> Result<()> {
            self.0.lock().unwrap().truncate(bytes as usize);
            Ok(())
        }
    }

    fn small(room: usize, syncs: bool, cuts: bool) -> (Memory, Tail) {
        let memory = Memory::default();
        let medium = Small { medium: memory.clone(), room, syncs, cuts };
        (memory, Tail::of(Box::new(medium), 0))
    }

    #[test]
    fn what_does_not_fit_is_taken_back_whole_and_less_fits_later() {
        let (memory, mut tail) = small(10, true, true);
        tail.append(b"one\n").unwrap();
        let failed = tail.append(b"too much\n").unwrap_err();
        assert!(matches!(failed, Failed::Undone(error) if error.kind() == ErrorKind::StorageFull));
        assert_eq!((memory.text().as_str(), tail.bytes()), ("one\n", 4));
        tail.append(b"").unwrap();
    }

    #[test]
    fn after_a_failed_sync_or_cut_nothing_more_is_taken() {
        for (room, syncs, cuts) in [(100, false, true), (2, true, false), (2, false, true)] {
            let (memory, mut tail) = small(room, syncs, cuts);
            assert!(matches!(tail.append(b"one\n"), Err(Failed::Unknown(_))));
            let there = memory.text();
            assert!(matches!(tail.append(b"x"), Err(Failed::Poisoned)));
            assert_eq!(memory.text(), there);
        }
    }
}
