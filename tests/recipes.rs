//! The code on the pages of `docs/`. Every block is run exactly as printed.
//!
//! - ```` ```python mailer.py ```` and ```` ```js worker.mjs ````: files. All files of all pages stand in one directory.
//!   Drivers import or start them against a real server, and check the outcome: tests/recipes/<page>/<file>, or
//!   <file stem>.<case>.<extension> if a file has several. Python needs the package in clients/python, Node the package
//!   `redis`; see `CORRAL_PYTHON` and `CORRAL_NODE_PATH`. A driver whose first line is `# needs: celery` needs that
//!   package too.
//! - ```` ```text session=life ````: commands and replies. They always run.
//!
//! Where a language is missing, the test says so and only checks that each file has a driver.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

/// How long a driver may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A page: its name, which is also that of the directory of its drivers, and its text.
struct Page {
    name: &'static str,
    text: &'static str,
}

const CACHE: Page = Page { name: "cache", text: include_str!("../docs/cache.md") };
const CLIENTS: Page = Page { name: "clients", text: include_str!("../docs/clients.md") };
const LOCKS: Page = Page { name: "locks", text: include_str!("../docs/locks.md") };
const MIGRATE: Page = Page { name: "migrate", text: include_str!("../docs/migrate.md") };
const TASKS: Page = Page { name: "tasks", text: include_str!("../docs/tasks.md") };
const TESTING: Page = Page { name: "testing", text: include_str!("../docs/testing.md") };
const PAGES: [&Page; 6] = [&CACHE, &CLIENTS, &LOCKS, &MIGRATE, &TASKS, &TESTING];

/// The head of a block: its language, and the name of a file or of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    language: &'static str,
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
            let (language, name) = head.split_once(' ').expect("every block needs a name");
            let (_, extension) = name.rsplit_once('.').unwrap_or_default();
            let tested = match language {
                "python" => extension == "py",
                "js" => extension == "mjs",
                "sql" | "lua" => extension == language,
                "text" => ["session=", "diagram="].iter().any(|kind| name.starts_with(kind)),
                _ => false,
            };
            assert!(tested, "no test runs this: {head}");
            let before = blocks.insert(Name { language, name }, text);
            assert_eq!(before, None, "two blocks of one name: {head}");
        }
        blocks
    }

    /// The blocks in a language, by their name.
    fn files(&self, language: &str) -> BTreeMap<&'static str, String> {
        let blocks = self.blocks().into_iter().filter(|(name, _)| name.language == language);
        blocks.map(|(name, text)| (name.name, text)).collect()
    }
}

/// A scripting language.
struct Language {
    name: &'static str,
    extension: &'static str,
    /// The start of a driver's first line that names packages.
    needs: &'static str,
    runtime: fn() -> Option<Runtime>,
}

const PYTHON: Language =
    Language { name: "python", extension: "py", needs: "# needs: ", runtime: Runtime::python };
const JAVASCRIPT: Language =
    Language { name: "js", extension: "mjs", needs: "// needs: ", runtime: Runtime::node };

/// A program that imports or starts a file of the page and checks the outcome.
struct Driver {
    /// The name of the file, and the case if it has several drivers.
    title: String,
    text: String,
}

impl Driver {
    /// Whether it runs a file: one of its own name, or one that it names.
    fn drives(&self, file: &str) -> bool {
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        self.title.split('.').next() == Some(stem) || self.text.contains(file)
    }
}

impl Language {
    /// All drivers for a page.
    fn drivers(&self, page: &Page) -> Vec<Driver> {
        let Ok(files) = fs::read_dir(drivers_dir().join(page.name)) else { return Vec::new() };
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

    /// Runs every driver of a page, if the language is installed.
    #[track_caller]
    fn run(&self, page: &Page) {
        let (files, drivers) = (page.files(self.name), self.drivers(page));
        assert!(!files.is_empty(), "no file in {}", self.name);
        for file in files.keys() {
            assert!(drivers.iter().any(|driver| driver.drives(file)), "no driver for {file}");
        }
        let Some(runtime) = (self.runtime)() else {
            let language = self.name;
            eprintln!("no {language} with the packages that it needs: the recipes did not run");
            return;
        };
        for driver in &drivers {
            let needs = driver.text.lines().next().and_then(|line| line.strip_prefix(self.needs));
            let missing = needs
                .and_then(|names| names.split_whitespace().find(|package| !runtime.has(package)));
            if let Some(package) = missing {
                eprintln!("no package {package}: {} did not run", driver.title);
                continue;
            }
            runtime.run(&driver.title, self.extension, &driver.text);
        }
    }
}

fn drivers_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes")
}

