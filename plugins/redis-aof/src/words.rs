//! The first words of a command behind its name, each cut: enough to read options and times, whatever size the values have.

/// Bytes kept of one word; the longest option or number is shorter, so that a word that was cut is neither.
const CAPACITY: usize = 24;
/// Words kept: options stand before them in every command that has any.
const MAXIMUM: usize = 16;

/// The words of the present command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    count: u64,
}

impl Words {
    /// How many words there are, those included that are not kept.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// A word, where it is kept.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.bytes.get(start..*self.ends.get(index)?)
    }

    /// The words from `index` on that are kept.
    pub(crate) fn from(&self, index: usize) -> impl Iterator<Item = (usize, &[u8])> {
        (index..self.ends.len()).filter_map(|index| Some((index, self.get(index)?)))
    }

    /// A word as a number.
    pub(crate) fn number(&self, index: usize) -> Option<i64> {
        std::str::from_utf8(self.get(index)?).ok()?.parse().ok()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.count = 0;
    }

    /// More bytes of the word under way.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        if self.ends.len() < MAXIMUM {
            let held = self.bytes.len() - self.ends.last().copied().unwrap_or(0);
            let room = CAPACITY.saturating_sub(held);
            self.bytes.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        }
    }

    /// The word under way is whole.
    pub(crate) fn end_word(&mut self) {
        self.count += 1;
        if self.ends.len() < MAXIMUM {
            self.ends.push(self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_and_counted() {
        let mut words = Words::default();
        for number in 0..40 {
            words.extend(b"word");
            words.extend(&vec![b'x'; number]);
            words.end_word();
        }
        assert_eq!((words.count(), words.from(0).count()), (40, MAXIMUM));
        assert_eq!((words.get(0), words.get(2)), (Some(&b"word"[..]), Some(&b"wordxx"[..])));
        assert_eq!((words.get(15).map(<[u8]>::len), words.get(16)), (Some(19), None));
        words.clear();
        words.extend(&[b'7'; 1000]);
        words.end_word();
        words.end_word();
        words.extend(b"-5");
        words.end_word();
        assert_eq!(words.get(0).map(<[u8]>::len), Some(CAPACITY));
        assert_eq!((words.get(1), words.number(0), words.number(2)), (Some(&b""[..]), None, Some(-5)));
    }
}
