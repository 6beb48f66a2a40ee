//! The table of costs in `docs/performance.md`: the ratios on several servers, one command at a time and in
//! a pipeline.

use crate::measure::{Case, Effort, Row, measure, version};
use crate::support::Server;
use crate::verdict::PIPELINE;
use std::path::Path;
use std::process::Command;

/// A row of the page.
struct Line {
    operation: &'static str,
    other: &'static str,
    bar: String,
    cells: Vec<String>,
}

/// The columns of a server.
const PER_SERVER: usize = 3;

/// The servers of the page.
pub fn servers() -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers.sh");
    let found = Command::new(script).args(["redis-7.0", "redis-8.10"]).output();
    let found = found.expect("scripts/servers.sh runs");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    // A line is the name, the path and the version of a server.
    let lines = String::from_utf8_lossy(&found.stdout);
    lines.lines().filter_map(|line| line.split(' ').nth(1).map(Into::into)).collect()
}

/// Measures on each server, and prints the table in Markdown.
pub fn print(cases: &[&Case], servers: &[String], effort: Effort) {
    let (mut lines, mut titles) = (Vec::new(), Vec::new());
    for (number, server) in servers.iter().enumerate() {
        // SAFETY: no other thread runs.
        unsafe { std::env::set_var("SERVER", server) };
        titles.push(version(&Server::start()));
        for (place, pipeline) in [1, PIPELINE].into_iter().enumerate() {
            for case in cases {
                eprintln!("{}, {pipeline} at once: {}", titles[number], case.name);
                let rows = measure(case, Effort { pipeline, ..effort });
                for (_, row) in rows.iter().enumerate().filter(|(at, row)| on_page(*at, row)) {
                    let line = line(&mut lines, case.name, row, servers.len());
                    let cells = &mut line.cells[number * PER_SERVER..][..PER_SERVER];
                    cells[place] = format!("{:.2}", row.cpu_ratio.median);
                    if pipeline == PIPELINE {
                        cells[2] = ratio(row.relay_ratio);
                        line.bar = ratio(row.bar.map(|bar| bar.goal));
                    }
                }
            }
        }
    }
    let titles = titles
        .iter()
        .map(|title| format!(" {title}, one at a time | in a pipeline of {PIPELINE} | a relay |"));
    println!("| operation | compared with | bar |{}", titles.collect::<String>());
    println!("|---|---|---|{}", "---|".repeat(servers.len() * PER_SERVER));
    let mut last = "";
    for Line { operation, other, bar, cells } in &lines {
        let name = if *operation == last { String::new() } else { code(operation) };
        println!("| {name} | {} | {bar} | {} |", code(other), cells.join(" | "));
        last = operation;
    }
}

/// The page has the first comparison of a case, and those with a bar or a relay.
fn on_page(place: usize, row: &Row) -> bool {
    place == 0 || row.bar.is_some() || row.relay_ratio.is_some()
}

/// The line of a comparison, which is added behind the others of its operation.
fn line<'a>(
    lines: &'a mut Vec<Line>,
    operation: &'static str,
    row: &Row,
    servers: usize,
) -> &'a mut Line {
    let other = row.label;
    let at = lines.iter().position(|line| (line.operation, line.other) == (operation, other));
    let at = at.unwrap_or_else(|| {
        let same = lines.iter().rposition(|line| line.operation == operation);
        let at = same.map_or(lines.len(), |last| last + 1);
        let cells = vec![String::new(); servers * PER_SERVER];
        lines.insert(at, Line { operation, other, bar: String::new(), cells });
        at
    });
    &mut lines[at]
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
}

/// Marks the words in capital letters as code.
fn code(text: &str) -> String {
    let is_code = |word: &str| {
        let letters = word.trim_matches(|c: char| !c.is_alphanumeric());
        letters.len() > 1
            && letters.chars().all(|c| c.is_ascii_uppercase() || c == '.')
            && letters.chars().any(char::is_alphabetic)
    };
    let words = text.split(' ').map(|word| {
        let bare = word.trim_end_matches([',', ':', ';']);
        if is_code(bare) { format!("`{bare}`{}", &word[bare.len()..]) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ").replace("` `", " ")
}
