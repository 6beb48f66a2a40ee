//! The code in docs/cache.md and docs/tasks.md: each named block is taken from its page and run
//! against a real server with its client library, together with a driver that checks the outcome.
//!
//! The drivers of a page are tests/recipes/<page>/<recipe>.<extension> or, if a recipe has several,
//! <recipe>.<case>.<extension>. The page's `clients` and the recipes in the driver's first line (`#
//! on: read-through`) come before the recipe.
//!
//! Python and Node need the package `redis`: see `CORRAL_PYTHON` and `CORRAL_NODE_PATH`. Without it
//! the test says so and only checks that each recipe has a driver. Sessions, which show commands
//! and replies, always run.

mod support;
use support::*;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

/// How long a recipe may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A page: its name, which is also that of the directory of its drivers, and its text.
struct Page {
    name: &'static str,
    text: &'static str,
}

const CACHE: Page = Page { name: "cache", text: include_str!("../docs/cache.md") };
const TASKS: Page = Page { name: "tasks", text: include_str!("../docs/tasks.md") };

/// The title of a block: ```` ```python recipe=worker ````
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    language: &'static str,
    kind: &'static str,
    name: &'static str,
}

impl Page {
    /// The blocks of the page. Each needs a name, so none goes untested.
    fn blocks(&self) -> BTreeMap<Name, String> {
        let mut blocks = BTreeMap::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            let Some(head) = line.strip_prefix("```") else { continue };
            let text = lines.by_ref().take_while(|line| *line != "```");
            let text: String = text.map(|line| format!("{line}\n")).collect();
            let (language, title) = head.split_once(' ').expect("every block needs a name");
            let (kind, name) = title.split_once('=').expect("kind=name");
            let known =
                matches!((language, kind), ("python" | "js", "recipe") | ("text", "session"));
            assert!(known, "no test runs this: {head}");
            let before = blocks.insert(Name { language, kind, name }, text);
            assert_eq!(before, None, "two blocks of one name: {head}");
        }
        blocks
    }

    /// The page's recipes in a language.
    fn recipes(&self, language: &str) -> BTreeMap<&'static str, String> {
        let blocks = self.blocks().into_iter();
        let blocks = blocks.filter(|(name, _)| (name.language, name.kind) == (language, "recipe"));
        blocks.map(|(name, text)| (name.name, text)).collect()
    }
}

/// A language in which a page has recipes.
struct Language {
    name: &'static str,
    extension: &'static str,
    /// The start of a driver's first line that names the recipes before its own.
    on: &'static str,
    runtime: fn() -> Option<Runtime>,
}

const PYTHON: Language =
    Language { name: "python", extension: "py", on: "# on: ", runtime: Runtime::python };
const JAVASCRIPT: Language =
    Language { name: "js", extension: "mjs", on: "// on: ", runtime: Runtime::node };

/// Code that calls a recipe and checks the outcome.
struct Driver {
    /// The recipe, and the case if there are several drivers.
    title: String,
    text: String,
}

impl Driver {
    fn recipe(&self) -> &str {
        self.title.split_once('.').map_or(&self.title, |(recipe, _case)| recipe)
    }
}

impl Language {
    /// The code around every recipe.
    fn frame(&self, name: &str) -> String {
        fs::read_to_string(drivers_dir().join(name).with_extension(self.extension))
            .unwrap_or_default()
    }

    /// All drivers for a page.
    fn drivers(&self, page: &Page) -> Vec<Driver> {
        let files = fs::read_dir(drivers_dir().join(page.name)).expect("read the directory");
        let files = files.map(|file| file.expect("read the directory").path());
        let files = files.filter(|file| file.extension().is_some_and(|ext| ext == self.extension));
        let mut drivers: Vec<_> = files
            .map(|file| Driver {
                title: file.file_stem().expect("a name").to_str().expect("ASCII").to_owned(),
                text: fs::read_to_string(&file).expect("read a driver"),
            })
            .collect();
        drivers.sort_by(|a, b| a.title.cmp(&b.title));
        drivers
    }

