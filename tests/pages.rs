//! The pages that a reader follows with `redis-cli`: every block of code runs as it is printed, every
//! reply is compared with the page, and every link leads somewhere.
//!
//! The word behind the fence says what a block is:
//! - `sh` is pasted into a terminal. Where the text above names one ("Terminal 2 …"), it is that one.
//! - `text` is what that terminal prints. Nothing else may appear.
//! - `python NAME` is a file in the directory of the terminals. Such a block and those directly below it
//!   need the package in clients/python, see `CORRAL_PYTHON`; without it they do not run.
//! - `text session` has commands behind `> `, each followed by its reply.
//! - `console` installs, builds or starts something. It is not run, but the targets, scripts and tests
//!   that it names must exist. When a page says `make run` again, the server restarts with its data.
//! - `text syntax` and `text format` show a form.
//!
//! The terminal finds a `redis-cli` that fills in the port; in a file, the test fills it in. Ids, tokens
//! and times differ from those on the page: see [`Meanings`].

mod support;
use support::*;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a block may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[derive(Debug, PartialEq)]
enum Part {
    /// A heading: its level and its text.
    Heading(usize, String),
    Prose(String),
    /// A block of code: the words behind the fence, and its lines.
    Block(String, Vec<String>),
}

/// A page, cut at headings, empty lines and fences.
fn parts(page: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut prose = String::new();
    let mut lines = read(page).lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
    while let Some(line) = lines.next() {
        let fence = line.strip_prefix("```").map(str::to_owned);
        let hashes = line.bytes().take_while(|byte| *byte == b'#').count();
        let heading = line[hashes..].strip_prefix(' ').filter(|_| hashes > 0);
        if (fence.is_some() || heading.is_some() || line.is_empty()) && !prose.is_empty() {
            parts.push(Part::Prose(std::mem::take(&mut prose)));
        }
        if let Some(fence) = fence {
            parts.push(Part::Block(
                fence,
                lines.by_ref().take_while(|line| line != "```").collect(),
            ));
        } else if let Some(text) = heading {
            parts.push(Part::Heading(hashes, text.to_owned()));
        } else if !line.is_empty() {
            prose += &line;
            prose.push('\n');
        }
    }
    if !prose.is_empty() {
        parts.push(Part::Prose(prose));
    }
    parts
}

/// A shell on a pseudoterminal, so that `redis-cli` prints what a person sees.
struct Terminal {
    process: Child,
    commands: File,
    /// `script` would end with its standard input.
    _stdin: Option<ChildStdin>,
    printed: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(server: &Server, name: &str, dir: &Path) -> Self {
        let fifo = dir.join(format!("terminal-{name}"));
        let made = Process::new("mkfifo").arg(&fifo).status().expect("run mkfifo");
        assert!(made.success(), "mkfifo");
        let mut path = format!("{}:", dir.display());
        let python = python_with("corral_client");
        let bin = python.as_deref().and_then(Path::parent).filter(|bin| bin.is_absolute());
        if let Some(bin) = bin {
            path += &format!("{}:", bin.display());
        }
        path += &std::env::var("PATH").expect("a PATH");
        let mut command = Process::new("script");
        command
            .args(["-qefc", &format!("exec bash '{}'", fifo.display()), "/dev/null"])
            .env("PATH", path)
            .env("TERM", "dumb")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(server.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut process = spawn(command).expect("script, of the package bsdutils");
        let mut output = process.stdout.take().expect("its output");
        let stdin = process.stdin.take();
        let commands = File::options().write(true).open(&fifo).expect("bash opens the FIFO");
        let printed = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&printed);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).replace('\r', "");
                *shared.lock().unwrap_or_else(PoisonError::into_inner) += &text;
            }
        });
        Self { process, commands, _stdin: stdin, printed }
    }

    fn type_in(&mut self, line: &str) {
        writeln!(self.commands, "{line}").expect("write to bash");
    }

    /// What has been printed and not been taken yet.
    fn printed(&self) -> Vec<String> {
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let complete = printed.rfind('\n').map_or("", |end| &printed[..end]);
        complete.split('\n').filter(|_| !complete.is_empty()).map(str::to_owned).collect()
    }

    /// Waits for so many lines and takes them.
    #[track_caller]
    fn take(&mut self, count: usize, what: &str) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        while self.printed().len() < count {
            let printed = || self.printed().join("\n");
            assert!(Instant::now() < end, "{what}\n    printed only:\n{}", printed());
            thread::sleep(Duration::from_millis(5));
        }
        let lines = self.printed();
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: usize = lines[..count].iter().map(|line| line.len() + 1).sum();
        printed.drain(..taken);
        lines[..count].to_vec()
    }

    /// Leaves the shell and returns what it printed last.
    fn close(mut self) -> Vec<String> {
        self.type_in("exit");
        eventually(PATIENCE, "the shell ends", || {
            self.process.try_wait().expect("wait for script").is_some()
        });
        self.printed()
    }
}

