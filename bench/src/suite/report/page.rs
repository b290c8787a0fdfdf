//! The page: one file, nothing fetched from anywhere.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::cells::{Cell, in_order};
use super::draw::{self, Axes, Line};
use super::{number, words};
use crate::suite::figures::Spread;
use crate::suite::plan::Size;
use crate::suite::store::Results;
use crate::table::us;

const STYLE: &str = "
:root { color-scheme: light; --line: #d8d8d8; --soft: #666; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 80rem; padding: 1rem; color: #1a1a1a; background: #fff; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
svg { width: 100%; height: auto; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; } .left { text-align: left; } .hole { color: #a33; text-align: left; white-space: normal; }
.drawings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.legend span { display: inline-block; margin-right: 1rem; } .legend i { display: inline-block; width: 1rem; height: .25rem; margin: 0 .35rem .2rem 0; }
.bar { display: flex; height: .4rem; background: #eee; } .bar span { display: block; height: 100%; }
.local { background: #e69f00; } .remote { background: #d55e00; } .disk { background: #6e6e6e; }
code { font-size: .85rem; overflow-wrap: anywhere; } li { margin: .3rem 0; } summary { cursor: pointer; }
";

/// All of it. `raw` is the name of the file with the figures.
pub(crate) fn page(results: &Results, raw: &str) -> Result<String> {
    let plan = &results.plan;
    let cells = Cell::all(results);
    let sentences = words::sentences(&cells);
    let mut sections = Vec::new();
    for series in in_order(cells.iter().map(|cell| cell.case.workload.name())) {
        let of: Vec<&Cell<'_>> =
            cells.iter().filter(|cell| cell.case.workload.name() == series).collect();
        sections.push(section(&of)?);
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (plan.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (plan.title) }
                @if !plan.about.is_empty() { p { (plan.about) } }
                p.soft {
                    "Every row has " (plan.memory) " of memory for the application, the daemon and the page cache together. "
                    "Figures are medians of " (plan.runs) " runs of " (plan.seconds) " s that take turns, with the least and the most."
                }
                h2 { "In words" }
                @if sentences.is_empty() { p { "Nothing to compare: the plan has no target of rampool beside another one." } }
                ul { @for sentence in &sentences { li { (sentence) } } }
                @for section in &sections { (section) }
                (machine(results))
                (commands(&cells))
                p { "All figures: " a href=(raw) { (raw) } "." }
            }
        }
    };
    Ok(page.into_string())
}

/// One kind of work, under each condition.
fn section(cells: &[&Cell<'_>]) -> Result<Markup> {
    let Some(first) = cells.first() else { return Ok(html! {}) };
    let unit = first.case.workload.unit();
    let mut parts = Vec::new();
    for disk in in_order(cells.iter().map(|cell| cell.disk)) {
        let of: Vec<&Cell<'_>> = cells.iter().copied().filter(|cell| cell.disk == disk).collect();
        let drawings = [
            by_working_set(&of, unit, |cell: &Cell<'_>| cell.per_second())?,
            by_working_set(&of, "p50, us", |cell| Some(cell.latency()?[0]))?,
            by_working_set(&of, "p99, us", |cell| Some(cell.latency()?[1]))?,
            by_working_set(&of, "p99.9, us", |cell| Some(cell.latency()?[2]))?,
        ];
        let timelines = timelines(&of, unit)?;
        parts.push(html! {
            h3 { "Disk: " (disk) }
            @if drawings.iter().any(Option::is_some) { (legend(&of)) }
            div.drawings { @for drawing in drawings.iter().flatten() { (PreEscaped(drawing)) } }
            (table(&of, unit))
            @if !timelines.is_empty() {
                details {
                    summary { "Timelines of the first run" }
                    (legend(&of))
                    div.drawings { @for (title, drawing) in &timelines { div { h4 { (title) } (PreEscaped(drawing)) } } }
                }
            }
        });
    }
    Ok(html! {
        h2 { (first.case.workload.title()) }
        @for part in &parts { (part) }
    })
}

/// Which colour stands for which target.
fn legend(cells: &[&Cell<'_>]) -> Markup {
    html! {
        p.legend {
            @for target in in_order(cells.iter().map(|cell| cell.target)) {
                @let plotters::style::RGBColor(red, green, blue) = draw::colour(target);
                span { i style={ "background:rgb(" (red) "," (green) "," (blue) ")" } {} (target.title()) }
            }
        }
    }
}

/// A line for each target; none where there is but one working set.
fn by_working_set(
    cells: &[&Cell<'_>],
    y: &str,
    value: impl Fn(&Cell<'_>) -> Option<Spread>,
) -> Result<Option<String>> {
    let mut lines: Vec<Line> = Vec::new();
    for cell in cells {
        let Some(spread) = value(cell) else { continue };
        let point = (cell.case.working_set, spread);
        match lines.iter_mut().find(|line| line.target == cell.target) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { target: cell.target, points: vec![point] }),
        }
    }
    if lines.iter().all(|line| line.points.len() < 2) {
        return Ok(None);
    }
    let axes = Axes { x: "working set, times the memory", y, x_in_powers: true };
    draw::lines(&lines, &axes).map(Some)
}

/// What each did over time, by working set.
fn timelines(cells: &[&Cell<'_>], unit: &str) -> Result<Vec<(String, String)>> {
    let mut drawings = Vec::new();
    for set in in_order(cells.iter().map(|cell| cell.case.working_set.to_string())) {
        let of = cells.iter().filter(|cell| cell.case.working_set.to_string() == set);
        let lines: Vec<Line> = of
            .filter(|cell| cell.timeline().len() > 1)
            .map(|cell| {
                let point = |&(at, value): &(f64, f64)| {
                    (at, Spread { least: value, median: value, most: value })
                };
                let points =
                    cell.timeline().iter().filter(|(_, value)| *value > 0.0).map(point).collect();
                Line { target: cell.target, points }
            })
            .collect();
        if !lines.is_empty() {
            let axes = Axes { x: "seconds", y: unit, x_in_powers: false };
            drawings.push((format!("working set {set}x"), draw::lines(&lines, &axes)?));
        }
    }
    Ok(drawings)
}

fn table(cells: &[&Cell<'_>], unit: &str) -> Markup {
    let memory = cells.iter().filter_map(|cell| cell.memory());
    let shown = Shown {
        bytes: cells.iter().any(|cell| cell.bytes_per_second().is_some()),
        latency: cells.iter().any(|cell| cell.latency().is_some()),
        layers: cells.iter().any(|cell| cell.layers().is_some()),
        most_memory: memory.map(|(used, lent)| used.median + lent.median).fold(1.0, f64::max),
    };
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th { "working set" } th.left { "target" } th { (unit) } th { "least to most" }
                        @if shown.bytes { th { "MiB/s" } }
                        @if shown.latency { th { "p50" } th { "p99" } th { "p99.9" } }
                        @if shown.layers { th { "local / remote / source" } }
                        th { "memory + lent" }
                    }
                }
                tbody { @for cell in cells { (row(cell, &shown)) } }
            }
        }
    }
}

/// Which columns have anything in them, and what the longest bar of memory stands for.
struct Shown {
    bytes: bool,
    latency: bool,
    layers: bool,
    most_memory: f64,
}

fn row(cell: &Cell<'_>, shown: &Shown) -> Markup {
    let latency = |n: usize| us(cell.latency().map(|latency| latency[n].median));
    html! {
        tr {
            td { (cell.case.working_set) "x" }
            td.left { (cell.target.title()) }
            @if let Some(spread) = cell.per_second() {
                td { b { (number(spread.median)) } }
                td { (number(spread.least)) " to " (number(spread.most)) }
                @if shown.bytes {
                    td { @if let Some(bytes) = cell.bytes_per_second() { (number(bytes.median / 1048576.0)) } }
                }
                @if shown.latency { td { (latency(0)) } td { (latency(1)) } td { (latency(2)) } }
                @if shown.layers {
                    td { @if let Some(shares) = cell.layers() {
                        (percent(shares.local)) " / " (percent(shares.remote)) " / " (percent(shares.source))
                        (bar(&[("local", shares.local), ("remote", shares.remote), ("disk", shares.source)], 1.0))
                    } }
                }
                @if let Some((used, lent)) = cell.memory() {
                    td {
                        (Size(used.median as u64))
                        @if lent.median > 0.0 { " + " (Size(lent.median as u64)) }
                        (bar(&[("local", used.median), ("remote", lent.median)], shown.most_memory))
                    }
                }
            }
            @if let Some(hole) = cell.hole() { td.hole colspan="8" { (hole) } }
        }
    }
}

/// Parts of `whole` beside each other, each with the name of its colour.
fn bar(parts: &[(&str, f64)], whole: f64) -> Markup {
    html! {
        div.bar {
            @for (name, part) in parts {
                span class=(name) style={ "width:" (format!("{:.1}", part / whole * 100.0)) "%" } {}
            }
        }
    }
}

fn machine(results: &Results) -> Markup {
    let machine = &results.machine;
    let rows = [
        ("system", machine.system.clone()),
        ("kernel", machine.kernel.clone()),
        ("CPU", format!("{} x {}", machine.cpus, machine.cpu)),
        ("memory", Size(machine.memory_bytes).to_string()),
        ("files on", format!("{}, disk {}", machine.filesystem, machine.disk)),
    ];
    html! {
        h2 { "The machine" }
        div.scroll {
            table {
                @for (name, value) in &rows { tr { th.left { (name) } td.left { (value) } } }
                @for (name, value) in &machine.versions { tr { th.left { (name) } td.left { (value) } } }
                @for (name, value) in &machine.settings { tr { th.left { code { (name) } } td.left { (value) } } }
            }
        }
    }
}

fn commands(cells: &[Cell<'_>]) -> Markup {
    html! {
        details {
            summary { "Every command" }
            @for cell in cells {
                p { (cell.case.workload.title()) ", " (cell.case.working_set) "x, " (cell.disk) ", " (cell.target.title()) ":" }
                @for command in cell.commands() { div { code { (command) } } }
            }
        }
    }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::suite::case::Case;
    use crate::suite::figures::{Figures, Latency, Outcome, Shares};
    use crate::suite::machine::Machine;
    use crate::suite::plan::Plan;
    use crate::suite::store::Record;
    use crate::suite::target::Target;

    pub(crate) fn results(working_sets: &str) -> Results {
        let text = r#"
            title = "Known <results>"
            memory = "128M"
            runs = 3
            targets = ["page-cache", "pool", "rclone"]
            [[disk]]
            name = "slow"
            iops = 150
            [[fio]]
            access = ["random"]
            block = ["4K"]
            working-set = SETS
            "#;
        let plan = Plan::parse(&text.replace("SETS", working_sets)).unwrap();
        let machine = Machine {
            system: "s".into(),
            kernel: "6.18".into(),
            cpu: "c".into(),
            cpus: 2,
            memory_bytes: 1 << 30,
            filesystem: "ext4".into(),
            disk: "vda".into(),
            versions: BTreeMap::from([("fio".into(), "fio-3.33".into())]),
            settings: BTreeMap::new(),
        };
        let mut records = Vec::new();
        for case in Case::all(&plan) {
            for run in 1..=3 {
                for (target, per_second) in [(Target::PageCache, 1000.0), (Target::Pool(1), 4100.0)]
                {
                    // The runs differ, and what takes turns differs together.
                    let per_second = per_second * f64::from(run);
                    let figures = Figures {
                        per_second,
                        bytes_per_second: Some(per_second * 4096.0),
                        latency: Some(Latency { p50: 50.0, p99: 500.0, p999: 12_345.0 }),
                        layers: (target == Target::Pool(1)).then_some(Shares {
                            local: 0.25,
                            remote: 0.7,
                            source: 0.05,
                        }),
                        memory_bytes: 96 << 20,
                        lent_bytes: 512 << 20,
                        timeline: vec![(0.5, 10.0), (1.0, 20.0)],
                    };
                    records.push(Record {
                        disk: "slow".into(),
                        case: case.clone(),
                        target,
                        run,
                        commands: vec!["fio job".into()],
                        outcome: Outcome::Measured(figures),
                    });
                }
                records.push(Record {
                    disk: "slow".into(),
                    case: case.clone(),
                    target: Target::Rclone,
                    run,
                    commands: Vec::new(),
                    outcome: Outcome::NotInstalled { what: "rclone".into() },
                });
            }
        }
        Results { plan, machine, records }
    }

    #[test]
    fn known_results_give_known_figures() {
        let page = page(&results("[0.5, 4]"), "results.json").unwrap();
        for text in [
            "<h1>Known &lt;results&gt;</h1>",
            "random reads, 4 KiB, 1 at once, working set 4 times the memory, disk 'slow': rampool, 1 lender does \
             4.10 times the page cache (4.10 to 4.10).",
            "<b>8,200</b>",
            "4,100 to 12,300",
            "32.0",
            "12.3 ms",
            "25 % / 70 % / 5 %",
            "96 MiB + 512 MiB",
            "width:70.0%",
            "not installed: rclone",
            "fio-3.33",
            "fio job",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert_eq!(page.matches("<svg").count(), 4 + 2, "four by working set, a timeline for each");
        assert!(
            !page.contains("http://")
                || page.matches("http://").count() == page.matches("http://www.w3.org").count()
        );
    }

    #[test]
    fn many_figures_are_summed_up_for_each_disk() {
        let mut results = results("[0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]");
        for record in &mut results.records {
            let times = match (record.target, record.case.working_set) {
                (Target::Pool(_), 0.5) => 0.1,
                (Target::Pool(_), 8.0) => 2.0,
                // Level: one run above, one below.
                (Target::Pool(_), 1.0) => [0.2, 0.25, 0.5][record.run as usize - 1],
                _ => 1.0,
            };
            if let Outcome::Measured(figures) = &mut record.outcome {
                figures.per_second *= times;
            }
        }
        let sentences = words::sentences(&Cell::all(&results));
        let name = "random reads, 4 KiB, 1 at once, working set";
        assert_eq!(
            sentences,
            [format!(
                "Disk 'slow': rampool, 1 lender is faster than the page cache beyond the noise in 11 of 13 cases, \
                 most in {name} 8 times the memory (8.20 times); slower in 1: {name} 0.5 times the memory (0.41 times)."
            )]
        );
    }
}
