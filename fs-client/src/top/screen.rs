//! The screen: 80 columns and 24 lines are enough.

use rampool_cli::size::ByteSize;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table};
use serde_json::Value;

use super::{View, Watched};
use crate::stats::LayerStats;

const DIM: Style = Style::new().fg(Color::DarkGray);

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let [head, mount, layers, history, servers, lender] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(6),
        Constraint::Length(4),
        Constraint::Min(5),
        Constraint::Length(if view.lender.is_some() { 5 } else { 1 }),
    ])
    .areas(frame.area());
    draw_head(frame, head, view);
    match view.mounts.get(view.chosen) {
        Some(watched) => {
            draw_mount(frame, mount, watched);
            draw_layers(frame, layers, watched);
            draw_history(frame, history, watched);
            draw_servers(frame, servers, watched);
        }
        None => {
            let text = "Nothing is mounted by this user: rampool mount SOURCE MOUNTPOINT";
            frame.render_widget(Paragraph::new(text), mount);
        }
    }
    draw_lender(frame, lender, view.lender.as_ref());
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let count = view.mounts.len();
    let which = match count {
        0 | 1 => String::new(),
        _ => format!("   mount {} of {count}, arrows choose", view.chosen + 1),
    };
    let paused = if view.is_paused { "   PAUSED" } else { "" };
    let left = Line::from(vec![
        Span::styled("rampool top", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(which),
        Span::styled(paused, Style::new().fg(Color::Yellow)),
    ]);
    frame.render_widget(Paragraph::new(left), area);
    let keys = Line::styled("q quits, space pauses", DIM);
    frame.render_widget(Paragraph::new(keys).alignment(Alignment::Right), area);
}

