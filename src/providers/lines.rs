//! Cuts a stream into lines as its pieces come by.

/// A line longer than this is passed on but not read.
const MAX_LINE: usize = 1_024 * 1_024;

#[derive(Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// The current line is longer than is read.
    skipping: bool,
}

impl Lines {
    /// Takes the next piece, and shows every line that it ends, without its line end.
    pub fn push(&mut self, chunk: &[u8], mut each: impl FnMut(&[u8])) {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            rest = &after[1..];
            if self.partial.is_empty() && !self.skipping {
                each(without_return(line));
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                if !std::mem::take(&mut self.skipping) {
                    whole.extend_from_slice(line);
                    each(without_return(&whole));
                }
                whole.clear();
                self.partial = whole;
            }
        }
        if self.skipping || self.partial.len() + rest.len() > MAX_LINE {
            self.skipping = !rest.is_empty() || self.skipping;
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(rest);
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(text in "[ab\r\n]{0,40}", cuts in proptest::collection::vec(1..7usize, 0..20)) {
            let expected: Vec<&str> = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
            let expected = &expected[..expected.len() - 1];
            let (mut lines, mut read) = (Lines::default(), Vec::new());
            let mut rest = text.as_bytes();
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                lines.push(piece, |line| read.push(String::from_utf8(line.to_vec()).unwrap()));
                rest = after;
            }
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let (mut lines, mut read) = (Lines::default(), Vec::new());
        for _ in 0..64 {
            lines.push(&vec![b'x'; 65_536], |_| panic!("no line has ended"));
        }
        assert!(lines.partial.len() <= MAX_LINE);
        lines.push(b"y\nnext\n", |line| read.push(line.to_vec()));
        assert_eq!(read, [b"next"]);
    }
}
