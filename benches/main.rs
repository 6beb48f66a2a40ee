//! The benchmark: the commands of this module beside the native commands and the Lua scripts that
//! people use without it, on the same server.
//!
//! `make bench`, or `make bench ARGS="--only LOCK --rounds 30"`; [`USAGE`] tells the rest.

#[path = "../tests/support/mod.rs"]
mod support;

mod cases;
mod crowd;
mod latency;
mod measure;
mod swarm;
mod wire;

use latency::race;
use measure::{CONNECTIONS, Effort, Row, Spread, measure};
use std::io::{IsTerminal, Write};
use support::{Server, info, server_binary};

const USAGE: &str = "\
Compares the commands of Corral with native commands and Lua scripts.

  --rounds N     how often each of those that are compared has its turn (default 15)
  --commands N   how many commands it sends in a turn (default 10000)
  --pipeline N   how many of them it sends at once on each connection (default 16)
  --tasks N      how many tasks there are where it is their number that matters (default 1000000;
                 10000000 takes some 4 GB and several minutes)
  --quick        a first impression: --rounds 5 --commands 2000 --tasks 50000
  --only NAME    only what has NAME in its name; can be given several times
  --server PATH  the server (default: the environment's SERVER, or redis-server)
  --markdown     print the tables in markdown
  --list         print the names of all comparisons

CORRAL_MODULE is the module to measure (default target/release/libcorral.so).";

struct Options {
    effort: Effort,
    only: Vec<String>,
    server: Option<String>,
    markdown: bool,
    list: bool,
}

fn main() {
    let words: Vec<_> = std::env::args().collect();
    if let Some(orders) = words.iter().position(|word| word == cases::VICTIM) {
        return cases::be_victim(&words[orders + 1..]);
    }
    let options = match options(words.into_iter().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return println!("{USAGE}"),
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            std::process::exit(2);
        }
    };
    if let Some(server) = &options.server {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("SERVER", server) };
    }
    let wanted = |name: &str| {
        let name = name.to_lowercase();
        options.only.is_empty() || options.only.iter().any(|only| name.contains(only))
    };
    let cases: Vec<_> = cases::all().filter(|case| wanted(case.name)).collect();
    let races: Vec<_> = cases::races().filter(|race| wanted(race.name)).collect();
    let studies: Vec<_> = cases::studies().filter(|study| wanted(study.name)).collect();
    if options.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        races.iter().for_each(|race| println!("{}", race.name));
        return studies.iter().for_each(|study| println!("{}", study.name));
    }

    println!("{}\n", head(options.effort));
    let mut table = Table::new(&COSTS, options.markdown);
    let mut missed = 0;
    for case in cases {
        table.progress(case.name);
        for (number, row) in measure(case, options.effort).iter().enumerate() {
            missed += usize::from(row.misses());
            table.row(&cost(if number == 0 { case.name } else { "" }, row));
        }
    }
    table.end();
    println!("{NOTES}");
    let mut table = Table::new(&LATENCIES, options.markdown);
    for chosen in races {
        table.progress(chosen.name);
        for (number, runner) in race(chosen, options.effort).iter().enumerate() {
            table.row(&[
                if number == 0 { chosen.name } else { "" }.into(),
                runner.label.into(),
                format!("{:.0} us", runner.p50),
                format!("{:.0} us", runner.p99),
            ]);
        }
    }
    table.end();
    for study in studies {
        println!();
        let mut table = Table::new(study.columns, options.markdown);
        table.progress(study.name);
        for row in (study.run)(options.effort) {
            missed += row.iter().filter(|cell| cell.ends_with(cases::MISSED)).count();
            table.row(&row);
        }
        table.end();
    }
    if missed > 0 {
        println!("\nBars missed: {missed}");
    }
}

