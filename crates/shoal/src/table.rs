//! Tables that fit the terminal, however narrow.
//!
//! A table that is too wide first folds its last column, then leaves out columns that can be done without, and at last puts
//! each row's first cell on a line of its own and the others below it. No line is ever wider than asked for.

/// Least width of a last column that is folded.
const FOLDED_MIN: usize = 18;
/// Between two columns.
const GAP: usize = 2;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Its title.
    pub(crate) title: &'static str,
    /// Whether it holds numbers.
    pub(crate) is_right: bool,
    /// Whether it may be left out; the last such column goes first.
    pub(crate) is_optional: bool,
}

impl Column {
    pub(crate) const fn text(title: &'static str) -> Self {
        Self { title, is_right: false, is_optional: false }
    }

    pub(crate) const fn number(title: &'static str) -> Self {
        Self { title, is_right: true, is_optional: false }
    }

    pub(crate) const fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }
}

/// Lays out rows of as many cells as there are columns, in lines of at most `width` characters.
pub(crate) fn render(columns: &[Column], rows: &[Vec<String>], width: usize) -> String {
    let natural: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let cells = rows.iter().map(|row| count(&row[i]));
            cells.chain([count(column.title)]).max().unwrap_or(0)
        })
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    loop {
        let Some((&last, others)) = shown.split_last() else { return String::new() };
        let fixed: usize = others.iter().map(|&i| natural[i] + GAP).sum();
        let left = width.saturating_sub(fixed);
        if left >= natural[last].min(FOLDED_MIN) {
            let widths: Vec<usize> =
                others.iter().map(|&i| natural[i]).chain([left.min(natural[last])]).collect();
            return lines(columns, rows, &shown, &widths);
        }
        match others.iter().rposition(|&i| columns[i].is_optional) {
            Some(at) => {
                shown.remove(at);
            }
            None => return stacked(rows, &shown, width),
        }
    }
}

fn lines(columns: &[Column], rows: &[Vec<String>], shown: &[usize], widths: &[usize]) -> String {
    let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        let (&last, others) = shown.split_last().expect("the caller has looked");
        for (&i, &width) in others.iter().zip(widths) {
            let pad = " ".repeat(width - count(&row[i]));
            let (before, after) = if columns[i].is_right { (&*pad, "") } else { ("", &*pad) };
            line.push_str(&format!("{before}{}{after}{}", row[i], " ".repeat(GAP)));
        }
        let indent = " ".repeat(count(&line));
        let width = widths.last().copied().unwrap_or(1);
        for (n, piece) in fold(&row[last], width).into_iter().enumerate() {
            let pad = if columns[last].is_right { width - count(&piece) } else { 0 };
            let begin = if n == 0 { &line } else { &indent };
            text.push_str(format!("{begin}{}{piece}", " ".repeat(pad)).trim_end());
            text.push('\n');
        }
    }
    text
}

/// Each row's first cell alone, the others in lines below it.
fn stacked(rows: &[Vec<String>], shown: &[usize], width: usize) -> String {
    let mut text = String::new();
    for row in rows {
        let (first, others) = shown.split_first().expect("the caller has looked");
        for piece in fold(&row[*first], width) {
            text.push_str(&format!("{piece}\n"));
        }
        let cells: Vec<&str> =
            others.iter().map(|&i| row[i].as_str()).filter(|cell| !cell.is_empty()).collect();
        for piece in fold(&cells.join(", "), width.saturating_sub(GAP)) {
            text.push_str(&format!("{}{piece}\n", " ".repeat(GAP)));
        }
    }
    text
}

/// Breaks a text into lines between its words; a word that is too long is broken too. At least one line, perhaps empty.
pub(crate) fn fold(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        let line = lines.last().expect("never empty");
        let needed = if line.is_empty() { rest.len() } else { count(line) + 1 + rest.len() };
        if needed <= width {
            let gap = if line.is_empty() { "" } else { " " };
            let whole = format!("{line}{gap}{word}");
            *lines.last_mut().expect("never empty") = whole;
            continue;
        }
        if !line.is_empty() {
            lines.push(String::new());
        }
        while rest.len() > width {
            let tail = rest.split_off(width);
            *lines.last_mut().expect("never empty") = rest.into_iter().collect();
            lines.push(String::new());
            rest = tail;
        }
        *lines.last_mut().expect("never empty") = rest.into_iter().collect();
    }
    lines
}

/// A text folded into lines, each with its line feed.
pub(crate) fn paragraph(text: &str, width: usize) -> String {
    fold(text, width).into_iter().map(|line| line + "\n").collect()
}

/// Characters; what Shoal prints in tables takes one column for each, but for names from elsewhere.
fn count(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::text("NAME"),
        Column::number("SIZE"),
        Column::number("CONTEXT").optional(),
        Column::text("RUNS"),
    ];

    fn table(width: usize) -> String {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["one:1b", "398 MB", "32K", "runs here"]),
            row(["another:27b", "16.2 GB", "128K", "cannot run: architecture other9"]),
        ];
        render(&COLUMNS, &rows, width)
    }

    #[track_caller]
    fn check(width: usize, expected: &str) {
        let text = table(width);
        assert_eq!(text, expected, "at {width}:\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
    }

    #[test]
    fn a_wide_table_is_plain() {
        check(
            80,
            "NAME            SIZE  CONTEXT  RUNS\n\
             one:1b        398 MB      32K  runs here\n\
             another:27b  16.2 GB     128K  cannot run: architecture other9\n",
        );
    }

    #[test]
    fn the_last_column_is_folded() {
        check(
            50,
            "NAME            SIZE  CONTEXT  RUNS\n\
             one:1b        398 MB      32K  runs here\n\
             another:27b  16.2 GB     128K  cannot run:\n                               architecture other9\n",
        );
    }

    #[test]
    fn what_can_be_done_without_is_left_out() {
        check(
            41,
            "NAME            SIZE  RUNS\n\
             one:1b        398 MB  runs here\n\
             another:27b  16.2 GB  cannot run:\n                      architecture other9\n",
        );
    }

    #[test]
    fn a_narrow_table_is_stacked() {
        check(
            30,
            "one:1b\n  398 MB, runs here\nanother:27b\n  16.2 GB, cannot run:\n  architecture other9\n",
        );
    }

    #[test]
    fn no_width_is_too_small() {
        for width in 3..80 {
            let text = table(width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
        }
    }

    #[test]
    fn long_words_are_broken() {
        assert_eq!(fold("a abcdefgh b", 3), ["a", "abc", "def", "gh", "b"]);
        assert_eq!(fold("a  b\n c", 3), ["a b", "c"]);
        assert_eq!(fold("", 3), [""]);
    }
}
