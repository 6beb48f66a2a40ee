//! The recipes of docs/cache.md and docs/tasks.md do what the pages say: each block of code that bears
//! a name is taken from its page and run against a real server, by the client library that it is
//! written for, together with a driver that fails unless the outcome is right.
//!
//! The drivers of a page are in tests/recipes/<page>/, for each recipe `<recipe>.<extension>` or several
//! `<recipe>.<case>.<extension>`. Before a recipe comes what its page gives as `clients`, and what the
//! driver's first line names: `# on: read-through`.
//!
//! Python needs the package `redis` (`CORRAL_PYTHON` names an interpreter that has it), Node too
//! (`CORRAL_NODE_PATH` names a `node_modules` that has it). Where one is missing, the test says so and
//! sees only that each recipe has its driver. Sessions, which show commands and replies, always run.

mod support;
use support::*;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

/// How long a recipe may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A page, by the name of its file and of the directory of its drivers.
struct Page {
    name: &'static str,
    text: &'static str,
}

const CACHE: Page = Page { name: "cache", text: include_str!("../docs/cache.md") };
const TASKS: Page = Page { name: "tasks", text: include_str!("../docs/tasks.md") };

/// How a block of a page is called: ```` ```python recipe=worker ````
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    language: &'static str,
    kind: &'static str,
    name: &'static str,
}

impl Page {
    /// The page's blocks: each bears a name, so that none goes untested.
    fn blocks(&self) -> BTreeMap<Name, String> {
        let mut blocks = BTreeMap::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            let Some(head) = line.strip_prefix("```") else { continue };
            let text = lines.by_ref().take_while(|line| *line != "```");
            let text: String = text.map(|line| format!("{line}\n")).collect();
            let (language, title) = head.split_once(' ').expect("every block bears a name");
            let (kind, name) = title.split_once('=').expect("kind=name");
            let known =
                matches!((language, kind), ("python" | "js", "recipe") | ("text", "session"));
            assert!(known, "nothing runs this: {head}");
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
    /// How a driver's first line begins that names what its recipe builds on.
    on: &'static str,
    runtime: fn() -> Option<Runtime>,
}

const PYTHON: Language =
    Language { name: "python", extension: "py", on: "# on: ", runtime: Runtime::python };
const JAVASCRIPT: Language =
    Language { name: "js", extension: "mjs", on: "// on: ", runtime: Runtime::node };

/// Code that calls a recipe and fails unless the outcome is right.
struct Driver {
    /// The recipe, and the case if it has several drivers.
    title: String,
    text: String,
}

impl Driver {
    fn recipe(&self) -> &str {
        self.title.split_once('.').map_or(&self.title, |(recipe, _case)| recipe)
    }
}

impl Language {
    /// What stands around every recipe.
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

    /// Runs every driver of a page with its recipe, or says why not.
    #[track_caller]
    fn run(&self, page: &Page) {
        let (recipes, drivers) = (page.recipes(self.name), self.drivers(page));
        let driven: BTreeSet<_> = drivers.iter().map(Driver::recipe).chain(["clients"]).collect();
        assert_eq!(driven, recipes.keys().copied().collect(), "recipes, and what drives them");
        let Some(runtime) = (self.runtime)() else {
            let language = self.name;
            eprintln!(
                "no {language} with the package redis: the recipes are there, but did not run"
            );
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

/// What runs a language.
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

    /// Runs a program against a server of its own; nobody waits there any more when it has ended.
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
        let end = std::time::Instant::now() + PATIENCE;
        let status = eventually(PATIENCE + SOON, name, || {
            assert!(std::time::Instant::now() < end, "{name} does not end\n{}", said());
            process.try_wait().expect("try_wait")
        });
        assert!(status.success(), "{name}: {status}\n{}", said());
        let mut client = server.client();
        for family in ["cache", "task"] {
            eventually(SOON, "nobody waits", || waiters(&mut client, family) == 0);
        }
    }
}

#[test]
fn the_recipes_for_the_cache_in_python_do_what_the_page_says() {
    PYTHON.run(&CACHE);
}

#[test]
fn the_recipes_for_the_cache_in_javascript_do_what_the_page_says() {
    JAVASCRIPT.run(&CACHE);
}

#[test]
fn the_recipes_for_tasks_in_python_do_what_the_page_says() {
    PYTHON.run(&TASKS);
}

#[test]
fn the_recipes_for_tasks_in_javascript_do_what_the_page_says() {
    JAVASCRIPT.run(&TASKS);
}

/// A reply in the words of the pages: arrays within it are in brackets.
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

/// What a word is that differs each time a session is run. Such words are the same where they are the
/// same on the page.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Of a lease on a cached value. They rise.
    Token,
    /// Of a task, with what the id tells of its place: the sequence divided by 10^17.
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

/// The words of the page, and what they are here.
#[derive(Default)]
struct Meanings(BTreeMap<String, String>);

impl Meanings {
    /// A line of the page as it is here: words that have come before have their meaning.
    fn translate(&self, line: &str) -> String {
        let words = split(line).map(|word| self.0.get(word).map_or(word, String::as_str));
        words.collect()
    }

    /// Learns from a reply what the words of the page mean whose kind says that they differ; `…` is
    /// any word. False if the reply is another one.
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

/// The words of a line, and what separates them.
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
fn the_sessions_with_the_cache_reply_what_the_page_says() {
    run_sessions(&CACHE);
}

#[test]
fn the_sessions_with_tasks_reply_what_the_page_says() {
    run_sessions(&TASKS);
}
