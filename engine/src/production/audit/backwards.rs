//! A segment's lines from the last on, without reading what stands before them.

use super::segment::LINE_BYTES_MAX;
use std::io::{Read, Result, Seek, SeekFrom};

const BLOCK_BYTES: u64 = 64 * 1024;

/// Reads from one place in a file towards its beginning.
pub(super) struct Backwards<F> {
    file: F,
    /// Where in the file `held` begins.
    at: u64,
    held: Vec<u8>,
    /// Part of the line that is being looked for was given up: it is longer than a line may be.
    is_overlong: bool,
}

/// A line without its end, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: u64,
    /// `None`: it is longer than [`LINE_BYTES_MAX`].
    pub(super) line: Option<Vec<u8>>,
}

impl<F: Read + Seek> Backwards<F> {
    /// Of the lines that end at or before `end`. What stands behind the last line's end is passed over.
    pub(super) fn before(file: F, end: u64) -> Result<Self> {
        let mut backwards = Backwards { file, at: end, held: Vec::new(), is_overlong: false };
        backwards.pass_torn()?;
        Ok(backwards)
    }

    /// The line before.
    pub(super) fn next(&mut self) -> Result<Option<Found>> {
        if self.held.is_empty() && !self.load()? {
            return Ok(None);
        }
        // The last byte that is held is the end of the line that is looked for.
        self.held.pop();
        loop {
            let end = self.held.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
            if end.is_none() {
                if self.held.len() > LINE_BYTES_MAX {
                    self.is_overlong = true;
                    self.held.clear();
                }
                if self.load()? {
                    continue;
                }
            }
            let begin = end.unwrap_or(0);
            let line = self.held.split_off(begin);
            let is_overlong = std::mem::take(&mut self.is_overlong) || line.len() >= LINE_BYTES_MAX;
            let line = (!is_overlong).then_some(line);
            return Ok(Some(Found { at: self.at + begin as u64, line }));
        }
    }

    fn pass_torn(&mut self) -> Result<()> {
        while self.load()? {
            if let Some(end) = self.held.iter().rposition(|byte| *byte == b'\n') {
                self.held.truncate(end + 1);
                return Ok(());
            }
            self.held.clear();
        }
        Ok(())
    }

    /// Reads the block before; false: there is none.
    fn load(&mut self) -> Result<bool> {
        let bytes = self.at.min(BLOCK_BYTES);
        if bytes == 0 {
            return Ok(false);
        }
        self.at -= bytes;
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut block = vec![0; bytes as usize];
        self.file.read_exact(&mut block)?;
        block.append(&mut self.held);
        self.held = block;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn all(text: &[u8], end: usize) -> Vec<Found> {
        let mut backwards = Backwards::before(Cursor::new(text), end as u64).unwrap();
        std::iter::from_fn(|| backwards.next().unwrap()).collect()
    }

    fn expected(text: &[u8]) -> Vec<Found> {
        let mut at = 0;
        let lines = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
            let begin = at;
            at += line.len() as u64;
            let line = line.strip_suffix(b"\n")?;
            let line = (line.len() < LINE_BYTES_MAX).then(|| line.to_vec());
            Some(Found { at: begin, line })
        });
        let mut lines: Vec<Found> = lines.collect();
        lines.reverse();
        lines
    }

    #[test]
    fn lines_longer_than_a_block_and_longer_than_a_line_may_be() {
        let long = |bytes: usize| vec![b'x'; bytes];
        let parts: [&[u8]; 7] = [
            b"first\n",
            &long(200_000),
            b"\nshort\n",
            &long(LINE_BYTES_MAX * 2),
            b"\n",
            b"\n",
            b"to",
        ];
        let text = parts.concat();
        let found = all(&text, text.len());
        assert_eq!(found.len(), 5);
        assert_eq!(found[1].line, None);
        assert_eq!(found, expected(&text));
    }

    proptest! {
        #[test]
        fn backwards_is_forwards_reversed(
            lengths in proptest::collection::vec(0usize..40_000, 0..12),
            torn in 0usize..70_000,
            from in 0usize..12,
        ) {
            let mut text = Vec::new();
            for (n, length) in lengths.iter().enumerate() {
                text.extend(std::iter::repeat_n(b'a' + n as u8, *length));
                text.push(b'\n');
            }
            text.extend(std::iter::repeat_n(b'z', torn));
            prop_assert_eq!(all(&text, text.len()), expected(&text));
            if let Some(found) = expected(&text).get(from) {
                let end = found.at as usize;
                prop_assert_eq!(all(&text, end), expected(&text[..end]));
            }
        }
    }
}
