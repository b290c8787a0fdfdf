//! Timelines as drawings: reads a second of both sides and what is lent.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use super::scenarios::Run;
use super::stage::{Layout, Way};

const SIZE: (u32, u32) = (900, 840);

/// A line: its name and its points.
type Line = (&'static str, RGBColor, Vec<(f64, f64)>);

/// Draws the first run of each way, a file for each scenario.
pub(super) fn all(dir: &Path, runs: &[Run]) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (layout, suffix) in [(Layout::Beside, ""), (Layout::Together, "-together")] {
        let firsts: Vec<_> = Way::ALL
            .into_iter()
            .filter_map(|way| runs.iter().find(|run| run.way == way && run.layout == layout))
            .collect();
        let Some(first) = firsts.first() else { continue };
        for (n, (scenario, _)) in first.timelines().into_iter().enumerate() {
            let path = dir.join(format!("lending-{scenario}{suffix}.svg"));
            let lines = |figure: &dyn Fn(&Run) -> Vec<(f64, f64)>| -> Vec<Line> {
                firsts.iter().map(|run| (run.way.name(), colour(run.way), figure(run))).collect()
            };
            let panels = [
                (
                    "lender, reads/s",
                    lines(&|run| {
                        let timeline = run.timelines()[n].1;
                        timeline.rates(&timeline.lender_reads)
                    }),
                ),
                (
                    "client, reads/s",
                    lines(&|run| {
                        let timeline = run.timelines()[n].1;
                        timeline.rates(&timeline.client_reads)
                    }),
                ),
                (
                    "lent, MiB",
                    lines(&|run| {
                        let timeline = run.timelines()[n].1;
                        let points = timeline.points(&timeline.lent).into_iter();
                        points.map(|(at, bytes)| (at, bytes / f64::from(1 << 20))).collect()
                    }),
                ),
            ];
            draw(&path, scenario, &panels)
                .map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn draw(
    path: &Path,
    title: &str,
    panels: &[(&str, Vec<Line>)],
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 22))?;
    for (area, (label, lines)) in area.split_evenly((panels.len(), 1)).iter().zip(panels) {
        let most = |pick: fn(&(f64, f64)) -> f64| {
            lines.iter().flat_map(|line| line.2.iter().map(pick)).fold(1.0, f64::max)
        };
        let (end, top) = (most(|point| point.0), most(|point| point.1) * 1.05);
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .y_desc(*label)
            .x_desc("seconds")
            .x_label_formatter(&|value| format!("{value:.0}"))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        for (name, colour, points) in lines.iter().filter(|line| !line.2.is_empty()) {
            let colour = *colour;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

fn colour(way: Way) -> RGBColor {
    match way {
        Way::Nothing => RGBColor(90, 90, 90),
        Way::Plain => RGBColor(200, 60, 50),
        Way::Kernel => RGBColor(230, 150, 30),
        Way::Refaults => RGBColor(70, 130, 200),
        Way::Pressure => RGBColor(140, 90, 180),
        Way::Both => RGBColor(40, 150, 80),
    }
}