/// Writes the files of all pages, and what drivers share.
fn write_files(dir: &Path) {
    for page in PAGES {
        for (Name { language, name }, text) in page.blocks() {
            if language != "text" {
                fs::write(dir.join(name), text).expect("write a file");
            }
        }
    }
    for shared in ["driver.py", "driver.mjs"] {
        fs::copy(drivers_dir().join(shared), dir.join(shared)).expect("copy a file");
    }
}

/// The interpreter of a language.
struct Runtime {
    program: PathBuf,
    /// Where Node finds packages.
    modules: Option<PathBuf>,
}

impl Runtime {
    /// Python with the package of clients/python.
    fn python() -> Option<Self> {
        python_with("corral_client").map(|program| Self { program, modules: None })
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

    /// Whether a package is installed.
    fn has(&self, package: &str) -> bool {
        match &self.modules {
            Some(modules) => modules.join(package).join("package.json").is_file(),
            None => python_with(package).is_some(),
        }
    }

    /// Runs a driver against a new server, and checks that it leaves no waiting client.
    #[track_caller]
    fn run(&self, name: &str, extension: &str, code: &str) {
        let server = Server::start();
        let dir = tempfile::tempdir().expect("a directory");
        write_files(dir.path());
        // The name of a file on a page may be that of its driver, so the driver has its own.
        let script = dir.path().join("drive").with_extension(extension);
        fs::write(&script, code).expect("write the driver");
        if let Some(modules) = &self.modules {
            let modules = std::path::absolute(modules).expect("a path");
            symlink(modules, dir.path().join("node_modules")).expect("a link");
        }
        let mut command = Process::new(&self.program);
        command
            .arg(&script)
            .env("REDIS_URL", format!("redis://{}", server.addr()))
            .env("CORRAL_MODULE", module_path())
            .env("SERVER", server_binary())
            .env("CORRAL_SERVER", server_binary())
            .env("PYTHON", &self.program)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        finish(name, command, dir.path());
        let mut client = server.client();
        for family in ["cache", "task", "lock"] {
            eventually(SOON, "no client waits", || waiters(&mut client, family) == 0);
        }
    }
}

/// Runs a process in a directory until it succeeds.
#[track_caller]
fn finish(name: &str, mut command: Process, dir: &Path) {
    let log = dir.join("output.log");
    let output = File::create(&log).expect("create the log");
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("duplicate a descriptor"))
        .stderr(output);
    let mut process = spawn(command).expect("start the runtime");
    let printed = || fs::read_to_string(&log).expect("read the log");
    let end = Instant::now() + TIMEOUT;
    let status = eventually(TIMEOUT + SOON, name, || {
        assert!(Instant::now() < end, "{name} takes too long\n{}", printed());
        process.try_wait().expect("try_wait")
    });
    assert!(status.success(), "{name}: {status}\n{}", printed());
}

#[test]
fn the_python_files_of_the_cache_page_work() {
    PYTHON.run(&CACHE);
}

#[test]
fn the_javascript_files_of_the_cache_page_work() {
    JAVASCRIPT.run(&CACHE);
}

#[test]
fn the_python_files_of_the_task_page_work() {
    PYTHON.run(&TASKS);
}

#[test]
fn the_javascript_files_of_the_task_page_work() {
    JAVASCRIPT.run(&TASKS);
}

#[test]
fn the_python_files_of_the_lock_page_work() {
    PYTHON.run(&LOCKS);
}

#[test]
fn the_javascript_files_of_the_lock_page_work() {
    JAVASCRIPT.run(&LOCKS);
}

#[test]
fn the_python_files_of_the_client_page_work() {
    PYTHON.run(&CLIENTS);
}

#[test]
fn the_javascript_files_of_the_client_page_work() {
    JAVASCRIPT.run(&CLIENTS);
}

#[test]
fn the_python_files_of_the_migration_page_work() {
    PYTHON.run(&MIGRATE);
}

#[test]
fn the_javascript_files_of_the_migration_page_work() {
    JAVASCRIPT.run(&MIGRATE);
}

#[test]
fn the_python_files_of_the_testing_page_work() {
    PYTHON.run(&TESTING);
}

#[test]
fn the_javascript_files_of_the_testing_page_work() {
    JAVASCRIPT.run(&TESTING);
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
    let blocks = page.files("text").into_iter();
    let sessions: Vec<_> = blocks.filter(|(name, _)| name.starts_with("session=")).collect();
    assert!(!sessions.is_empty());
    let server = Server::start();
    for (name, text) in &sessions {
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
fn the_sessions_reply_as_written() {
    for page in [&CACHE, &TASKS, &LOCKS, &MIGRATE] {
        run_sessions(page);
    }
}