/// What the ids and tokens of a page are here.
///
/// A number may differ from the page if it has ten digits or more, if it has at least four digits and the
/// line has no quotes (a time, an amount of memory), or if the line above names a time: `"…_ms"`. Where
/// the page repeats an id, the server must repeat it as well.
#[derive(Default)]
struct Meanings(BTreeMap<String, String>);

impl Meanings {
    /// A command of the page with the ids and tokens of this server.
    fn translate(&self, line: &str) -> String {
        words(line).into_iter().map(|word| self.0.get(word).map_or(word, String::as_str)).collect()
    }

    /// Compares lines of the page with what was printed, and learns.
    fn learn(&mut self, page: &[String], printed: &[String]) -> bool {
        let mut before = "";
        page.len() == printed.len()
            && page.iter().zip(printed).all(|(page, printed)| {
                let time = before.contains("_ms\"");
                before = page;
                self.same_line(page, printed, time)
            })
    }

    fn same_line(&mut self, page: &str, printed: &str, time: bool) -> bool {
        let (expected, found) = (words(page), words(printed));
        let quoted = page.contains('"');
        expected.len() == found.len()
            && expected.iter().zip(&found).enumerate().all(|(index, (expected, found))| {
                let digits = |word: &str| word.split('-').next().unwrap_or_default().len();
                let varies = digits(expected) >= 10
                    || !quoted && digits(expected) >= 4
                    || time && index + 1 == words(page).len();
                if expected == found {
                    return true;
                }
                varies && is_number(expected) && is_number(found) && self.mean(expected, found)
            })
    }

    /// Notes what a number of the page is here. False if an id of the page has meant another one before.
    fn mean(&mut self, page: &str, here: &str) -> bool {
        let id = page.contains('-');
        if id != here.contains('-') {
            return false;
        }
        let before = self.0.insert(page.to_owned(), here.to_owned());
        !id || before.is_none_or(|before| before == here)
    }
}

fn is_number(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
}

/// A line, cut into numbers or ids and what stands between them.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let number = rest.bytes().take_while(u8::is_ascii_digit).count();
        let end = if number == 0 {
            rest.find(|char: char| char.is_ascii_digit()).unwrap_or(rest.len())
        } else {
            let sequence = rest[number..]
                .strip_prefix('-')
                .map_or(0, |sequence| sequence.bytes().take_while(u8::is_ascii_digit).count());
            number + if sequence == 0 { 0 } else { sequence + 1 }
        };
        words.push(&rest[..end]);
        rest = &rest[end..];
    }
    words
}

/// A page that is being run, with its server and its terminals.
struct Reading {
    page: &'static str,
    server: Server,
    bin: tempfile::TempDir,
    terminals: BTreeMap<String, Terminal>,
    meanings: Meanings,
    /// The terminal of the last block.
    here: String,
    starts: usize,
}

impl Reading {
    fn begin(page: &'static str) -> Self {
        let keeps_data = read(page).contains("DIR=");
        let server = Server::builder().aof(keeps_data).start();
        let bin = tempfile::tempdir().expect("a directory");
        let real = find_program("redis-cli");
        let shim = bin.path().join("redis-cli");
        let text = format!("#!/bin/sh\nexec '{}' -p {} \"$@\"\n", real.display(), server.port());
        fs::write(&shim, text).expect("write redis-cli");
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("make it executable");
        let (terminals, meanings) = (BTreeMap::new(), Meanings::default());
        Self { page, server, bin, terminals, meanings, here: "1".into(), starts: 0 }
    }

