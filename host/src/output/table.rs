//! Tables of text: columns as wide as their longest cell, two spaces between them, nothing at the line's end.

/// On which side a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table being filled.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new<S: AsRef<str>>(columns: &[(S, Side)]) -> Self {
        let columns =
            columns.iter().map(|(heading, side)| (super::failure::one_line(heading.as_ref()), *side)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row: one cell for each column.
    pub(crate) fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().map(|cell| super::failure::one_line(&cell)).collect());
    }

    /// The text; the heading stands even over no rows.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize, heading: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([heading.chars().count()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> =
            self.columns.iter().enumerate().map(|(column, (heading, _))| width(column, heading)).collect();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| heading.clone()).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, side)) in row.iter().zip(&widths).zip(&self.columns) {
                let space = " ".repeat(width.saturating_sub(cell.chars().count()));
                match side {
                    Side::Left => line.extend([cell.as_str(), &space, "  "]),
                    Side::Right => line.extend([space.as_str(), cell, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `name: value` lines, the values in one column.
pub(crate) fn pairs<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.as_ref().chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (key, value) in pairs {
        let key = super::failure::one_line(key.as_ref());
        let space = " ".repeat(width.saturating_sub(key.chars().count()));
        let line = format!("{key}:{space} {}", super::failure::one_line(value.as_ref()));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let mut table = Table::new(&[("NAME", Side::Left), ("SIZE", Side::Right), ("NOTE", Side::Left)]);
        table.row(["ä".to_owned(), "1".to_owned(), String::new()]);
        table.row(["longer-name".to_owned(), "12345".to_owned(), "x\u{1b}[0m".to_owned()]);
        assert_eq!(table.render(), "NAME          SIZE  NOTE\nä                1\nlonger-name  12345  x[0m\n");
    }

    #[test]
    fn pairs_stand_in_two_columns() {
        assert_eq!(pairs(&[("a", "1"), ("long", "")]), "a:    1\nlong:\n");
    }
}
