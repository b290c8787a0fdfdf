//! One file that all writers append to at the same time: each acknowledged record must be there
//! once and in one piece. What the kill interrupted may be there too, at the end perhaps in part.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

/// Its name below the source.
pub(super) const NAME: &str = "shared";

/// What has been appended since the file was last empty.
#[derive(Default)]
pub(super) struct Shared {
    records: Mutex<BTreeMap<Id, Record>>,
}

/// Which record: it stands at its beginning, then the length, then bytes that follow from it.
type Id = u64;

#[derive(Clone, Copy)]
struct Record {
    len: u32,
    acknowledged: bool,
}

const HEAD_BYTES: usize = 12;

impl Shared {
    /// A new record of `len` bytes, to be appended now.
    pub(super) fn begin(&self, id: Id, len: u32) -> Vec<u8> {
        self.lock().insert(id, Record { len, acknowledged: false });
        bytes(id, len)
    }

    /// It was acknowledged.
    pub(super) fn acknowledge(&self, id: Id) {
        if let Some(record) = self.lock().get_mut(&id) {
            record.acknowledged = true;
        }
    }

    /// The file is empty from now on.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Compares with the whole file, when nothing is under way.
    pub(super) fn check(&self, file: &[u8]) -> Result<(), String> {
        let mut left = self.lock().clone();
        let mut rest = file;
        while let Some((id, len)) = head(rest) {
            let Some(record) = left.get(&id) else { break };
            let len = len as usize;
            if record.len as usize != len
                || rest.len() < len
                || rest[..len] != bytes(id, record.len)
            {
                break;
            }
            left.remove(&id);
            rest = &rest[len..];
        }
        if let Some((id, _)) = left.iter().find(|(_, record)| record.acknowledged) {
            return Err(format!("the acknowledged record {id:#x} is not there in one piece"));
        }
        if is_torn(rest, &left) {
            return Ok(());
        }
        let at = file.len() - rest.len();
        Err(format!("offset {at}: what stands there was never appended, or appended twice"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `rest` consists of beginnings of interrupted records, each used once.
fn is_torn(rest: &[u8], interrupted: &BTreeMap<Id, Record>) -> bool {
    rest.is_empty()
        || interrupted.iter().any(|(&id, record)| {
            let whole = bytes(id, record.len);
            let common = rest.iter().zip(&whole).take_while(|(a, b)| a == b).count();
            let mut others = interrupted.clone();
            others.remove(&id);
            common > 0 && is_torn(&rest[common..], &others)
        })
}

fn head(file: &[u8]) -> Option<(Id, u32)> {
    let (id, rest) = file.split_first_chunk()?;
    let (len, _) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*id), u32::from_le_bytes(*len)))
}

fn bytes(id: Id, len: u32) -> Vec<u8> {
    let mut bytes = vec![0; (len as usize).max(HEAD_BYTES)];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    bytes[8..HEAD_BYTES].copy_from_slice(&len.to_le_bytes());
    SmallRng::seed_from_u64(id).fill_bytes(&mut bytes[HEAD_BYTES..]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_whole_and_there_once_and_only_the_interrupted_may_be_torn() {
        let shared = Shared::default();
        let (a, b, c) = (shared.begin(1, 40), shared.begin(2, 50), shared.begin(3, 60));
        shared.acknowledge(1);
        shared.acknowledge(2);
        let file = |parts: &[&[u8]]| parts.concat();
        assert!(shared.check(&file(&[&a, &b])).is_ok());
        assert!(shared.check(&file(&[&b, &a, &c])).is_ok(), "in any order");
        assert!(shared.check(&file(&[&b, &c, &a])).is_ok(), "finished, though not acknowledged");
        assert!(shared.check(&file(&[&b, &a, &c[..7]])).is_ok(), "torn by the kill");
        assert!(shared.check(&file(&[&a])).unwrap_err().contains("0x2"));
        assert!(shared.check(&file(&[&a, &b[..49]])).is_err());
        assert!(shared.check(&file(&[&a, &b, &a])).is_err(), "twice");
        assert!(shared.check(&file(&[&a, &b, b"\0\0"])).is_err(), "written by nobody");
        shared.clear();
        assert!(shared.check(b"").is_ok());
    }
}