    fn terminal(&mut self) -> &mut Terminal {
        let (server, bin, here) = (&self.server, self.bin.path(), &self.here);
        self.terminals.entry(here.clone()).or_insert_with(|| Terminal::open(server, here, bin))
    }

    /// Types a block into its terminal, as it is.
    fn type_in(&mut self, lines: &[String]) {
        for line in lines {
            self.terminal().type_in(line);
        }
    }

    #[track_caller]
    fn expect(&mut self, expected: &[String], what: &str) {
        let what = format!("{} in terminal {}: {what}", self.page, self.here);
        let printed = self.terminal().take(expected.len(), &what);
        assert!(
            self.meanings.learn(expected, &printed),
            "{what}\n    page:\n{}\n    here:\n{}",
            expected.join("\n"),
            printed.join("\n")
        );
    }

    #[track_caller]
    fn session(&mut self, lines: &[String]) {
        let mut lines = lines.iter().peekable();
        while let Some(line) = lines.next() {
            let command = line.strip_prefix("> ").expect("a command, then its reply");
            let here = self.meanings.translate(command);
            self.terminal().type_in(&format!("redis-cli {here}"));
            let mut reply = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("> ")) {
                reply.push(line.clone());
            }
            self.expect(&reply, command);
        }
    }

    /// Runs the page from top to bottom.
    #[track_caller]
    fn run(mut self) {
        let parts = parts(self.page);
        let mut skips = false;
        for (index, part) in parts.iter().enumerate() {
            skips &= matches!(part, Part::Block(..));
            match part {
                Part::Heading(2, _) if self.page == "docs/commands.md" => {
                    // Each family begins with an empty server.
                    assert_eq!(self.server.client().run("FLUSHALL"), ok());
                    self.meanings = Meanings::default();
                }
                Part::Heading(..) => {}
                Part::Prose(text) => {
                    if let Some((_, named)) = text.rsplit_once("Terminal ") {
                        self.here = named.chars().take(1).collect();
                    }
                }
                Part::Block(kind, lines) => match kind.as_str() {
                    _ if skips => {}
                    "sh" => {
                        self.type_in(lines);
                        if another_terminal_is_next(&parts[index + 1..], &self.here) {
                            wait_blocked(&self.server, 1);
                        }
                    }
                    "text" => self.expect(lines, &lines.join("\n")),
                    "text session" => self.session(lines),
                    "console" => self.console(lines),
                    "text syntax" | "text format" => {}
                    other => match other.strip_prefix("python ") {
                        Some(name) => skips = !self.write_file(name, lines),
                        None => panic!("{}: nothing runs a block of {other:?}", self.page),
                    },
                },
            }
        }
        for (name, terminal) in std::mem::take(&mut self.terminals) {
            let rest = terminal.close();
            assert!(rest.is_empty(), "{} in terminal {name} prints more: {rest:?}", self.page);
        }
    }

    /// Writes a file of Python. False if the package is missing.
    fn write_file(&self, name: &str, lines: &[String]) -> bool {
        if python_with("corral_client").is_none() {
            eprintln!("no Python with the package corral_client: {name} did not run");
            return false;
        }
        let text = lines.join("\n").replace("localhost:6379", &self.server.addr().to_string());
        fs::write(self.server.dir().join(name), text).expect("write a file");
        true
    }

    /// Checks that everything the block names exists. The second `make run` of a page, and every later
    /// one, restarts the server.
    #[track_caller]
    fn console(&mut self, lines: &[String]) {
        for line in lines {
            let command = line.split(" #").next().unwrap_or_default().trim();
            let missing = missing_files(command);
            assert!(missing.is_empty(), "{}: {line}: there is no {missing:?}", self.page);
            if command.ends_with("make run") {
                self.starts += 1;
                if self.starts > 1 {
                    self.server.restart();
                }
            }
        }
    }
}

/// The make targets, tests and scripts that a command names and that do not exist.
fn missing_files(command: &str) -> Vec<String> {
    let makefile = read("Makefile");
    let words: Vec<_> = command.split_whitespace().collect();
    let mut missing = Vec::new();
    for pair in words.windows(2) {
        let exists = match pair[0] {
            "make" if !pair[1].starts_with('-') => makefile.contains(&format!("\n{}:", pair[1])),
            "--test" => root().join("tests").join(pair[1]).with_extension("rs").is_file(),
            _ => true,
        };
        if !exists {
            missing.push(pair.join(" "));
        }
    }
    let scripts = words.iter().filter_map(|word| word.find("scripts/").map(|at| &word[at..]));
    missing.extend(scripts.filter(|script| !root().join(script).is_file()).map(str::to_owned));
    missing
}

