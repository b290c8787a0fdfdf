//! Tables for people: aligned, numbers to the right, colours only on a terminal.

use comfy_table::{Cell, CellAlignment, Color, ContentLineStyle, LineStyle, Table, TableStyle};

/// A rule below the header and nothing else.
const STYLE: TableStyle = TableStyle::new()
    .header_separator(LineStyle::none().fill('-').junction(' '))
    .header_lines(ContentLineStyle::none().junction(' '))
    .content_lines(ContentLineStyle::none().junction(' '));

/// An empty table under `header`. Columns beyond the first `left` ones hold numbers.
pub(crate) fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    let cells = header.iter().enumerate().map(|(column, &text)| {
        let cell = Cell::new(text);
        if column < left { cell } else { cell.set_alignment(CellAlignment::Right) }
    });
    table.set_header(cells.collect::<Vec<_>>());
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A cell that says whether something holds, green or red.
pub(crate) fn verdict(holds: bool) -> Cell {
    if holds { Cell::new("yes").fg(Color::Green) } else { Cell::new("NO").fg(Color::Red) }
}

/// A number of microseconds with three digits that matter, or a dash.
pub(crate) fn us(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(us) if us < 100.0 => format!("{us:.1} us"),
        Some(us) if us < 10_000.0 => format!("{us:.0} us"),
        Some(us) if us < 1e6 => format!("{:.1} ms", us / 1e3),
        Some(us) => format!("{:.2} s", us / 1e6),
    }
}

/// A part of a whole in per cent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A whole number with a comma every three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(us(Some(9.44)), "9.4 us");
        assert_eq!(us(Some(12_345.0)), "12.3 ms");
        assert_eq!(us(Some(2_500_000.0)), "2.50 s");
        assert_eq!(us(None), "-");
        assert_eq!(percent(0.256), "25.6 %");
    }
}
