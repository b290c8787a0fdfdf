//! The figures of one run, as tables and as JSON.

use serde::Serialize;

use super::bars::{Bar, Wanted, bars};
use super::busy::Busy;
use super::cold::Cold;
use super::hits::Hits;
use super::memory::Memory;
use super::remote::Remote;
use crate::cli::Micro;
use crate::placement::Placement;
use crate::table::{percent, table, us, verdict};

/// Everything that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) cpus: usize,
    pub(crate) pinned: bool,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) hits: Vec<Hits>,
    pub(crate) cold: Cold,
    pub(crate) remote: Remote,
    pub(crate) busy: Busy,
    pub(crate) memory: Memory,
    pub(crate) bars: Vec<Bar>,
}

impl Report {
    pub(super) fn new(
        options: &Micro,
        hits: Vec<Hits>,
        cold: Cold,
        remote: Remote,
        busy: Busy,
        memory: Memory,
    ) -> Self {
        let mut report = Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            pinned: options.placement == Placement::Pinned,
            rounds: options.rounds,
            seconds: options.seconds,
            hits,
            cold,
            remote,
            busy,
            memory,
            bars: Vec::new(),
        };
        report.bars = bars(&report);
        report
    }

    /// Whether every bar holds.
    pub(super) fn holds(&self) -> bool {
        self.bars.iter().all(|bar| bar.holds)
    }

    /// Prints the tables, with the bars if they were asked for.
    pub(super) fn print(&self, check: bool) {
        self.print_hits();
        self.print_paths();
        self.print_busy();
        self.print_memory();
        self.print_doubts();
        if check {
            self.print_bars();
        }
    }

    fn print_hits(&self) {
        let header = [
            "local hits",
            "null FUSE",
            "rampool",
            "",
            "ratio",
            "null p50",
            "rampool p50",
            "rampool p99",
        ];
        let mut table = table(&header, 1);
        for row in &self.hits {
            table.add_row([
                row.load.to_owned(),
                format!("{:.0}", row.null),
                format!("{:.0}", row.local),
                row.unit.to_owned(),
                format!("{:.2}", row.ratio),
                us(Some(row.null_p50_us)),
                us(Some(row.local_p50_us)),
                us(Some(row.local_p99_us)),
            ]);
        }
        println!("{table}\n");
    }

    fn print_paths(&self) {
        let (cold, remote) = (&self.cold, &self.remote);
        let mut table = table(&["one read at a time, 4 KiB", "p50", "p99"], 1);
        let mut row = |what: &str, p50: f64, p99: Option<f64>| {
            table.add_row([what.to_owned(), number(p50), p99.map_or_else(String::new, number)]);
        };
        row("null FUSE", cold.null_p50_us, Some(self.hits[0].null_p99_us));
        row("source, O_DIRECT", cold.direct_p50_us, Some(cold.direct_p99_us));
        row("cold miss", cold.cold_p50_us, Some(cold.cold_p99_us));
        row("  beyond null FUSE and O_DIRECT", cold.excess_us, None);
        row("QUIC echo, 4 KiB each way", remote.echo_p50_us, Some(remote.echo_p99_us));
        row("QUIC exchange shaped like a GET", remote.get_p50_us, Some(remote.get_p99_us));
        row("remote hit", remote.remote_p50_us, Some(remote.remote_p99_us));
        println!("{table}");
        println!(
            "A remote hit takes {:.2} times a null FUSE read and a QUIC echo together.\n",
            remote.ratio
        );
    }

    fn print_busy(&self) {
        let busy = &self.busy;
        let mut table = table(&["from a server", "bare QUIC", "rampool", "", "ratio"], 1);
        let mut row = |what: &str, bare: String, ours: String, unit: &str, ratio: f64| {
            let ratio = format!("{ratio:.2}");
            table.add_row([what.to_owned(), bare, ours, unit.to_owned(), ratio]);
        };
        row(
            "4 KiB at random, 64 at a time",
            format!("{:.0}", busy.echo_per_second),
            format!("{:.0}", busy.remote_per_second),
            "a second",
            busy.ratio,
        );
        row(
            "  CPU of the client for each",
            format!("{:.1}", busy.echo_cpu_us),
            format!("{:.1}", busy.client_cpu_us),
            "us",
            busy.client_cpu_us / busy.echo_cpu_us,
        );
        row(
            "1 MiB in sequence",
            format!("{:.0}", busy.long_echo),
            format!("{:.0}", busy.long_remote),
            "MB/s",
            busy.long_ratio,
        );
        println!("{table}\n");
    }

    fn print_memory(&self) {
        let memory = &self.memory;
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / 1024.0 / 1024.0);
        let mut table = table(&["memory", ""], 1);
        table.add_row(["--cache-size", &mib(memory.cache_bytes)]);
        table.add_row(["  filled", &percent(memory.filled)]);
        table.add_row(["client, resident", &mib(memory.resident_bytes)]);
        table.add_row(["client, bookkeeping a block", &bytes(memory.client_bytes_per_block)]);
        table.add_row(["server, index a block", &bytes(memory.server_bytes_per_block)]);
        println!("{table}");
    }

    /// A figure is worth what its reads were: says so where they were not what they should be.
    fn print_doubts(&self) {
        let shares = [
            ("local hits", self.hits[0].local_share, 0.99),
            ("cold misses", self.cold.source_share, 0.99),
            ("remote hits", self.remote.remote_share, 0.8),
            ("the cache when its memory was measured: filled", self.memory.filled, 0.95),
        ];
        for (what, share, enough) in shares {
            if share < enough {
                println!("Doubtful: {what}: {} only.", percent(share));
            }
        }
    }

    fn print_bars(&self) {
        let mut table = table(&["bar", "measured", "wanted", "holds"], 1);
        for bar in &self.bars {
            let (sign, limit) = match bar.wanted {
                Wanted::AtLeast(limit) => (">=", limit),
                Wanted::AtMost(limit) => ("<=", limit),
            };
            table.add_row([
                bar.what.into(),
                format!("{:.2}", bar.measured).into(),
                format!("{sign} {limit:.2}").into(),
                verdict(bar.holds),
            ]);
        }
        println!("\n{table}");
        let missed = self.bars.iter().filter(|bar| !bar.holds).count();
        if missed > 0 {
            println!("{missed} of {} bars missed.", self.bars.len());
        }
    }
}

fn number(value: f64) -> String {
    us(value.is_finite().then_some(value))
}

fn bytes(value: f64) -> String {
    if value.is_finite() { format!("{value:.1} B") } else { "-".to_owned() }
}
