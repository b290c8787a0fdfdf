//! The tables, and the document.

use rampool_cli::size::ByteSize;
use serde::Serialize;

use super::bars::{Bar, bars, median};
use super::scenarios::Run;
use super::service::Service;
use super::stage::{Layout, Way};
use crate::cli::Lending;
use crate::table::{grouped, table, us, verdict};

/// All that was found.
#[derive(Serialize)]
pub(super) struct Report {
    memory_bytes: u64,
    disk_iops: u32,
    seconds: u32,
    bars: Vec<Bar>,
    pub(super) runs: Vec<Run>,
}

impl Report {
    pub(super) fn new(options: &Lending, runs: Vec<Run>) -> Self {
        let bars = Layout::ALL.into_iter().flat_map(|layout| bars(&runs, layout)).collect();
        Self {
            memory_bytes: options.memory.bytes(),
            disk_iops: options.disk_iops,
            seconds: options.seconds,
            bars,
            runs,
        }
    }

    /// Whether every bar does.
    pub(super) fn all_hold(&self) -> bool {
        self.bars.iter().all(|bar| bar.holds)
    }

    /// For people.
    pub(super) fn print(&self) {
        println!(
            "A lender of {}, disks of {} reads a second; medians.",
            ByteSize(self.memory_bytes),
            grouped(u64::from(self.disk_iops))
        );
        for layout in Layout::ALL {
            if self.of(Way::Nothing, layout).is_empty() {
                continue;
            }
            println!("\nServer and owner {}\n", layout.name());
            self.print_layout(layout);
        }
        let mut table = table(&["bar", "", "wanted", "measured", "holds"], 2);
        for bar in &self.bars {
            let sign = if bar.is_most { "at most" } else { "at least" };
            table.add_row([
                bar.what.clone().into(),
                bar.layout.name().into(),
                format!("{sign} {}", bar.wanted).into(),
                number(bar.measured, 2).into(),
                verdict(bar.holds),
            ]);
        }
        println!("\n{table}");
    }

    fn print_layout(&self, layout: Layout) {
        let mut one = table(
            &["1: malloc in steps of 8 MiB", "runs", "lent before", "mean", "worst", "killed"],
            1,
        );
        let mut two = table(
            &["2: the lender's reads, after", "10 s", "20 s", "30 s", "lent before", "lent after"],
            1,
        );
        let mut four = table(&["4: both at once, reads a second", "lender", "client"], 1);
        let mut three = table(&["3: 90 % lent again after the lender's reads", "seconds"], 1);
        for way in Way::ALL {
            let runs = self.of(way, layout);
            if runs.is_empty() {
                continue;
            }
            let of =
                |figure: &dyn Fn(&Run) -> Option<f64>| median(runs.iter().map(|run| figure(run)));
            let size = |figure: &dyn Fn(&Run) -> u64| {
                ByteSize(of(&|run| Some(figure(run) as f64)).unwrap_or(0.0) as u64).to_string()
            };
            let kills: u64 = runs.iter().map(|run| run.allocation.oom_kills).sum();
            one.add_row([
                way.name().to_owned(),
                runs.len().to_string(),
                size(&|run| run.allocation.lent_before),
                us(of(&|run| run.allocation.mean_us)),
                us(of(&|run| run.allocation.worst_us)),
                kills.to_string(),
            ]);
            let mark = |n: usize| {
                let reads = of(&|run| run.turns.reads_at_marks.get(n).copied());
                reads.map_or("-".to_owned(), |reads| grouped(reads as u64))
            };
            two.add_row([
                way.name().to_owned(),
                mark(0),
                mark(1),
                mark(2),
                size(&|run| run.turns.lent_before),
                size(&|run| run.turns.lent_after),
            ]);
            if way.is_lent() {
                let regained = of(&|run| run.turns.regained_seconds);
                three.add_row([way.name().to_owned(), number(regained, 1)]);
            }
            let per_second = |figure: &dyn Fn(&Run) -> f64| {
                grouped(of(&|run| Some(figure(run))).unwrap_or(0.0) as u64)
            };
            four.add_row([
                way.name().to_owned(),
                per_second(&|run| run.at_once.lender_per_second),
                per_second(&|run| run.at_once.client_per_second),
            ]);
        }
        println!("{one}\n\n{two}\n\n{three}\n\n{four}");
        self.print_service(layout);
    }

    fn print_service(&self, layout: Layout) {
        let mut table = table(&["a lender at work: Redis", "sets/s", "p99", "gets/s", "p99"], 1);
        for way in Way::ALL {
            let runs = self.of(way, layout);
            let services: Vec<_> = runs.iter().filter_map(|run| run.service).collect();
            if services.is_empty() {
                continue;
            }
            let of = |figure: fn(&Service) -> f64| {
                median(services.iter().map(|service| Some(figure(service)))).unwrap_or(0.0)
            };
            table.add_row([
                way.name().to_owned(),
                grouped(of(|service| service.sets.per_second) as u64),
                us(Some(of(|service| service.sets.p99_ms) * 1000.0)),
                grouped(of(|service| service.gets.per_second) as u64),
                us(Some(of(|service| service.gets.p99_ms) * 1000.0)),
            ]);
        }
        if table.row_iter().next().is_some() {
            println!("\n{table}");
        }
    }

    fn of(&self, way: Way, layout: Layout) -> Vec<&Run> {
        self.runs.iter().filter(|run| run.way == way && run.layout == layout).collect()
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("never".to_owned(), |value| format!("{value:.digits$}"))
}
