//! A long list of values: ids that a rule names by a file instead of one by one.
//!
//! A million values as strings of their own are a million allocations and a hundred megabytes. Here they are one
//! piece of memory and one table: open addressing, eight bytes a place, at most half full, so that a look-up reads
//! one line of the table and, when the hash's other half agrees too, the value itself. The hash has no secret: the
//! values in the table are the operator's, and what a client sends can't make a chain longer than they did.

use crate::limits::LIST_LINES;
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// Compared as bytes, whole. Immutable.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ValueList {
    /// The values in the file's order, each followed by a line feed.
    values: Box<[u8]>,
    /// The upper half of the value's hash and the value's place in `values`, from 1; 0: empty. A power of two long.
    table: Box<[u64]>,
    count: usize,
}

/// More lines than a list may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {LIST_LINES} lines")]
pub struct TooManyLines;

impl ValueList {
    /// One value a line. Line ends and ASCII blanks around a value are not part of it; empty lines, lines that begin
    /// with `#` and a UTF-8 byte order mark are skipped. The text is bytes and need not be UTF-8.
    ///
    /// `text` must be shorter than 4 GiB; the files that are read are, see [`crate::limits::LIST_BYTES`].
    pub fn new(text: Vec<u8>) -> Result<ValueList, TooManyLines> {
        let (values, count) = compacted(text, LIST_LINES)?;
        Ok(ValueList::indexed(values, count))
    }

    /// These values as they are. One with a line feed is left out: nothing that a request carries has one.
    pub fn of<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> ValueList {
        let (mut text, mut count) = (Vec::new(), 0);
        for value in values.into_iter().filter(|value| memchr::memchr(b'\n', value).is_none()) {
            text.extend_from_slice(value);
            text.push(b'\n');
            count += 1;
        }
        ValueList::indexed(text.into(), count)
    }

    pub fn contains(&self, value: &[u8]) -> bool {
        // A value with a line feed would be compared across two.
        self.count > 0 && memchr::memchr(b'\n', value).is_none() && self.find(value).is_err()
    }

    /// In the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.values.split_inclusive(|byte| *byte == b'\n').map(|value| &value[..value.len() - 1])
    }

    /// How many different values it has.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What it takes of memory, in bytes.
    pub fn memory(&self) -> usize {
        self.values.len() + size_of_val(&*self.table)
    }

    fn indexed(values: Box<[u8]>, count: usize) -> ValueList {
        let mut list = ValueList { values, table: vec![0; table_length(count)].into(), count: 0 };
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &list.values[start..]) {
            list.insert(start, length);
            start += length + 1;
        }
        list
    }

    fn insert(&mut self, start: usize, length: usize) {
        let value = &self.values[start..start + length];
        if let Ok((free, tag)) = self.find(value) {
            self.table[free] = tag | (start as u64 + 1);
            self.count += 1;
        }
    }

    /// Err: the value is there. Otherwise the free place where it belongs, and its tag.
    fn find(&self, value: &[u8]) -> Result<(usize, u64), ()> {
        let hash = xxh3_64(value);
        let tag = hash & TAG;
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let entry = self.table[place];
            if entry == 0 {
                return Ok((place, tag));
            }
            if entry & TAG == tag && self.is_at(value, (entry & !TAG) as usize - 1) {
                return Err(());
            }
            place = (place + 1) & mask;
        }
    }

    fn is_at(&self, value: &[u8], start: usize) -> bool {
        self.values[start..].strip_prefix(value).is_some_and(|rest| rest.first() == Some(&b'\n'))
    }
}

/// The bits of a table's entry that are the hash's.
const TAG: u64 = 0xffff_ffff_0000_0000;

/// At most half full, and never without a free place.
fn table_length(count: usize) -> usize {
    (count * 2).next_power_of_two().max(2)
}

