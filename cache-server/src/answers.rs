//! Memory for long answers, used again and again: the allocator would get it from the kernel each time, which clears
//! every page first.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rampool_protocol::block::SealedBlock;
use rampool_protocol::frame::{HEADER_SIZE, RUN_BLOCKS_USUAL};

/// Room for the answer to what clients usually ask for at a time.
const LONG_BYTES: usize = HEADER_SIZE + RUN_BLOCKS_USUAL * (1 + size_of::<SealedBlock>());
/// The allocator keeps what is shorter by itself.
const SHORT_BYTES: usize = 32 << 10;
/// 4 MiB, as much as a few clients have under way.
const KEPT_MAX: usize = 32;

/// Memory that no answer is in.
#[derive(Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<Vec<Vec<u8>>>>);

/// An answer that is being sent; its memory goes back when that is done.
struct Sent {
    answer: Vec<u8>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Answers {
    /// Room for an answer of so many bytes.
    pub(crate) fn room(&self, bytes: usize) -> Vec<u8> {
        if !(SHORT_BYTES..=LONG_BYTES).contains(&bytes) {
            return Vec::with_capacity(bytes);
        }
        self.0.lock().pop().unwrap_or_else(|| Vec::with_capacity(LONG_BYTES))
    }

    /// The answer, to be sent.
    pub(crate) fn finished(&self, answer: Vec<u8>) -> Bytes {
        if answer.capacity() != LONG_BYTES {
            return answer.into();
        }
        Bytes::from_owner(Sent { answer, free: self.0.clone() })
    }
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let mut answer = std::mem::take(&mut self.answer);
        answer.clear();
        let mut free = self.free.lock();
        if free.len() < KEPT_MAX {
            free.push(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_long_answers_is_used_again_and_bounded() {
        let answers = Answers::default();
        let send = |bytes: usize| {
            let mut answer = answers.room(bytes);
            assert!(answer.is_empty() && answer.capacity() >= bytes);
            answer.resize(bytes, 7);
            answers.finished(answer)
        };
        let first = send(LONG_BYTES);
        let place = first.as_ptr();
        let rest = first.slice(5..);
        drop(first);
        assert_ne!(send(LONG_BYTES).as_ptr(), place, "a part of it is under way");
        drop(rest);
        assert_eq!(send(LONG_BYTES - 1).as_ptr(), place);
        drop([(); 2 * KEPT_MAX].map(|()| send(SHORT_BYTES)));
        assert_eq!(answers.0.lock().len(), KEPT_MAX);
        drop((send(10), send(LONG_BYTES + 1)));
        assert_eq!(answers.0.lock().len(), KEPT_MAX);
    }
}
