//! What may be read while a file changes: each byte old or new, and nothing else.
//!
//! No I/O here. A change that was acknowledged has happened; one that is under way may have
//! happened wholly, partly or not at all.

use std::sync::Arc;

/// One change of a file's contents.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Bytes at a place; what lies between the old end and them reads as zeros.
    Write { at: u64, data: Arc<[u8]> },
    /// The length; what is new reads as zeros.
    Length(u64),
    /// Zeros within the length, which stays.
    Punch { at: u64, len: u64 },
}

/// A part of a file in the state before some changes.
pub(super) struct View {
    /// Where the part begins.
    pub(super) at: u64,
    /// What it holds: ends with the file.
    pub(super) bytes: Vec<u8>,
    /// The length of the whole file.
    pub(super) length: u64,
}

/// What was read and could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Where in the file.
    pub(super) at: u64,
    /// What might have been there. Empty when the file must have ended.
    pub(super) expected: Vec<u8>,
    /// What was there; none when the file ended.
    pub(super) got: Option<u8>,
}

impl Change {
    /// Does it to `bytes`, the whole file.
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { at, data } => {
                let (at, end) = (*at as usize, *at as usize + data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[at..end].copy_from_slice(data);
            }
            Self::Length(length) => bytes.resize(*length as usize, 0),
            Self::Punch { at, len } => {
                let start = (*at as usize).min(bytes.len());
                let end = ((at + len) as usize).min(bytes.len());
                bytes[start..end].fill(0);
            }
        }
    }

    /// The length after it.
    pub(super) fn length_after(&self, length: u64) -> u64 {
        match self {
            Self::Write { at, data } => length.max(at + data.len() as u64),
            Self::Length(new) => *new,
            Self::Punch { .. } => length,
        }
    }

    /// A byte after it, which was `before` when the file was `length` long.
    fn byte_after(&self, at: u64, before: Option<u8>, length: u64) -> Option<u8> {
        match self {
            Self::Write { at: start, data } => match at.checked_sub(*start) {
                Some(index) if index < data.len() as u64 => Some(data[index as usize]),
                None if at >= length => Some(0),
                _ => before,
            },
            Self::Length(new) if at >= *new => None,
            Self::Length(_) => before.or(Some(0)),
            Self::Punch { at: start, len } => {
                before.map(|byte| if at >= *start && at < start + len { 0 } else { byte })
            }
        }
    }

    /// Whether a length between the old and the new one may be seen.
    fn grows_in_steps(&self) -> bool {
        matches!(self, Self::Write { .. })
    }
}

impl View {
    /// Checks a read of at most `wanted` bytes that gave `got`, while or before or after each of
    /// `changes` happened, in their order.
    pub(super) fn check(&self, wanted: u64, changes: &[Change], got: &[u8]) -> Result<(), Wrong> {
        for (index, &byte) in got.iter().enumerate() {
            if self.bytes.get(index) == Some(&byte) {
                continue;
            }
            let at = self.at + index as u64;
            let allowed = self.values(at, changes);
            if !allowed.contains(&Some(byte)) {
                let expected = allowed.into_iter().flatten().collect();
                return Err(Wrong { at, expected, got: Some(byte) });
            }
        }
        if self.may_end(wanted, changes, got.len() as u64) {
            return Ok(());
        }
        let at = self.at + got.len() as u64;
        let expected = self.values(at, changes).into_iter().flatten().collect();
        Err(Wrong { at, expected, got: None })
    }

    /// Each value that the byte at `at` has before, between and after `changes`.
    fn values(&self, at: u64, changes: &[Change]) -> Vec<Option<u8>> {
        let mut value = self.bytes.get((at - self.at) as usize).copied();
        let mut length = self.length;
        let mut values = vec![value];
        for change in changes {
            value = change.byte_after(at, value, length);
            length = change.length_after(length);
            values.push(value);
        }
        values
    }

