//! What was lent against what was written: see `crate::races`.

use std::sync::{Arc, Mutex};

use super::lent::{Lent, LentTable, ServerIndex};
use super::seal::SealCount;
use crate::block::{BlockIndex, BlockKey, FileKey};
use crate::epochs::Epochs;
use crate::races::{any, check};

const KEY: BlockKey = BlockKey { file: FileKey(1), index: BlockIndex(0) };

struct Lending {
    epochs: Epochs,
    lent: LentTable,
    /// What the source holds, and what was sealed under each count.
    source: Mutex<u64>,
    sealed: Mutex<Vec<u64>>,
    /// The last write that was acknowledged; they come one after the other, as numbers.
    acknowledged: Mutex<u64>,
}

impl Lending {
    fn write(&self, value: u64) {
        let writing = self.epochs.begin(KEY);
        self.lent.forget(KEY);
        *self.source.lock().unwrap() = value;
        drop(writing);
        *self.acknowledged.lock().unwrap() = value;
    }

    /// Evicts the block in the state that the source holds, and has a server store it.
    fn lend(&self) {
        let Some(seen) = self.epochs.observe(KEY) else { return };
        let value = *self.source.lock().unwrap();
        if !self.epochs.unchanged(seen) {
            // Was never cached.
            return;
        }
        let count = {
            let mut sealed = self.sealed.lock().unwrap();
            sealed.push(value);
            SealCount(sealed.len() as u64)
        };
        shuttle::thread::yield_now();
        let lent = Lent { server: ServerIndex(0), count };
        self.lent.insert_if(KEY, lent, || self.epochs.unchanged(seen));
    }

    fn read(&self) {
        let oldest = *self.acknowledged.lock().unwrap();
        if let Some(lent) = self.lent.get(KEY) {
            let value = self.sealed.lock().unwrap()[lent.count.0 as usize - 1];
            assert!(value >= oldest, "{value} was lent, {oldest} acknowledged");
            if any(2) == 0 {
                self.lent.forget_this(KEY, lent);
            }
        }
    }
}

#[test]
fn no_older_state_is_asked_for_once_a_write_is_acknowledged() {
    check(|| {
        let lending = Arc::new(Lending {
            epochs: Epochs::new(),
            lent: LentTable::new(0),
            source: Mutex::new(0),
            sealed: Mutex::default(),
            acknowledged: Mutex::new(0),
        });
        let spawn = |act: fn(&Lending)| {
            let lending = lending.clone();
            shuttle::thread::spawn(move || act(&lending))
        };
        let threads = [
            spawn(|lending| (1..4).for_each(|value| lending.write(value))),
            spawn(|lending| (0..3).for_each(|_| lending.lend())),
            spawn(|lending| (0..2).for_each(|_| lending.lend())),
            spawn(|lending| (0..3).for_each(|_| lending.read())),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        lending.read();
        let held = usize::from(lending.lent.get(KEY).is_some());
        assert_eq!(lending.lent.len(), held, "counted as they are held");
    });
}