/// Whether the next block belongs to another terminal: then the command of this one waits.
fn another_terminal_is_next(parts: &[Part], here: &str) -> bool {
    for part in parts {
        match part {
            Part::Prose(text) => {
                if let Some((_, named)) = text.rsplit_once("Terminal ") {
                    return !named.starts_with(here);
                }
            }
            Part::Block(..) | Part::Heading(..) => return false,
        }
    }
    false
}

#[track_caller]
fn find_program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").expect("a PATH");
    let mut places = path.split(':').map(|dir| Path::new(dir).join(name));
    places.find(|place| place.is_file()).unwrap_or_else(|| panic!("{name} is missing"))
}

#[test]
fn the_first_page_prints_what_it_says() {
    Reading::begin("README.md").run();
}

#[test]
fn the_tutorial_prints_what_it_says() {
    Reading::begin("docs/tutorial.md").run();
}

#[test]
fn the_sessions_of_the_reference_print_what_it_says() {
    Reading::begin("docs/commands.md").run();
}

#[test]
fn the_commands_for_operators_print_what_their_page_says() {
    Reading::begin("docs/operations.md").run();
}

#[test]
fn the_sessions_of_the_wire_print_what_its_page_says() {
    Reading::begin("docs/wire.md").run();
}

#[test]
fn the_manual_check_prints_what_it_says() {
    Reading::begin("TEST_GUIDE.md").run();
}

#[test]
fn the_reference_has_every_command_and_no_other() {
    let server = Server::start();
    let known = server.client().run("COMMAND LIST FILTERBY MODULE corral");
    let known: BTreeSet<_> =
        known.items().iter().map(|name| name.as_str().to_uppercase()).collect();
    let syntax = parts("docs/commands.md").into_iter().filter_map(|part| match part {
        Part::Block(kind, lines) if kind == "text syntax" => {
            Some(lines[0].split(' ').next().unwrap_or_default().to_owned())
        }
        _ => None,
    });
    assert_eq!(syntax.collect::<BTreeSet<_>>(), known);
}

/// Every page of the project.
fn pages() -> Vec<String> {
    let in_dir = |dir: &str| {
        let files = fs::read_dir(root().join(dir)).expect("read the directory");
        let names = files.map(|file| file.expect("read").file_name().into_string().expect("ASCII"));
        let pages = names.filter(|name| Path::new(name).extension().is_some_and(|ext| ext == "md"));
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        pages.map(|name| format!("{prefix}{name}")).collect::<Vec<_>>()
    };
    ["", "docs", "clients/python", "clients/node", "examples", "examples/python", "examples/node"]
        .map(in_dir)
        .concat()
}

/// The anchors of a page, as GitHub derives them from the headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let headings = parts(page).into_iter().filter_map(|part| match part {
        Part::Heading(_, text) => Some(text),
        _ => None,
    });
    headings
        .map(|text| {
            let kept = text.to_lowercase();
            let kept = kept.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
            let anchor: String = kept.map(|char| if char == ' ' { '-' } else { char }).collect();
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        })
        .collect()
}

/// The targets of the links in a text: what stands between `](` and `)`.
fn links(text: &str) -> Vec<&str> {
    text.match_indices("](")
        .filter_map(|(at, open)| text[at + open.len()..].split_once(')'))
        .map(|(target, _)| target)
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    let mut dead = Vec::new();
    for page in pages() {
        let dir = Path::new(&page).parent().expect("a directory").to_owned();
        for part in parts(&page) {
            let (Part::Prose(text) | Part::Heading(_, text)) = part else { continue };
            for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = if file.is_empty() { PathBuf::from(&page) } else { dir.join(file) };
                let exists = root().join(&target).exists();
                let target = target.to_string_lossy();
                if !exists || !anchor.is_empty() && !anchors(&target).contains(anchor) {
                    dead.push(format!("{page}: {link}"));
                }
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn the_first_page_has_at_most_200_lines() {
    assert!(read("README.md").lines().count() <= 200);
}
