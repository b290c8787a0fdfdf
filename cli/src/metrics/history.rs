//! What some numbers of a daemon's document were over the last hour: for the page.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

/// So often they are looked at, in seconds.
pub(super) const EVERY_SECONDS: u64 = 10;

/// For so long they are kept.
const KEPT: usize = 3600 / EVERY_SECONDS as usize + 1;

/// The numbers at `names`, at the times that are kept.
#[derive(Debug, Serialize)]
pub(super) struct History {
    /// Pointers into the document.
    names: &'static [&'static str],
    /// The time, in seconds since 1970, and each number, or none where there was none. Oldest first.
    samples: VecDeque<(f64, Vec<Option<f64>>)>,
}

impl History {
    pub(super) fn new(names: &'static [&'static str]) -> Self {
        Self { names, samples: VecDeque::with_capacity(KEPT) }
    }

    /// Notes the numbers as they are now.
    pub(super) fn note(&mut self, document: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = |name: &&str| document.pointer(name).and_then(Value::as_f64);
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back((now.as_secs_f64(), self.names.iter().map(number).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept() {
        let mut history = History::new(&["/a", "/b/c"]);
        for n in 0..400 {
            history.note(&serde_json::json!({ "a": n }));
        }
        assert_eq!(history.samples.len(), 361);
        assert_eq!(history.samples[0].1, [Some(39.0), None]);
        let told = serde_json::to_value(&history).unwrap();
        assert_eq!(told["samples"][360][1][0], 399.0);
    }
}