fn options(args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        effort: Effort { rounds: 15, commands: 10_000, pipeline: 16, tasks: 1_000_000 },
        only: Vec::new(),
        server: None,
        markdown: false,
        list: false,
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => options.effort.rounds = number(&value()?, 1)?,
            "--commands" => options.effort.commands = number(&value()?, 100)?,
            "--pipeline" => options.effort.pipeline = number(&value()?, 1)?,
            "--tasks" => options.effort.tasks = number(&value()?, 1000)?,
            "--quick" => {
                let effort = &mut options.effort;
                (effort.rounds, effort.commands, effort.tasks) = (5, 2000, 50_000);
            }
            "--only" => options.only.push(value()?.to_lowercase()),
            "--server" => options.server = Some(value()?),
            "--markdown" => options.markdown = true,
            "--list" => options.list = true,
            "--help" | "-h" => return Ok(None),
            // What `cargo bench` adds.
            "--bench" => {}
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(Some(options))
}

fn number(text: &str, least: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| *number >= least)
        .ok_or(format!("{text} is not a number of at least {least}"))
}

/// What was measured, and how.
fn head(effort: Effort) -> String {
    let server = Server::start();
    let field = |name| info(&server, "server", name);
    let version = match field("valkey_version") {
        Some(version) => format!("Valkey {version}"),
        None => format!("Redis {}", field("redis_version").unwrap_or_default()),
    };
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    format!(
        "{version} ({}) on {processors} x {}\n\
         median of {} rounds of {} commands, {} at once on each of {CONNECTIONS} connections",
        server_binary().display(),
        model.unwrap_or("unknown processor"),
        effort.rounds,
        effort.commands,
        effort.pipeline,
    )
}

const COSTS: [Column; 8] = [
    Column("operation", 38, false),
    Column("compared with", 28, false),
    Column("ratio", 6, true),
    Column("quartiles", 11, true),
    Column("bar", 11, true),
    Column("throughput", 10, true),
    Column("Corral", 9, true),
    Column("other", 9, true),
];

const NOTES: &str = "
ratio:          processor time of the server for the other / for Corral; above 1, Corral is cheaper
throughput:     operations per second of Corral / of the other
Corral, other:  processor time of the server's main thread for one operation, system calls included
";

const LATENCIES: [Column; 4] = [
    Column("a client waits until", 38, false),
    Column("by", 28, false),
    Column("p50", 9, true),
    Column("p99", 9, true),
];

fn cost(name: &str, row: &Row) -> [String; 8] {
    let Spread { low, median, high } = row.cpu_ratio;
    let bar = match row.bar {
        None => String::new(),
        Some(bar) if row.misses() => format!("{bar:.2} MISSED"),
        Some(bar) => format!("{bar:.2} ok"),
    };
    let micros = |nanos: f64| format!("{:.2} us", nanos / 1000.0);
    [
        name.into(),
        row.label.into(),
        format!("{median:.2}"),
        format!("{low:.2}-{high:.2}"),
        bar,
        format!("{:.2}", row.throughput_ratio.median),
        micros(row.ours),
        micros(row.theirs),
    ]
}

impl Row {
    fn misses(&self) -> bool {
        self.bar.is_some_and(|bar| self.cpu_ratio.median < bar)
    }
}

/// A column: its head, its width and whether it holds numbers.
struct Column(&'static str, usize, bool);

/// A table that is printed row by row.
struct Table {
    columns: &'static [Column],
    markdown: bool,
    begun: bool,
}

impl Table {
    fn new(columns: &'static [Column], markdown: bool) -> Self {
        Self { columns, markdown, begun: false }
    }

    fn row(&mut self, cells: &[String]) {
        self.clear_progress();
        if !self.begun {
            self.begun = true;
            let heads: Vec<_> = self.columns.iter().map(|column| column.0.into()).collect();
            self.line(&heads);
            let rule = |Column(_, width, number): &Column| match number {
                true if self.markdown => "-".repeat(width - 1) + ":",
                _ => "-".repeat(*width),
            };
            self.line(&self.columns.iter().map(rule).collect::<Vec<_>>());
        }
        self.line(cells);
    }

    fn line(&self, cells: &[String]) {
        let cells = self.columns.iter().zip(cells);
        let cells = cells.map(|(Column(_, width, number), cell)| match number {
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

    fn end(&self) {
        self.clear_progress();
    }

    /// Shows what is being measured, where somebody watches.
    fn progress(&self, what: &str) {
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
