//! Aligned columns of text, and times as people read them.

use unicode_width::UnicodeWidthStr;

use super::style::finish;

/// Lines of cells, padded to the widest of each column; the last column is not padded.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| width_of(cell))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                let padding = widths[column].saturating_sub(width_of(cell)) + 2;
                line.extend(std::iter::repeat_n(' ', padding));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Columns that a text takes in a terminal: letters of East Asia and pictures take two, accents none, and what would be shown
/// of control characters as much as that.
fn width_of(cell: &str) -> usize {
    finish(cell, false).width()
}

/// Local time of a number of seconds since 1970, to the second.
pub fn local_time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => format!("@{seconds}"),
    }
}

pub use crate::model::format_count as count;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".into(), "bb".into(), "c".into()],
            vec!["dddd".into(), "e".into()],
        ];
        assert_eq!(table(&rows), "a     bb  c\ndddd  e\n");
    }

    #[test]
    fn columns_line_up_by_what_a_terminal_shows() {
        use crate::cli::style::Tone;
        let cell = |text: &str| vec![text.to_owned(), "|".to_owned()];
        let rows = [
            cell("plain-name"),
            cell("\u{6f22}\u{5b57}"),
            cell("e\u{301}"),
            cell("\u{1f600}"),
            cell("a\x1b[1m"),
            cell(&Tone::Bad.paint("wrong")),
        ];
        let shown = finish(&table(&rows), false);
        let ends: Vec<usize> = shown.lines().map(|line| line.width()).collect();
        assert_eq!(ends, [13; 6], "{shown}");
    }
}