    /// Whether a read may give as many as `got` bytes of the `wanted`.
    fn may_end(&self, wanted: u64, changes: &[Change], got: u64) -> bool {
        let there = |length: u64| length.saturating_sub(self.at).min(wanted);
        let mut length = self.length;
        let mut fits = there(length) == got;
        for change in changes {
            let next = change.length_after(length);
            fits |= there(next) == got;
            if change.grows_in_steps() {
                fits |= (there(length)..=there(next)).contains(&got);
            }
            length = next;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(bytes: &[u8]) -> View {
        View { at: 0, bytes: bytes.to_vec(), length: bytes.len() as u64 }
    }

    fn write(at: u64, data: &[u8]) -> Change {
        Change::Write { at, data: data.into() }
    }

    #[test]
    fn while_a_write_is_under_way_each_byte_is_old_or_new() {
        let (before, change) = (view(b"aaaa"), [write(1, b"bb")]);
        for allowed in [b"aaaa", b"abaa", b"aaba", b"abba"] {
            assert_eq!(before.check(9, &change, allowed), Ok(()));
        }
        let wrong = before.check(9, &change, b"acaa").unwrap_err();
        assert_eq!((wrong.at, wrong.got), (1, Some(b'c')));
        assert!(before.check(9, &change, b"aaab").is_err(), "beyond the write nothing is new");
        assert!(before.check(9, &[], b"abaa").is_err(), "nothing is under way");
    }

    #[test]
    fn an_acknowledged_change_must_be_there() {
        let mut bytes = b"aaaa".to_vec();
        write(1, b"bb").apply(&mut bytes);
        let wrong = view(&bytes).check(9, &[], b"aaaa").unwrap_err();
        assert_eq!(wrong, Wrong { at: 1, expected: b"b".to_vec(), got: Some(b'a') });
    }

    #[test]
    fn a_file_grows_in_steps_and_is_cut_at_once() {
        let (before, longer) = (view(b"aa"), [write(2, b"bbb")]);
        for allowed in [&b"aa"[..], b"aab", b"aabb", b"aabbb"] {
            assert_eq!(before.check(9, &longer, allowed), Ok(()));
        }
        assert!(before.check(9, &longer, b"a").is_err(), "a write takes nothing away");
        assert!(before.check(9, &longer, b"aa\0").is_err(), "what was never written is not seen");
        let cut = [Change::Length(0)];
        assert!(before.check(9, &cut, b"").is_ok());
        assert!(before.check(9, &cut, b"a").is_err());
        assert!(before.check(1, &[], b"a").is_ok(), "no more was wanted");
    }

    #[test]
    fn gaps_holes_and_lengths_give_zeros() {
        let mut bytes = b"ab".to_vec();
        for change in [write(4, b"c"), Change::Punch { at: 1, len: 9 }, Change::Length(6)] {
            change.apply(&mut bytes);
        }
        assert_eq!(bytes, b"a\0\0\0\0\0");
        let gap = [write(4, b"c")];
        assert_eq!(view(b"ab").check(9, &gap, b"ab\0\0c"), Ok(()));
        assert!(view(b"ab").check(9, &gap, b"abx\0c").is_err());
    }

    #[test]
    fn a_read_that_spans_several_changes_may_see_any_of_them() {
        let changes = [write(0, b"b"), Change::Length(0), write(0, b"cc")];
        for allowed in [&b"aa"[..], b"ba", b"", b"c", b"cc", b"ca"] {
            assert_eq!(view(b"aa").check(9, &changes, allowed), Ok(()), "{allowed:?}");
        }
        assert!(view(b"aa").check(9, &changes, b"dd").is_err());
    }

    #[test]
    fn a_part_is_checked_where_it_lies() {
        let part = View { at: 2, bytes: b"cd".to_vec(), length: 4 };
        assert_eq!(part.check(2, &[write(3, b"x")], b"cx"), Ok(()));
        assert_eq!(part.check(9, &[], b"cx").unwrap_err().at, 3);
        let beyond = View { at: 9, bytes: Vec::new(), length: 4 };
        assert_eq!(beyond.check(5, &[], b""), Ok(()));
    }
}
