//! A directory as it must be: which name stands for which file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::File;

const LOG_MAX: usize = 16;

/// What is done to names, in one step each.
#[derive(Clone)]
pub(super) enum NameChange {
    /// A new file, or a further name of a known one.
    Add(String, Arc<File>),
    /// A name goes.
    Remove(String),
    /// The file of the first name has the second from now on, whatever that stood for.
    Rename(String, String),
}

/// The names of one directory. One writer owns it.
pub(super) struct Names {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    names: BTreeMap<String, Arc<File>>,
    pending: Option<NameChange>,
    changes: u64,
    log: VecDeque<String>,
}

/// A moment in the life of a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(u64);

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Arc<File>>) {
        match self {
            Self::Add(name, file) => {
                names.insert(name.clone(), file.clone());
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Add(name, _) => format!("new name {name}"),
            Self::Remove(name) => format!("unlink {name}"),
            Self::Rename(from, to) => format!("rename {from} to {to}"),
        }
    }
}

impl Names {
    /// A directory with these files.
    pub(super) fn new(names: BTreeMap<String, Arc<File>>) -> Self {
        Self { inner: Mutex::new(Inner { names, ..Inner::default() }) }
    }

    /// All names with their files.
    pub(super) fn all(&self) -> Vec<(String, Arc<File>)> {
        self.lock().names.iter().map(|(name, file)| (name.clone(), file.clone())).collect()
    }

    /// How many names a file has.
    pub(super) fn links(&self, file: &Arc<File>) -> u64 {
        self.lock().names.values().filter(|other| Arc::ptr_eq(other, file)).count() as u64
    }

    /// The file of a name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<File>> {
        self.lock().names.get(name).cloned()
    }

    /// The moment, if nothing is under way.
    pub(super) fn moment(&self) -> Option<Moment> {
        let inner = self.lock();
        inner.pending.is_none().then_some(Moment(inner.changes))
    }

    /// A change begins.
    pub(super) fn begin(&self, change: NameChange) {
        let mut inner = self.lock();
        if inner.log.len() == LOG_MAX {
            inner.log.pop_front();
        }
        inner.log.push_back(change.words());
        inner.pending = Some(change);
        inner.changes += 1;
    }

    /// The change that was under way is acknowledged.
    pub(super) fn acknowledge(&self) {
        let mut inner = self.lock();
        if let Some(change) = inner.pending.take() {
            change.apply(&mut inner.names);
        }
        if let Some(line) = inner.log.back_mut() {
            line.push_str(": acknowledged");
        }
    }

    /// Compares with the names that are there when nothing is under way any more. A change that
    /// was interrupted has happened or not from now on, as it was found.
    pub(super) fn settle(&self, found: &BTreeSet<String>) -> Result<(), String> {
        let mut inner = self.lock();
        if found.iter().eq(inner.names.keys()) {
            inner.pending = None;
            return Ok(());
        }
        let mut after = inner.names.clone();
        if let Some(change) = &inner.pending {
            change.apply(&mut after);
        }
        if found.iter().eq(after.keys()) {
            inner.names = after;
            inner.pending = None;
            return Ok(());
        }
        let missing: Vec<_> = after.keys().filter(|name| !found.contains(*name)).collect();
        let added: Vec<_> = found.iter().filter(|name| !after.contains_key(*name)).collect();
        Err(format!("names that are missing: {missing:?}; that should not be there: {added:?}"))
    }

    /// The last changes, the newest last.
    pub(super) fn log(&self) -> Vec<String> {
        self.lock().log.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn directory(present: &[&str]) -> Names {
        let files = present.iter().map(|&name| (name.to_owned(), Arc::new(File::new(Vec::new()))));
        Names::new(files.collect())
    }

    #[test]
    fn an_interrupted_rename_is_whole_or_not_at_all() {
        let change = || NameChange::Rename("a".to_owned(), "b".to_owned());
        for (found, right) in
            [(&["a", "b"][..], true), (&["b"], true), (&["a"], false), (&[], false)]
        {
            let directory = directory(&["a", "b"]);
            let a = directory.get("a").unwrap();
            directory.begin(change());
            assert_eq!(directory.settle(&names(found)).is_ok(), right, "{found:?}");
            if found == ["b"] {
                assert!(Arc::ptr_eq(&directory.get("b").unwrap(), &a));
            }
        }
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let directory = directory(&["a"]);
        directory.begin(NameChange::Remove("a".to_owned()));
        assert!(directory.moment().is_none(), "something is under way");
        directory.acknowledge();
        assert!(directory.settle(&names(&["a"])).is_err());
        assert!(directory.settle(&names(&[])).is_ok());
        let file = Arc::new(File::new(Vec::new()));
        directory.begin(NameChange::Add("c".to_owned(), file.clone()));
        directory.acknowledge();
        assert_eq!(directory.links(&file), 1);
        assert!(directory.settle(&names(&[])).unwrap_err().contains("\"c\""));
    }
}