fn draw_mount(frame: &mut Frame<'_>, area: Rect, watched: &Watched) {
    let report = &watched.now.report;
    let cache = format!(
        "cache {} of {} blocks ({}), {} of memory",
        number(report, "/cache/blocks"),
        number(report, "/cache/capacity_blocks"),
        ByteSize(number(report, "/cache/size_bytes")),
        ByteSize(number(report, "/memory/resident_bytes")),
    );
    let lines = vec![
        Line::from(vec![
            Span::styled(watched.name.clone(), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!("  of {}", text(report, "/source"))),
        ]),
        Line::raw(cache),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_layers(frame: &mut Frame<'_>, area: Rect, watched: &Watched) {
    let names = ["local", "remote", "source"];
    let layers = names.map(|layer| {
        watched.before.as_ref().map(|before| LayerStats::between(before, &watched.now, layer))
    });
    let all: f64 = layers.iter().flatten().map(|layer| layer.reads_per_second).sum();
    let rows = names.iter().zip(&layers).map(|(name, layer)| {
        let total = number(&watched.now.report, &format!("/layers/{name}/reads"));
        let cells = match layer {
            None => [const { String::new() }; 5],
            Some(layer) => [
                format!("{:.0}", layer.reads_per_second),
                if all > 0.0 {
                    format!("{:.1} %", layer.reads_per_second / all * 100.0)
                } else {
                    "-".to_owned()
                },
                format!("{:.1}", layer.bytes_per_second / 1e6),
                micros(layer.p50_us),
                micros(layer.p99_us),
            ],
        };
        let cells = [(*name).to_owned()].into_iter().chain(cells).chain([total.to_string()]);
        Row::new(cells.enumerate().map(right))
    });
    let header = ["layer", "reads/s", "share", "MB/s", "p50", "p99", "reads"];
    let header = Row::new(header.map(str::to_owned).into_iter().enumerate().map(right)).style(DIM);
    let widths = [8, 11, 9, 9, 10, 10, 14].map(Constraint::Length);
    let table = Table::new(rows, widths).header(header).column_spacing(1);
    frame.render_widget(table.block(Block::new().borders(Borders::TOP).border_style(DIM)), area);
}

fn draw_history(frame: &mut Frame<'_>, area: Rect, watched: &Watched) {
    let now = watched.hits.back().copied().flatten();
    let title = match now {
        Some(share) => format!(" answered from memory: {:.1} % ", share * 100.0),
        None => " answered from memory ".to_owned(),
    };
    let width = usize::from(area.width);
    let skipped = watched.hits.len().saturating_sub(width);
    let shares = watched.hits.iter().skip(skipped);
    let data: Vec<u64> = shares.map(|share| (share.unwrap_or(0.0) * 100.0) as u64).collect();
    let block = Block::new().borders(Borders::TOP).border_style(DIM).title(title);
    let line = Sparkline::default().block(block).data(data).max(100).style(Color::Green);
    frame.render_widget(line, area);
}

fn draw_servers(frame: &mut Frame<'_>, area: Rect, watched: &Watched) {
    let report = &watched.now.report;
    let title = format!(
        " servers: {} blocks lent, {} dropped, {} asked for in vain, {} timeouts ",
        number(report, "/remote/lent_blocks"),
        number(report, "/remote/dropped_blocks"),
        number(report, "/remote/missed_blocks"),
        number(report, "/remote/timeouts"),
    );
    let block = Block::new().borders(Borders::TOP).border_style(DIM).title(title);
    let servers = report.pointer("/remote/servers").and_then(Value::as_array);
    let rows = servers.into_iter().flatten().map(|server| {
        let state = text(server, "/state");
        let colour = match state {
            "connected" => Color::Green,
            "slower than the source" | "pausing" => Color::Reset,
            "suspected" => Color::Yellow,
            _ => Color::Red,
        };
        let answers = server.pointer("/answers_us/mean").and_then(Value::as_f64);
        Row::new(vec![
            Cell::from(text(server, "/address").to_owned()),
            Cell::from(Span::styled(state.to_owned(), colour)),
            Cell::from(format!("lends {}", ByteSize(number(server, "/capacity_bytes")))),
            Cell::from(match answers {
                Some(mean) => format!("answers in {}", micros(Some(mean))),
                None => text(server, "/last_error").to_owned(),
            }),
        ])
    });
    let widths = [
        Constraint::Length(22),
        Constraint::Length(22),
        Constraint::Length(14),
        Constraint::Min(10),
    ];
    frame.render_widget(Table::new(rows, widths).block(block).column_spacing(1), area);
}

fn draw_lender(frame: &mut Frame<'_>, area: Rect, lender: Option<&Value>) {
    let Some(lender) = lender else {
        let line = Line::styled(
            "this machine lends nothing (no rampool-server that this user may ask)",
            DIM,
        );
        return frame.render_widget(Paragraph::new(line), area);
    };
    let clients = lender.pointer("/clients").and_then(Value::as_array).map_or(0, Vec::len);
    let title = format!(
        " this machine: {}, {} of {} held for {clients} {} ",
        text(lender, "/lending/state"),
        ByteSize(number(lender, "/held_bytes")),
        ByteSize(number(lender, "/lending/allowed_bytes")),
        if clients == 1 { "client" } else { "clients" },
    );
    let events = lender.pointer("/lending/events").and_then(Value::as_array);
    let latest = events.into_iter().flatten().rev();
    let lines: Vec<Line<'_>> =
        latest.take(4).map(|event| Line::raw(text(event, "/what").to_owned())).collect();
    let block = Block::new().borders(Borders::TOP).border_style(DIM).title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Numbers stand at the right, what comes first at the left.
fn right((column, text): (usize, String)) -> Cell<'static> {
    let alignment = if column == 0 { Alignment::Left } else { Alignment::Right };
    Cell::from(Line::raw(text).alignment(alignment))
}

fn micros(micros: Option<f64>) -> String {
    match micros {
        None => "-".to_owned(),
        Some(micros) if micros < 1_000.0 => format!("{micros:.0} us"),
        Some(micros) if micros < 1_000_000.0 => format!("{:.1} ms", micros / 1e3),
        Some(micros) => format!("{:.1} s", micros / 1e6),
    }
}

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

fn text<'a>(report: &'a Value, path: &str) -> &'a str {
    report.pointer(path).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::stats::Seen;

    fn report(local: u64) -> Value {
        json!({
            "mountpoint": "/mnt/data", "source": "/var/lib/data",
            "cache": { "size_bytes": 1_u64 << 30, "blocks": 1000, "capacity_blocks": 250_000 },
            "memory": { "resident_bytes": 40 << 20 },
            "layers": {
                "local": { "reads": local, "bytes": local * 4096, "buckets": [[9_000, local]] },
                "remote": { "reads": 100, "bytes": 409_600, "buckets": [[70_000, 100]] },
                "source": { "reads": 0, "bytes": 0, "buckets": [] },
            },
            "remote": { "lent_blocks": 77, "dropped_blocks": 0, "missed_blocks": 3, "timeouts": 0, "servers": [
                { "address": "10.0.0.2:7167", "state": "connected", "capacity_bytes": 12_u64 << 30, "answers_us": { "mean": 85.0 } },
                { "address": "10.0.0.3:7167", "state": "not connected", "capacity_bytes": 0, "answers_us": null,
                  "last_error": "the server does not answer" },
            ] },
        })
    }

    fn shown(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_mount_its_servers_and_this_machine_fit_a_small_terminal() {
        let start = Instant::now();
        let seen = |local, at| Seen { report: report(local), at };
        let watched = Watched {
            name: "/mnt/data".to_owned(),
            before: Some(seen(0, start)),
            now: seen(900, start + Duration::from_secs(1)),
            hits: VecDeque::from([None, Some(0.5), Some(1.0)]),
        };
        let lender = json!({
            "held_bytes": 3_u64 << 30,
            "clients": [{}, {}],
            "lending": { "state": "pausing", "allowed_bytes": 4_u64 << 30, "events": [
                { "what": "gave back 1 GiB: the machine needs it" },
            ] },
        });
        let view = View { mounts: vec![watched], chosen: 0, lender: Some(lender), is_paused: true };
        let screen = shown(&view);
        for text in [
            "rampool top",
            "PAUSED",
            "/mnt/data  of /var/lib/data",
            "900",
            "100.0 %",
            "9 us",
            "answered from memory: 100.0 %",
            "77 blocks lent",
            "10.0.0.2:7167",
            "lends 12 GiB",
            "answers in 85 us",
            "the server does not",
            "pausing, 3 GiB of 4 GiB held for 2 clients",
            "gave back 1 GiB",
        ] {
            assert!(screen.contains(text), "{text}\n{screen}");
        }
    }

    #[test]
    fn without_a_mount_it_says_what_to_do() {
        let screen = shown(&View::default());
        assert!(screen.contains("Nothing is mounted by this user"), "{screen}");
        assert!(screen.contains("this machine lends nothing"), "{screen}");
    }
}
