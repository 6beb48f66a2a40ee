//! Tables that are printed row by row.

use std::io::{IsTerminal, Write};

/// A column: its title, its width and whether it is aligned to the right.
pub struct Column(pub &'static str, pub usize, pub bool);

/// A table that is printed row by row.
pub struct Table {
    columns: &'static [Column],
    markdown: bool,
    started: bool,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &'static [Column], markdown: bool) -> Self {
        Self { columns, markdown, started: false }
    }

    /// Prints a row.
    pub fn row(&mut self, cells: &[String]) {
        self.clear_progress();
        if !self.started {
            self.started = true;
            let titles: Vec<_> = self.columns.iter().map(|column| column.0.into()).collect();
            self.line(&titles);
            let rule = |Column(_, width, right): &Column| match right {
                true if self.markdown => "-".repeat(width - 1) + ":",
                _ => "-".repeat(*width),
            };
            self.line(&self.columns.iter().map(rule).collect::<Vec<_>>());
        }
        self.line(cells);
    }

    fn line(&self, cells: &[String]) {
        let cells = self.columns.iter().zip(cells);
        let cells = cells.map(|(Column(_, width, right), cell)| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        let cells: Vec<_> = cells.collect();
        if self.markdown {
            println!("| {} |", cells.join(" | "));
        } else {
            println!("{}", cells.join("  ").trim_end());
        }
    }

    /// Ends the table.
    pub fn end(&self) {
        self.clear_progress();
    }

    /// Shows in a terminal what is being measured.
    pub fn progress(&self, what: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[Kmeasuring {what} ...");
            let _ = std::io::stderr().flush();
        }
    }

    fn clear_progress(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
