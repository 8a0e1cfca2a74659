//! Tables: aligned for people, tab-separated for programs.

use std::fmt::Write as _;

/// Rows of text under headings.
#[derive(Clone, Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with one cell for each heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.headings.len(), "a cell for each heading");
        self.rows.push(cells);
    }

    /// Columns padded to their widest cell, under headings in capitals.
    #[must_use]
    pub fn aligned(&self) -> String {
        let headings: Vec<String> = self.headings.iter().map(|h| h.to_uppercase()).collect();
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let widths: Vec<usize> = (0..headings.len())
            .map(|column| {
                lines()
                    .map(|cells| width(&cells[column]))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for cells in lines() {
            let mut line = String::new();
            for (cell, column) in cells.iter().zip(&widths) {
                let padding = column - width(cell) + 2;
                let _ = write!(line, "{}{:padding$}", clean(cell), "");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Headings and rows as tab-separated values.
    #[must_use]
    pub fn tsv(&self) -> String {
        let mut text = self.headings.join("\t") + "\n";
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| clean(cell)).collect();
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// Cells come from other people's models: no control character may reach the terminal.
fn clean(cell: &str) -> String {
    cell.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["name", "size"]);
        table.row(["lemma/digits".to_owned(), "74 kB".to_owned()]);
        table.row(["a/é\tb".to_owned(), "1".to_owned()]);
        table
    }

    #[test]
    fn columns_line_up() {
        assert_eq!(
            table().aligned(),
            "NAME          SIZE\nlemma/digits  74 kB\na/é b         1\n"
        );
    }

    #[test]
    fn values_are_separated_by_tabs_only() {
        assert_eq!(table().tsv(), "name\tsize\nlemma/digits\t74 kB\na/é b\t1\n");
    }
}
