//! The four scenarios.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::owner::{Ended, Order, Work};
use super::stage::{Layout, Stage, Way};

const MIB: u64 = 1 << 20;

pub(super) fn allocate(stage: &Stage<'_>, way: Way, layout: Layout) -> Result<()> {
    let cast = stage.begin(way, layout)?;
    let held = cast.fill()?;
    let _client = cast.client_reads(false, 4096, u64::from(stage.disk_iops) / 2, Order::Random)?;
    std::thread::sleep(Duration::from_secs(1));
    let before = cast.held()?;
    let bytes = usize::try_from(stage.memory / 100 * 85)?;
    let taker = cast.owner(&Work::Take { bytes, step: 8 << 20 })?;
    let ended = taker.end_by_itself()?;
    match ended {
        Ended::Killed => println!("{} KILLED", way.name()),
        Ended::Well(times) => {
            let mean = times.iter().sum::<u64>() / times.len() as u64;
            println!(
                "{:12} filled {} before {} after {} mean {mean} us worst {} us oom {} first {:?}",
                way.name(),
                held / MIB,
                before / MIB,
                cast.held()? / MIB,
                times.iter().max().unwrap(),
                cast.oom_kills()?,
                &times[..8]
            );
        }
    }
    events(&cast);
    Ok(())
}

fn events(cast: &super::stage::Cast<'_>) {
    if let Some(lender) = &cast.lender
        && let Ok(status) = lender.glance()
    {
        for event in status.lending.events {
            println!("    {:.2} {}", event.time % 1000.0, event.what);
        }
    }
}

pub(super) fn lender_then_client(stage: &Stage<'_>, way: Way, layout: Layout) -> Result<()> {
    let cast = stage.begin(way, layout)?;
    let held = cast.fill()?;
    let file = stage.owner_file.clone();
    let reader = cast.owner(&Work::Read {
        file,
        block: 4096,
        threads: 4,
        per_second: 0,
        order: Order::Random,
    })?;
    let start = Instant::now();
    let mut line = String::new();
    while start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_secs(1));
        line += &format!("{} ", cast.held()? / MIB);
    }
    let figures = reader.figures();
    let mut counts = Vec::new();
    for s in 1..=30 {
        let at = figures
            .iter()
            .take_while(|(t, _)| t.duration_since(start) < Duration::from_secs(s))
            .last();
        counts.push(at.map_or(0, |f| f.1));
    }
    println!("{:12} filled {} total {:?}", way.name(), held / MIB, counts);
    println!("   held {line}");
    drop(reader);
    let _client = cast.client_reads(true, 32 << 10, 0, Order::Each)?;
    let mut line = String::new();
    for _ in 0..24 {
        std::thread::sleep(Duration::from_millis(500));
        line += &format!("{} ", cast.held()? / MIB);
    }
    println!("   regained {line} of {}", held / MIB);
    events(&cast);
    Ok(())
}

pub(super) fn at_once(stage: &Stage<'_>, way: Way, layout: Layout) -> Result<()> {
    let cast = stage.begin(way, layout)?;
    let iops = stage.disk_iops;
    cast.elsewhere.limit_reads(&stage.client_dir, iops)?;
    let file = stage.owner_file.clone();
    let client = cast.client_reads(false, 4096, u64::from(iops) * 2, Order::Random)?;
    let reader = cast.owner(&Work::Read {
        file,
        block: 4096,
        threads: 4,
        per_second: 0,
        order: Order::Random,
    })?;
    let mut line = String::new();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_secs(1));
        line += &format!("{} ", cast.held()? / MIB);
    }
    let last = |worker: &super::owner::Worker| worker.figures().last().map_or(0, |f| f.1);
    println!("{:12} lender {} client {} held {line}", way.name(), last(&reader), last(&client));
    events(&cast);
    Ok(())
}
