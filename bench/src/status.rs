//! What the two daemons say about themselves, as far as it is needed here.

use serde::Deserialize;

use crate::buckets::Buckets;

/// `rampool status MOUNTPOINT -w json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ClientStatus {
    /// The local cache.
    pub(crate) cache: CacheStatus,
    /// Reads by the slowest layer that took part in each.
    pub(crate) layers: Layers,
    /// What is lent out.
    pub(crate) remote: RemoteStatus,
}

/// The local cache.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CacheStatus {
    /// Blocks in it now.
    pub(crate) blocks: u64,
    /// Blocks that fit.
    pub(crate) capacity_blocks: u64,
    /// Bytes that are kept for a block besides its contents.
    pub(crate) metadata_bytes_per_block: f64,
}

/// The three layers.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Layers {
    /// Answered from the local cache.
    pub(crate) local: Layer,
    /// Answered by a server.
    pub(crate) remote: Layer,
    /// Answered by the source.
    pub(crate) source: Layer,
}

/// Reads that one layer answered, since the start.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Layer {
    /// How many.
    pub(crate) reads: u64,
    /// How long they took.
    pub(crate) buckets: Buckets,
}

/// What is lent out.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RemoteStatus {
    /// Blocks sent so far.
    pub(crate) sent_blocks: u64,
    /// Blocks that wait to be sent.
    pub(crate) queued_blocks: u64,
    /// The servers.
    #[serde(default)]
    pub(crate) servers: Vec<ServerState>,
}

/// One server, as the client sees it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServerState {
    /// What it lends; 0 until it is connected.
    pub(crate) capacity_bytes: u64,
    /// What went wrong last.
    pub(crate) last_error: Option<String>,
}

/// `rampool-server status --status-socket PATH -w json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServerStatus {
    /// Bytes of index for a block.
    pub(crate) index_bytes_per_block: f64,
    /// Bytes of blocks that it holds.
    pub(crate) held_bytes: u64,
    /// How much it lends, and why.
    #[serde(default)]
    pub(crate) lending: LendingStatus,
}

/// How much a server lends, and why.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct LendingStatus {
    /// Its last decisions.
    pub(crate) events: Vec<LendingEvent>,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct LendingEvent {
    /// What was done, and why.
    pub(crate) what: String,
}

impl ClientStatus {
    /// Reads by layer after `earlier` was taken.
    pub(crate) fn layers_since(&self, earlier: &Self) -> Layers {
        Layers {
            local: self.layers.local.since(&earlier.layers.local),
            remote: self.layers.remote.since(&earlier.layers.remote),
            source: self.layers.source.since(&earlier.layers.source),
        }
    }

    /// Whether all that was evicted has been sent or dropped, judged against a snapshot taken a
    /// little earlier.
    pub(crate) fn settled_since(&self, earlier: &Self) -> bool {
        self.remote.queued_blocks == 0 && self.remote.sent_blocks == earlier.remote.sent_blocks
    }
}

impl Layers {
    /// Each with its name, from the fastest to the slowest.
    pub(crate) fn each(&self) -> [(&'static str, &Layer); 3] {
        [("local", &self.local), ("remote", &self.remote), ("source", &self.source)]
    }

    /// Reads in all.
    pub(crate) fn reads(&self) -> u64 {
        self.each().iter().map(|(_, layer)| layer.reads).sum()
    }

    /// The part of the reads that `layer` answered, 0 when there were none.
    pub(crate) fn share(&self, layer: &Layer) -> f64 {
        layer.reads as f64 / self.reads().max(1) as f64
    }
}

impl Layer {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(earlier.reads),
            buckets: self.buckets.since(&earlier.buckets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"mountpoint":"/m","source":"/s","pid":7,"uptime_seconds":1.5,
        "cache":{"size_bytes":4096,"arena_bytes":4096,"blocks":1,"capacity_blocks":2,"metadata_bytes_per_block":61.5},
        "reads":{"count":12,"bytes":49152},
        "layers":{"local":{"reads":6,"bytes":1,"latency_us":{"p50":1.0,"p99":2},"buckets":[[1000,6]]},
          "remote":{"reads":3,"bytes":1,"latency_us":{"p50":null,"p99":null},"buckets":[[50000,3]]},
          "source":{"reads":3,"bytes":1,"latency_us":{"p50":1,"p99":2},"buckets":[[90000,3]]}},
        "hit_ratio":{"local":0.5,"remote":0.25,"total":0.75},
        "remote":{"sent_blocks":10,"dropped_blocks":0,"rejected_blocks":0,"lent_blocks":10,"timeouts":0,"late_answers":0,
          "unauthentic_blocks":0,"queued_blocks":0,
          "servers":[{"address":"127.0.0.1:1","state":"up","capacity_bytes":1,"last_error":null}]},
        "memory":{"resident_bytes":1}}"#;

    #[test]
    fn the_documents_are_understood_and_subtracted() {
        let earlier: ClientStatus = serde_json::from_str(DOCUMENT).unwrap();
        let later = DOCUMENT.replace("\"reads\":6", "\"reads\":8").replace("[1000,6]", "[1000,8]");
        let later: ClientStatus = serde_json::from_str(&later).unwrap();
        let layers = later.layers_since(&earlier);
        assert_eq!(layers.reads(), 2);
        assert_eq!(layers.share(&layers.local), 1.0);
        assert_eq!(layers.local.buckets.count(), 2);
        assert!(later.settled_since(&earlier));
        let server: ServerStatus = serde_json::from_str(
            r#"{"index_bytes_per_block":24,"blocks":3,"held_bytes":1,"gets":1,"puts":1,"resident_bytes":1}"#,
        )
        .unwrap();
        assert_eq!(server.index_bytes_per_block, 24.0);
    }
}