    /// Runs every driver of a page with its recipe, if the language is installed.
    #[track_caller]
    fn run(&self, page: &Page) {
        let (recipes, drivers) = (page.recipes(self.name), self.drivers(page));
        let driven: BTreeSet<_> = drivers.iter().map(Driver::recipe).chain(["clients"]).collect();
        assert_eq!(driven, recipes.keys().copied().collect(), "drivers and recipes");
        let Some(runtime) = (self.runtime)() else {
            let language = self.name;
            eprintln!("no {language} with the package redis: the recipes did not run");
            return;
        };
        for driver in &drivers {
            let on = driver.text.lines().next().and_then(|line| line.strip_prefix(self.on));
            let names = ["clients"].into_iter().chain(on.unwrap_or_default().split_whitespace());
            let mut parts = vec![self.frame("before")];
            parts.extend(names.chain([driver.recipe()]).map(|name| recipes[name].clone()));
            parts.extend([driver.text.clone(), self.frame("after")]);
            runtime.run(&driver.title, self.extension, &parts.join("\n"));
        }
    }
}

fn drivers_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes")
}

/// The interpreter of a language.
struct Runtime {
    program: PathBuf,
    /// Where Node finds packages.
    modules: Option<PathBuf>,
}

impl Runtime {
    /// Python with the package `redis`.
    fn python() -> Option<Self> {
        let program = std::env::var_os("CORRAL_PYTHON").unwrap_or_else(|| "python3".into());
        let probe = Process::new(&program).args(["-c", "import redis"]).output();
        let program = program.into();
        let found = probe.is_ok_and(|probe| probe.status.success());
        found.then_some(Self { program, modules: None })
    }

    /// Node with the package `redis`.
    fn node() -> Option<Self> {
        let probe = Process::new("node").arg("--version").output();
        probe.ok().filter(|probe| probe.status.success())?;
        let named = std::env::var_os("CORRAL_NODE_PATH").map(PathBuf::from);
        let usual = [
            Path::new(env!("CARGO_MANIFEST_DIR")).join("node_modules"),
            "/usr/local/lib/node_modules".into(),
            "/usr/lib/node_modules".into(),
        ];
        let mut places = named.into_iter().chain(usual);
        let modules = places.find(|place| place.join("redis/package.json").is_file())?;
        Some(Self { program: "node".into(), modules: Some(modules) })
    }

    /// Runs a program against a new server, and checks that it leaves no waiting client.
    #[track_caller]
    fn run(&self, name: &str, extension: &str, code: &str) {
        let server = Server::start();
        let dir = tempfile::tempdir().expect("a directory");
        let (script, log) =
            (dir.path().join("recipe").with_extension(extension), dir.path().join("log"));
        fs::write(&script, code).expect("write the script");
        if let Some(modules) = &self.modules {
            let modules = std::path::absolute(modules).expect("a path");
            symlink(modules, dir.path().join("node_modules")).expect("a link");
        }
        let output = File::create(&log).expect("create the log");
        let mut command = Process::new(&self.program);
        command
            .arg(&script)
            .env("REDIS_URL", format!("redis://{}", server.addr()))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate a descriptor"))
            .stderr(output);
        let mut process = spawn(command).expect("start the runtime");
        let said = || fs::read_to_string(&log).expect("read the log");
        let end = std::time::Instant::now() + TIMEOUT;
        let status = eventually(TIMEOUT + SOON, name, || {
            assert!(std::time::Instant::now() < end, "{name} takes too long\n{}", said());
            process.try_wait().expect("try_wait")
        });
        assert!(status.success(), "{name}: {status}\n{}", said());
        let mut client = server.client();
        for family in ["cache", "task"] {
            eventually(SOON, "no client waits", || waiters(&mut client, family) == 0);
        }
    }
}

#[test]
fn the_python_recipes_for_the_cache_work() {
    PYTHON.run(&CACHE);
}

#[test]
fn the_javascript_recipes_for_the_cache_work() {
    JAVASCRIPT.run(&CACHE);
}

#[test]
fn the_python_recipes_for_tasks_work() {
    PYTHON.run(&TASKS);
}

#[test]
fn the_javascript_recipes_for_tasks_work() {
    JAVASCRIPT.run(&TASKS);
}