/// The values moved together within the text, each with one line feed after it, and how many they are.
fn compacted(mut text: Vec<u8>, most_lines: usize) -> Result<(Box<[u8]>, usize), TooManyLines> {
    let (mut read, mut written, mut count, mut lines) = (0, 0, 0, 0);
    if text.starts_with(b"\xef\xbb\xbf") {
        read = 3;
    }
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    while let Some(length) = memchr::memchr(b'\n', &text[read..]) {
        lines += 1;
        if lines > most_lines {
            return Err(TooManyLines);
        }
        let line = &text[read..read + length];
        let value = line.trim_ascii();
        let (at, taken) = (read + (length - line.trim_ascii_start().len()), value.len());
        if !value.is_empty() && !value.starts_with(b"#") {
            text.copy_within(at..at + taken, written);
            text[written + taken] = b'\n';
            written += taken + 1;
            count += 1;
        }
        read += length + 1;
    }
    text.truncate(written);
    Ok((text.into_boxed_slice(), count))
}

impl fmt::Debug for ValueList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueList({} values)", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn list(text: impl AsRef<[u8]>) -> ValueList {
        ValueList::new(text.as_ref().to_vec()).unwrap()
    }

    #[test]
    fn lines_are_values_without_ends_and_blanks() {
        let list = list(b"\xef\xbb\xbfone\r\n  two words\t\n\n# three\n #four\n\xff\xfe\nlast".as_slice());
        assert_eq!(list.len(), 4);
        for value in [&b"one"[..], b"two words", b"\xff\xfe", b"last"] {
            assert!(list.contains(value), "{}", value.escape_ascii());
        }
        for value in
            [&b""[..], b"two", b"words", b"# three", b"#four", b"ONE", b"one\r", b"las", b"last\n", b"one\ntwo"]
        {
            assert!(!list.contains(value), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn nothing_is_in_an_empty_list() {
        for text in ["", "\n", "# only this", "\u{feff}", " \r\n\t\n"] {
            let list = list(text);
            assert!(list.is_empty() && !list.contains(b"") && !list.contains(b"x"), "{text:?}");
        }
        assert!(!ValueList::default().contains(b""));
    }

    #[test]
    fn values_can_be_given_one_by_one() {
        let list = ValueList::of([&b"#a"[..], b" b ", b"", b"c\nd"]);
        assert!(list.contains(b"#a") && list.contains(b" b ") && list.contains(b""));
        assert!(!list.contains(b"b") && !list.contains(b"c") && !list.contains(b"c\nd"));
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn a_value_twice_counts_once() {
        let list = list("a\nb\na\n a \n");
        assert_eq!(list.len(), 2);
        assert!(list.contains(b"a") && list.contains(b"b"));
    }

    #[test]
    fn many_values_take_little() {
        let text: String = (0..100_000).map(|n| format!("user-{n:08}\n")).collect();
        let length = text.len();
        let list = list(text);
        assert_eq!(list.len(), 100_000);
        assert_eq!(list.memory(), length + 262_144 * 8);
        for n in (0..100_000).step_by(7) {
            assert!(list.contains(format!("user-{n:08}").as_bytes()), "{n}");
            assert!(!list.contains(format!("user-{:08}", n + 100_000).as_bytes()), "{n}");
        }
    }

    /// Whatever their hashes are: a value is compared whole.
    #[test]
    fn the_beginning_of_a_value_is_not_the_value() {
        let list = list("abc\nd\n");
        assert!(list.is_at(b"abc", 0) && list.is_at(b"d", 4));
        assert!(!list.is_at(b"ab", 0) && !list.is_at(b"", 0) && !list.is_at(b"dx", 4));
    }

    #[test]
    fn too_many_lines_are_refused() {
        assert_eq!(compacted(b"a\n\n# c\nd".to_vec(), 3), Err(TooManyLines));
        assert_eq!(compacted(b"a\n\n# c\nd".to_vec(), 4), Ok((b"a\nd\n".as_slice().into(), 2)));
        assert_eq!(TooManyLines.to_string(), "more than 10000000 lines");
    }

    proptest! {
        #[test]
        fn a_list_has_what_its_lines_are(text in prop::collection::vec(prop::sample::select(b"ab# \t\r\n\xff".to_vec()), 0..200)) {
            let built = list(&text);
            let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            let expected: BTreeSet<&[u8]> = lines.filter(|line| !line.is_empty() && line[0] != b'#').collect();
            prop_assert_eq!(built.len(), expected.len());
            prop_assert!(expected.iter().all(|value| built.contains(value)));
            for start in 0..text.len() {
                for end in start..text.len().min(start + 6) {
                    prop_assert_eq!(built.contains(&text[start..end]), expected.contains(&text[start..end]));
                }
            }
        }
    }
}
