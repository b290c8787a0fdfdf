//! Drawings, as SVG that grows and shrinks with the page.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::suite::figures::Spread;
use crate::suite::target::Target;

/// Small, so that letters can be read where the page is narrow.
const WIDE: u32 = 520;
const HIGH: u32 = 300;
const TEXT: (&str, u32) = ("sans-serif", 16);

/// The line of a target, in its colour.
pub(crate) struct Line {
    pub(crate) target: Target,
    /// Places from left to right, each with its value.
    pub(crate) points: Vec<(f64, Spread)>,
}

/// What the axes say.
pub(crate) struct Axes<'a> {
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// The x axis in powers.
    pub(crate) x_in_powers: bool,
}

/// Colours that can be told apart, also by those who see few.
pub(crate) fn colour(target: Target) -> RGBColor {
    match target {
        Target::PageCache => RGBColor(0, 114, 178),
        Target::PageCacheTotal => RGBColor(86, 180, 233),
        Target::Direct => RGBColor(110, 110, 110),
        Target::Local => RGBColor(230, 159, 0),
        Target::Pool(1) => RGBColor(213, 94, 0),
        Target::Pool(_) => RGBColor(140, 45, 4),
        Target::Passthrough => RGBColor(0, 158, 115),
        Target::Memcached => RGBColor(160, 140, 0),
        Target::Rclone => RGBColor(204, 121, 167),
        Target::JuiceFs => RGBColor(120, 90, 160),
    }
}

/// Lines with whiskers from the least to the most, values in powers of ten.
pub(crate) fn lines(lines: &[Line], axes: &Axes<'_>) -> Result<String> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let (low, high) = range(all().flat_map(|(_, value)| [value.least, value.most]));
    let (left, right) = range(all().map(|(x, _)| *x));
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDE, HIGH)).into_drawing_area();
        area.fill(&WHITE).map_err(why)?;
        let mut builder = ChartBuilder::on(&area);
        builder.margin(12).x_label_area_size(46).y_label_area_size(78);
        let y = (low / 1.5..high * 1.5).log_scale();
        let series = |value: &(f64, Spread)| (value.0, value.1.median);
        macro_rules! draw {
            ($x:expr) => {{
                let mut chart = builder.build_cartesian_2d($x, y).map_err(why)?;
                chart
                    .configure_mesh()
                    .x_desc(axes.x)
                    .y_desc(axes.y)
                    .label_style(TEXT)
                    .light_line_style(WHITE)
                    .y_label_formatter(&|value| short(*value))
                    .x_label_formatter(&|value| trimmed(*value))
                    .draw()
                    .map_err(why)?;
                for line in lines {
                    let colour = colour(line.target);
                    let style = colour.stroke_width(2);
                    let points = line.points.iter().map(series);
                    chart.draw_series(LineSeries::new(points, style)).map_err(why)?;
                    let whiskers = line.points.iter().map(|(x, value)| {
                        PathElement::new(
                            [(*x, value.least), (*x, value.most)],
                            colour.stroke_width(1),
                        )
                    });
                    chart.draw_series(whiskers).map_err(why)?;
                    let dots = line
                        .points
                        .iter()
                        .map(|point| Circle::new(series(point), 3, colour.filled()));
                    chart.draw_series(dots).map_err(why)?;
                }
            }};
        }
        if axes.x_in_powers {
            draw!((left / 1.1..right * 1.1).log_scale());
        } else {
            draw!(left..right.max(left + 1.0));
        }
        area.present().map_err(why)?;
    }
    Ok(text)
}

/// From the least to the most that can be drawn in powers.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values = values.filter(|value| value.is_finite() && *value > 0.0);
    let ends = values.fold(None, |ends: Option<(f64, f64)>, value| match ends {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    });
    ends.unwrap_or((1.0, 1.0))
}

/// 1200 as "1.2 k".
pub(crate) fn short(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{} G", trimmed(value / 1e9)),
        value if value >= 1e6 => format!("{} M", trimmed(value / 1e6)),
        value if value >= 1e3 => format!("{} k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

/// Three digits that matter.
fn trimmed(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        value if value < 1.0 => 2,
        value if value < 10.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn why(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let pairs = [(0.5, "0.5"), (4.0, "4"), (1234.0, "1.2 k"), (56_789.0, "57 k"), (2e6, "2 M")];
        for (value, text) in pairs {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn a_drawing_has_its_lines() {
        let point = |x: f64, y: f64| (x, Spread { least: y / 2.0, median: y, most: y * 2.0 });
        let line = Line { target: Target::Local, points: vec![point(0.5, 1e5), point(4.0, 1e3)] };
        let axes = Axes { x: "times", y: "reads/s", x_in_powers: true };
        let text = lines(&[line], &axes).unwrap();
        assert!(text.starts_with("<svg") && text.contains("#E69F00") && text.contains("circle"));
        assert!(lines(&[], &axes).is_ok());
    }
}
