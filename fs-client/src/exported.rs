//! What a mount tells Prometheus: numbers of the document in `status.rs`.

use rampool_cli::metrics::Metric;

const SERVER: &[(&str, &str)] = &[("server", "address")];

/// What the page shows of the last hour.
pub(crate) const HISTORY: &[&str] = &[
    "/layers/local/reads",
    "/layers/remote/reads",
    "/layers/source/reads",
    "/remote/lent_blocks",
    "/cache/blocks",
];

/// All of it.
pub(crate) const METRICS: &[Metric] = &[
    Metric::gauge("rampool_mount_info", "/mountpoint", "The mount"),
    Metric::gauge("rampool_source_info", "/source", "The directory that is mounted"),
    Metric::gauge("rampool_uptime_seconds", "/uptime_seconds", "Since it was mounted"),
    Metric::counter(
        "rampool_reads_total",
        "/layers/{layer}/reads",
        "Reads, by the slowest layer that they needed: local, remote or source",
    ),
    Metric::counter(
        "rampool_read_bytes_total",
        "/layers/{layer}/bytes",
        "Bytes of blocks that came from a layer",
    ),
    Metric::histogram(
        "rampool_read_seconds",
        "/layers/{layer}/buckets",
        "What reads took, from the request to the answer; the sum is within 3 %",
    ),
    Metric::gauge("rampool_cache_size_bytes", "/cache/size_bytes", "Memory for the local cache"),
    Metric::gauge("rampool_cache_blocks", "/cache/blocks", "Blocks of 4 KiB in the local cache"),
    Metric::gauge(
        "rampool_cache_capacity_blocks",
        "/cache/capacity_blocks",
        "Blocks that have room",
    ),
    Metric::gauge(
        "rampool_cache_pinned_blocks",
        "/cache/pinned_blocks",
        "Blocks of those that stay",
    ),
    Metric::gauge("rampool_known_inodes", "/cache/known_inodes", "Files that the kernel knows"),
    Metric::gauge("rampool_resident_bytes", "/memory/resident_bytes", "Memory of the daemon"),
    Metric::gauge(
        "rampool_demand_hit_ratio",
        "/demand/*/hit_ratio",
        "Estimate: the share of reads in no order that caches of this size would answer",
    )
    .of_each(&[("cache_bytes", "cache_bytes")]),
    Metric::gauge(
        "rampool_lent_blocks",
        "/remote/lent_blocks",
        "Blocks believed to be with servers",
    ),
    Metric::gauge("rampool_queued_blocks", "/remote/queued_blocks", "Blocks that wait to be sent"),
    Metric::gauge("rampool_waiting_reads", "/remote/waiting_reads", "Reads that wait for servers"),
    Metric::counter("rampool_sent_blocks_total", "/remote/sent_blocks", "Blocks sent to servers"),
    Metric::counter(
        "rampool_dropped_blocks_total",
        "/remote/dropped_blocks",
        "Blocks that were not sent: too many waited, or no server took any",
    ),
    Metric::counter(
        "rampool_rejected_blocks_total",
        "/remote/rejected_blocks",
        "Blocks that a server had no room for",
    ),
    Metric::counter(
        "rampool_missed_blocks_total",
        "/remote/missed_blocks",
        "Blocks that a server was asked for and did not have any more",
    ),
    Metric::counter("rampool_timeouts_total", "/remote/timeouts", "Requests past their deadline"),
    Metric::counter(
        "rampool_late_answers_total",
        "/remote/late_answers",
        "Answers that came later",
    ),
    Metric::counter(
        "rampool_hedged_reads_total",
        "/remote/hedged_reads",
        "Reads for which the source was asked as well, because a server was late",
    ),
    Metric::counter(
        "rampool_unauthentic_blocks_total",
        "/remote/unauthentic_blocks",
        "Blocks from servers that were not what had been sent there",
    ),
    Metric::gauge(
        "rampool_source_answer_seconds",
        "/remote/source_us/{length}/{statistic}",
        "What the source takes lately for short, medium and long reads",
    )
    .from_micros(),
    Metric::gauge("rampool_server_info", "/remote/servers/*/state", "How a server stands")
        .of_each(SERVER),
    Metric::gauge(
        "rampool_server_capacity_bytes",
        "/remote/servers/*/capacity_bytes",
        "What it lends",
    )
    .of_each(SERVER),
    Metric::gauge(
        "rampool_server_answer_seconds",
        "/remote/servers/*/answers_us/{statistic}",
        "What it takes lately to answer a short request",
    )
    .of_each(SERVER)
    .from_micros(),
    Metric::gauge(
        "rampool_certificate_expires_timestamp_seconds",
        "/certificate_expires",
        "When the mount's certificate expires, since 1970",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_what_is_told() {
        let documented = include_str!("../../docs/metrics.md");
        let table = rampool_cli::metrics::table(METRICS);
        assert!(documented.contains(&table), "into docs/metrics.md: rampool generate metrics");
    }
}
