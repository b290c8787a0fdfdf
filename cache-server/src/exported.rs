//! What a server tells Prometheus: numbers of the document in `status.rs`.

use rampool_cli::metrics::Metric;

const CLIENT: &[(&str, &str)] = &[("client", "name"), ("mount", "mount")];
const DOMAIN: &[(&str, &str)] = &[("domain", "name")];

/// What the page shows of the last hour.
pub(crate) const HISTORY: &[&str] =
    &["/gets/blocks", "/gets/hits", "/held_bytes", "/lending/allowed_bytes"];

/// All of it.
pub(crate) const METRICS: &[Metric] = &[
    Metric::gauge("rampool_lender_state_info", "/lending/state", "lending, pausing or draining"),
    Metric::gauge("rampool_lender_uptime_seconds", "/uptime_seconds", "Since it was started"),
    Metric::gauge("rampool_lender_lend_max_bytes", "/lend_bytes", "The most that it would lend"),
    Metric::gauge("rampool_lender_allowed_bytes", "/lending/allowed_bytes", "What it may lend now"),
    Metric::gauge(
        "rampool_lender_capacity_bytes",
        "/lending/capacity_bytes",
        "What its clients are told that it may grow to",
    ),
    Metric::gauge("rampool_lender_held_bytes", "/held_bytes", "Blocks that it holds"),
    Metric::gauge("rampool_lender_resident_bytes", "/resident_bytes", "Of that, what is in memory"),
    Metric::gauge(
        "rampool_lender_index_bytes",
        "/index_bytes",
        "Memory of its own, full, to find them",
    ),
    Metric::gauge(
        "rampool_lender_domain_free_bytes",
        "/lending/domains/*/free_bytes",
        "Memory that is free on the machine, or in a limited group of it",
    )
    .of_each(DOMAIN),
    Metric::gauge(
        "rampool_lender_domain_keep_free_bytes",
        "/lending/domains/*/keep_free_bytes",
        "What is to stay free there",
    )
    .of_each(DOMAIN),
    Metric::counter("rampool_lender_get_requests_total", "/gets/requests", "Requests for blocks"),
    Metric::counter("rampool_lender_get_blocks_total", "/gets/blocks", "Blocks asked for"),
    Metric::counter(
        "rampool_lender_get_hits_total",
        "/gets/hits",
        "Of those, blocks that were here",
    ),
    Metric::counter(
        "rampool_lender_vanished_blocks_total",
        "/gets/vanished",
        "Blocks that the kernel took before they were asked for",
    ),
    Metric::counter("rampool_lender_put_requests_total", "/puts/requests", "Requests with blocks"),
    Metric::counter("rampool_lender_stored_blocks_total", "/puts/stored", "Blocks that were kept"),
    Metric::counter(
        "rampool_lender_rejected_blocks_total",
        "/puts/rejected",
        "Blocks without room",
    ),
    Metric::counter(
        "rampool_lender_evicted_blocks_total",
        "/evicted_blocks",
        "Blocks that made room for others",
    ),
    Metric::counter(
        "rampool_lender_given_back_blocks_total",
        "/given_back_blocks",
        "Blocks that went when their memory was given back",
    ),
    Metric::counter(
        "rampool_lender_second_chances_total",
        "/second_chances",
        "Blocks that stayed because they had been asked for",
    ),
    Metric::gauge(
        "rampool_lender_request_seconds",
        "/latency_us/{request}/{statistic}",
        "What it took to serve a get or a put, without the network",
    )
    .from_micros(),
    Metric::gauge(
        "rampool_lender_client_held_bytes",
        "/clients/*/held_bytes",
        "Memory of a client's mount",
    )
    .of_each(CLIENT),
    Metric::gauge("rampool_lender_member_info", "/members/*/state", "Other servers of the pool")
        .of_each(&[("server", "address")]),
    Metric::gauge(
        "rampool_lender_certificate_expires_timestamp_seconds",
        "/certificate_expires",
        "When the server's certificate expires, since 1970",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_what_is_told() {
        let documented = include_str!("../../docs/metrics.md");
        let table = rampool_cli::metrics::table(METRICS);
        assert!(
            documented.contains(&table),
            "into docs/metrics.md: rampool-server generate metrics"
        );
    }
}
