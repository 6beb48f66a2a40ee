//! The benchmark: the commands of the module compared with the native commands and the Lua scripts
//! that people use without it, on the same server.
//!
//! Run `make bench`, or `make bench ARGS="--only LOCK --rounds 30"`; see [`USAGE`]. The program exits
//! with 1 if there is a regression ([`verdict`]).

#[path = "../tests/support/mod.rs"]
mod support;

mod cases;
mod crowd;
mod graph;
mod latency;
mod measure;
mod page;
mod swarm;
mod table;
mod verdict;
mod wire;

use cases::Study;
use latency::{LatencyCase, measure_latency};
use measure::{CONNECTIONS, Case, Effort, Row, Spread, measure};
use std::process::ExitCode;
use support::{Server, server_binary};
use table::{Column, Table};
use verdict::Verdict;

const USAGE: &str = "\
Compares the commands of Corral with native commands and Lua scripts.

  --rounds N     rounds of each comparison (default 15)
  --commands N   commands in each round (default 10000)
  --pipeline N   commands that a connection sends at once (default 16)
  --tasks N      tasks in the comparisons that depend on their number (default 1000000; 10000000 needs
                 about 4 GB and several minutes)
  --quick        a first impression: --rounds 5 --commands 2000 --tasks 50000
  --check        finds regressions in two minutes: only the ratios with a bar, --rounds 7 --commands 4000
  --only NAME    only the comparisons whose name contains NAME; can be repeated
  --server PATH  the server (default: the environment variable SERVER, or redis-server); with --page it
                 can be repeated
  --page         print the table of costs in docs/performance.md, for each --server (default: Redis 7.0 and
                 8.10, from scripts/servers.sh); takes 20 minutes
  --markdown     print the tables in Markdown
  --list         print the names of all comparisons

The environment variable CORRAL_MODULE selects the module (default target/release/libcorral.so).
The exit code is 1 if there is a regression, and 2 if an option is wrong.";

struct Options {
    effort: Effort,
    only: Vec<String>,
    servers: Vec<String>,
    page: bool,
    markdown: bool,
    list: bool,
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().collect();
    if let Some(option) = words.iter().position(|word| word == cases::VICTIM) {
        cases::run_victim(&words[option + 1..]);
    }
    let options = match options(words.into_iter().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(server) = options.servers.first() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("SERVER", server) };
    }
    let selected = |name: &str| {
        let name = name.to_lowercase();
        options.only.is_empty() || options.only.iter().any(|only| name.contains(only))
    };
    let cases: Vec<_> =
        cases::all(options.effort.check).filter(|case| selected(case.name)).collect();
    let latencies: Vec<_> = cases::latencies().filter(|case| selected(case.name)).collect();
    let studies: Vec<_> = cases::studies().filter(|study| selected(study.name)).collect();
    let (latencies, studies) =
        if options.effort.check { Default::default() } else { (latencies, studies) };
    if options.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        latencies.iter().for_each(|case| println!("{}", case.name));
        studies.iter().for_each(|study| println!("{}", study.name));
        return ExitCode::SUCCESS;
    }

    if options.page {
        let servers = match options.servers.is_empty() {
            true => page::servers(),
            false => options.servers,
        };
        page::print(&cases, &servers, options.effort);
        return ExitCode::SUCCESS;
    }
    println!("{}\n", head(options.effort));
    let mut regressions = print_cases(&cases, &options);
    println!("{NOTES}");
    print_latencies(&latencies, &options);
    for study in studies {
        println!();
        regressions.extend(print_study(study, &options));
    }
    if regressions.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nRegressions: {}", regressions.len());
    regressions.iter().for_each(|regression| println!("  {regression}"));
    ExitCode::FAILURE
}

/// Returns the regressions.
fn print_cases(cases: &[&Case], options: &Options) -> Vec<String> {
    let mut table = Table::new(&COSTS, options.markdown);
    let mut regressions = Vec::new();
    for case in cases {
        table.progress(case.name);
        for (number, row) in measure(case, options.effort).iter().enumerate() {
            table.row(&cost(if number == 0 { case.name } else { "" }, row));
            if let (Some(bar), Some(Verdict::Regression)) = (row.bar, row.verdict()) {
                let (name, other, ratio) = (case.name, row.label, row.cpu_ratio.median);
                let floor = bar.floor();
                regressions.push(format!(
                    "{name}, compared with {other}: {ratio:.2}, which is below {floor:.2}"
                ));
            }
        }
    }
    table.end();
    regressions
}

