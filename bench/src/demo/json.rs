//! What the demo saw, for programs.

use serde_json::{Value, json};

use super::report::Seen;
use crate::status::Layers;

/// One document with all figures.
pub(super) fn document(seen: &Seen<'_>) -> Value {
    let Seen { source, whole, rounds, tally, .. } = seen;
    json!({
        "source": source.root,
        "whole_files": {
            "listed": source.files.len(),
            "compared": whole.files,
            "unreadable": whole.unreadable,
            "bytes": whole.bytes,
            "seconds": whole.elapsed.as_secs_f64(),
        },
        "random_blocks": rounds.blocks,
        "rounds": rounds.rounds.iter().map(|round| json!({
            "seconds": round.elapsed.as_secs_f64(),
            "layers": layers(&round.layers),
        })).collect::<Vec<_>>(),
        "with_server": layers(&rounds.with_server),
        "after_kill": {
            "reads": rounds.kill.reads,
            "longest_us": rounds.kill.longest_us,
            "from_source": rounds.kill.from_source,
            "errors": rounds.kill.errors,
        },
        "compared_bytes": tally.compared_bytes(),
        "mismatches": tally.mismatches(),
        "errors": tally.errors(),
        "first": tally.first(),
    })
}

fn layers(layers: &Layers) -> Value {
    let named = layers.each().map(|(name, layer)| {
        let figures = json!({
            "reads": layer.reads,
            "share": layers.share(layer),
            "p50_us": layer.buckets.quantile_us(0.5),
            "mean_us": layer.buckets.mean_us(),
            "p99_us": layer.buckets.quantile_us(0.99),
        });
        (name.to_owned(), figures)
    });
    Value::Object(named.into_iter().collect())
}
