//! What a mount with a key file leaves for its next run: which state of which file its blocks are of. A file that has
//! changed since has another stamp, and nothing of it is found.

use crate::block::FileKey;
use crate::contents;
use crate::filesystem::Filesystem;
use crate::inodes::{Inodes, Known};
use crate::remote::{Left, Note};
use crate::source::{Identity, Stamp};

/// Saves it. Nobody uses the mount any more.
pub(crate) fn save(filesystem: &Filesystem) {
    if !filesystem.remote.is_kept() {
        return;
    }
    // A stamp that another change may leave as it is would hide what is done to the file before the next run.
    let known = filesystem.inodes.known_contents().into_iter();
    let notes = known.filter(|known| contents::is_settled(&known.stamp)).map(note).collect();
    match filesystem.remote.save(notes, || contents::next_key().0) {
        Ok(blocks) => tracing::info!("{blocks} blocks are lent and may be found again"),
        Err(error) => tracing::warn!(%error, "nothing of what is lent will be found again"),
    }
}

/// Takes what the run before has left.
pub(crate) fn restore(left: Left, inodes: &Inodes) {
    contents::continue_keys(FileKey(left.next_key));
    for note in left.notes {
        inodes.remember(known(note));
    }
}

fn note(Known { identity, key, stamp }: Known) -> Note {
    let [a, b, c, d, e] = stamp.to_words();
    [identity.device, identity.inode, key.0, a, b, c, d, e]
}

fn known([device, inode, key, a, b, c, d, e]: Note) -> Known {
    let stamp = Stamp::from_words([a, b, c, d, e]);
    Known { identity: Identity { device, inode }, key: FileKey(key), stamp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_all_that_is_known() {
        let before: Note = [1, 2, 3, u64::MAX, 999_999_999, 6, 7, 8];
        assert_eq!(note(known(before)), before);
    }
}