fn print_latencies(cases: &[&LatencyCase], options: &Options) {
    let mut table = Table::new(&LATENCIES, options.markdown);
    for case in cases {
        table.progress(case.name);
        for (number, row) in measure_latency(case, options.effort).iter().enumerate() {
            table.row(&[
                if number == 0 { case.name } else { "" }.into(),
                row.label.into(),
                format!("{:.0} us", row.p50),
                format!("{:.0} us", row.p99),
            ]);
        }
    }
    table.end();
}

/// Returns the regressions.
fn print_study(study: &Study, options: &Options) -> Vec<String> {
    let mut table = Table::new(study.columns, options.markdown);
    let (mut regressions, mut group) = (Vec::new(), String::new());
    table.progress(study.name);
    for row in (study.run)(options.effort) {
        // Only the first row of a group names it.
        if !row[0].is_empty() {
            group.clone_from(&row[0]);
        }
        let bars = row.iter().filter_map(|cell| Verdict::failed_bar(cell));
        regressions.extend(bars.map(|bar| format!("{}, {group}, {}: {bar}", study.name, row[1])));
        table.row(&row);
    }
    table.end();
    regressions
}

fn options(args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        effort: Effort {
            rounds: 15,
            commands: 10_000,
            pipeline: 16,
            tasks: 1_000_000,
            check: false,
            graphs: true,
        },
        only: Vec::new(),
        servers: Vec::new(),
        page: false,
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
                effort.graphs = false;
            }
            "--check" => {
                let effort = &mut options.effort;
                (effort.rounds, effort.commands, effort.check) = (7, 4000, true);
            }
            "--only" => options.only.push(value()?.to_lowercase()),
            "--server" => options.servers.push(value()?),
            "--page" => options.page = true,
            "--markdown" => options.markdown = true,
            "--list" => options.list = true,
            "--help" | "-h" => return Ok(None),
            // `cargo bench` adds this one.
            "--bench" => {}
            other => return Err(format!("unknown option {other}")),
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

/// The server, the machine and the effort.
fn head(effort: Effort) -> String {
    let version = measure::version(&Server::start());
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

const COSTS: [Column; 10] = [
    Column("operation", 38, false),
    Column("compared with", 30, false),
    Column("ratio", 6, true),
    Column("quartiles", 11, true),
    Column("relay", 5, true),
    Column("bar", 5, true),
    Column("verdict", 12, false),
    Column("throughput", 10, true),
    Column("Corral", 9, true),
    Column("other", 9, true),
];

const NOTES: &str = "
ratio:          processor time of the server: other / Corral; above 1, Corral is cheaper
relay:          the same for a module that only runs the other's commands and forwards the last reply; for
                other clients, one that receives the same keyspace events and ignores them
verdict:        noise: the median ratio is below the bar, the upper quartile is not
                out of reach: the relay misses the bar, too
                REGRESSION: a fifth below the bar, or below the ratio that has been reached (on other servers
                than Redis 7.0, two fifths)
throughput:     operations per second: Corral / other
Corral, other:  processor time of the server's main thread per operation, system calls included
";

const LATENCIES: [Column; 4] = [
    Column("a client waits until", 38, false),
    Column("command", 30, false),
    Column("p50", 9, true),
    Column("p99", 9, true),
];

fn cost(name: &str, row: &Row) -> [String; 10] {
    let Spread { low, median, high } = row.cpu_ratio;
    let micros = |nanos: f64| format!("{:.2} us", nanos / 1000.0);
    [
        name.into(),
        row.label.into(),
        format!("{median:.2}"),
        format!("{low:.2}-{high:.2}"),
        row.relay_ratio.map(|relay| format!("{relay:.2}")).unwrap_or_default(),
        row.bar.map(|bar| format!("{:.2}", bar.goal)).unwrap_or_default(),
        row.verdict().map(|verdict| verdict.to_string()).unwrap_or_default(),
        format!("{:.2}", row.throughput_ratio.median),
        micros(row.ours),
        micros(row.theirs),
    ]
}