/// A reply as the pages write it, with inner arrays in brackets.
fn spell(reply: &Value) -> String {
    let all = |items: &[Value]| items.iter().map(spell_within).collect::<Vec<_>>().join(" ");
    match reply {
        Value::Array(items) if items.is_empty() => "(empty array)".into(),
        Value::Array(items) => all(items),
        inner => spell_within(inner),
    }
}

fn spell_within(reply: &Value) -> String {
    match reply {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(spell_within).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Int(number) => number.to_string(),
        nil if nil.is_nil() => "(nil)".into(),
        text => text.as_str().into(),
    }
}

/// A word that differs in each run of a session. Equal words on the page are equal in the run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The token of a load. Tokens rise.
    Token,
    /// The id of a task, with the sequence divided by 10^17, which tells its priority.
    Id(u64),
    /// Unix time in seconds.
    Seconds,
}

fn kind(word: &str) -> Option<Kind> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match word.split_once('-') {
        Some((ms, seq)) if ms.len() == 13 && digits(ms) && digits(seq) => {
            let seq = seq.parse::<u64>().expect("it fits");
            Some(Kind::Id(seq / 10_u64.pow(17)))
        }
        None if digits(word) && word.len() == 16 => Some(Kind::Token),
        None if digits(word) && word.len() == 10 => Some(Kind::Seconds),
        _ => None,
    }
}

/// The words of the page with their values in this run.
#[derive(Default)]
struct Meanings(BTreeMap<String, String>);

impl Meanings {
    /// A line of the page with the values of this run.
    fn translate(&self, line: &str) -> String {
        let words = split(line).map(|word| self.0.get(word).map_or(word, String::as_str));
        words.collect()
    }

    /// Compares a reply with the page and learns the values of its words. `…` is any word.
    fn learn(&mut self, page: &str, reply: &str) -> bool {
        let (expected, found): (Vec<_>, Vec<_>) = (split(page).collect(), split(reply).collect());
        expected.len() == found.len()
            && expected.iter().zip(&found).all(|(expected, found)| self.fits(expected, found))
    }

    fn fits(&mut self, expected: &str, found: &str) -> bool {
        match kind(expected) {
            _ if expected == "…" => true,
            None => expected == found,
            Some(Kind::Seconds) => kind(found) == Some(Kind::Seconds),
            sort if sort != kind(found) => false,
            Some(_) if self.0.contains_key(expected) => self.0[expected] == found,
            Some(new) => {
                let before = self.0.keys().filter(|word| kind(word) == Some(new));
                let rises = before.max().is_none_or(|newest| newest.as_str() < expected);
                assert!(new != Kind::Token || rises, "tokens rise: {expected}");
                self.0.insert(expected.to_owned(), found.to_owned());
                true
            }
        }
    }
}

/// The words of a line and their separators.
fn split(line: &str) -> impl Iterator<Item = &str> {
    line.split_inclusive([' ', '[', ']']).flat_map(|part| {
        let word = part.trim_end_matches([' ', '[', ']']);
        [word, &part[word.len()..]].into_iter().filter(|part| !part.is_empty())
    })
}

/// Runs the sessions of a page.
#[track_caller]
fn run_sessions(page: &Page) {
    let blocks = page.blocks();
    let sessions: Vec<_> = blocks.iter().filter(|(name, _)| name.kind == "session").collect();
    assert!(!sessions.is_empty());
    let server = Server::start();
    for (Name { name, .. }, text) in sessions {
        let mut client = server.client();
        assert_eq!(client.run("FLUSHALL"), ok());
        let mut meanings = Meanings::default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let command = line.strip_prefix("> ").expect("a command, then its reply");
            let here = meanings.translate(command);
            let reply = spell(&client.run(&here));
            let expected = lines.next().expect("a reply");
            let same = meanings.learn(expected, &reply);
            assert!(same, "{name}: {command}\n    page: {expected}\n    here: {reply}\n{here}");
        }
    }
}

#[test]
fn the_sessions_of_the_cache_page_reply_as_written() {
    run_sessions(&CACHE);
}

#[test]
fn the_sessions_of_the_task_page_reply_as_written() {
    run_sessions(&TASKS);
}
