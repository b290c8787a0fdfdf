//! The bars: what must hold on any machine, as measured against wanted.

use serde::Serialize;

use super::report::Report;

/// One bar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Bar {
    pub(crate) what: &'static str,
    /// NaN (null in JSON) when it could not be measured: then it is missed.
    pub(crate) measured: f64,
    pub(crate) wanted: Wanted,
    pub(crate) holds: bool,
}

/// On which side of a limit a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

const MIB: f64 = 1024.0 * 1024.0;

/// All bars for what was measured.
pub(super) fn bars(report: &Report) -> Vec<Bar> {
    let [one, four, sequential] = [0, 1, 2].map(|load| report.hits[load].ratio);
    let cold = &report.cold;
    let memory = &report.memory;
    let cache_mib = memory.cache_bytes as f64 / MIB;
    vec![
        bar("local hit / null FUSE, 4 KiB, 1 job", one, Wanted::AtLeast(0.90)),
        bar("local hit / null FUSE, 4 KiB, 4 jobs", four, Wanted::AtLeast(0.85)),
        bar("local hit / null FUSE, 1 MiB sequential", sequential, Wanted::AtLeast(0.90)),
        bar("remote hit / (null FUSE + QUIC echo), p50", report.remote.ratio, Wanted::AtMost(1.3)),
        bar("64 remote hits at a time / bare QUIC", report.busy.ratio, Wanted::AtLeast(0.6)),
        bar(
            "1 MiB in sequence from a server / bare QUIC",
            report.busy.long_ratio,
            Wanted::AtLeast(0.7),
        ),
        bar(
            "cold miss beyond null FUSE and O_DIRECT, p50, us",
            cold.excess_us,
            Wanted::AtMost(10.0),
        ),
        bar(
            "resident size of the client, cache full, MiB",
            memory.resident_bytes as f64 / MIB,
            Wanted::AtMost(cache_mib * 1.05 + 64.0),
        ),
        bar("server's index, bytes a block", memory.server_bytes_per_block, Wanted::AtMost(40.0)),
    ]
}

fn bar(what: &'static str, measured: f64, wanted: Wanted) -> Bar {
    // Not a number is on neither side.
    let holds = match wanted {
        Wanted::AtLeast(limit) => measured >= limit,
        Wanted::AtMost(limit) => measured <= limit,
    };
    Bar { what, measured, wanted, holds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_holds_on_its_side_and_at_its_limit() {
        assert!(bar("x", 0.9, Wanted::AtLeast(0.9)).holds);
        assert!(!bar("x", 0.899, Wanted::AtLeast(0.9)).holds);
        assert!(bar("x", 1.5, Wanted::AtMost(1.5)).holds);
        assert!(!bar("x", 1.501, Wanted::AtMost(1.5)).holds);
    }

    #[test]
    fn what_could_not_be_measured_is_missed() {
        assert!(!bar("x", f64::NAN, Wanted::AtLeast(0.0)).holds);
        assert!(!bar("x", f64::NAN, Wanted::AtMost(1e9)).holds);
    }
}
