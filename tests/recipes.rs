//! The recipes of docs/cache.md do what the page says: each block of code that bears a name is taken
//! from the page and run against a real server, by the client library that it is written for.
//!
//! Python needs the package `redis` (`CORRAL_PYTHON` names an interpreter that has it), Node too
//! (`CORRAL_NODE_PATH` names a `node_modules` that has it). Where one is missing, the test says so and
//! sees only that the page holds the recipe. Sessions, which show commands and replies, always run.

mod support;
use support::*;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

/// How long a recipe may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const PAGE: &str = include_str!("../docs/cache.md");

/// A recipe, and what is done with it.
struct Recipe {
    name: &'static str,
    /// The recipe that it builds on.
    on: &'static str,
    /// Code that calls it and fails unless the outcome is right.
    driver: &'static str,
}

const NONE: &str = "";

/// What the drivers in Python share: a loader that counts, and many callers at once.
const PYTHON: &str = r#"
import threading, time
from concurrent.futures import ThreadPoolExecutor as Callers

class Loader:
    """Takes a moment, counts, and returns what `outcome` says."""
    def __init__(self, *outcomes):
        self.outcomes, self.calls, self.lock, self.go = list(outcomes), 0, threading.Lock(), threading.Event()
        self.go.set()
    def __call__(self, *_):
        with self.lock:
            outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
            self.calls += 1
        time.sleep(0.05)
        assert self.go.wait(20)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

def at_once(callers, call):
    with Callers(callers) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(callers)]]

def fails(call):
    try:
        call()
    except Exception as error:
        return str(error)
    raise AssertionError("it did not fail")

def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)

def same(found, expected):
    assert found == expected, f"{found!r}, not {expected!r}"
"#;

const PYTHON_RECIPES: [Recipe; 9] = [
    Recipe {
        name: "read-through",
        on: NONE,
        driver: r#"
load = Loader((b"html", 60_000))
same(at_once(50, lambda: cached("page", load, patience=7_000)), [b"html"] * 50)
same(load.calls, 1)
# Whoever fails hands over to the next, at once: the lease is longer than anybody waits.
load = Loader(ValueError("down"), (b"html", 60_000))
def attempt():
    try: return cached("other", load, lease=60_000, patience=7_000)
    except ValueError: return None
got = at_once(50, attempt)
same((got.count(None), got.count(b"html"), load.calls), (1, 49, 2))
# Nobody loads: the wait has an end.
C("CACHE.FETCH", "hanging", 60_000)
same(fails(lambda: cached("hanging", load, patience=50)), "hanging")
"#,
    },
    Recipe {
        name: "front-page",
        on: "read-through",
        driver: r#"
render = Loader(b"html")
same(at_once(50, lambda: front_page(render)), [b"html"] * 50)
same(render.calls, 1)
assert 0 < C("PTTL", "page:1") <= 300_000
"#,
    },
    Recipe {
        name: "refresh-ahead",
        on: "read-through",
        driver: r#"
first, second = Loader(b"old"), Loader(b"new")
same(page(1, first), b"old")
same(page(1, second), b"old")
same(second.calls, 0)
C("PEXPIRE", "page:1", GRACE - 1_000)
second.go.clear()
with Callers(1) as pool:
    loading = pool.submit(page, 1, second)
    until(lambda: second.calls == 1)
    same(at_once(20, lambda: page(1, second)), [b"old"] * 20)
    second.go.set()
    same(loading.result(), b"new")
same(page(1, second), b"new")
same(second.calls, 1)
"#,
    },
    Recipe {
        name: "stale-while-revalidate",
        on: NONE,
        driver: r#"
load = Loader((b"old", 60_000), (b"new", 600_000), ValueError("down"))
same(at_once(50, lambda: cached_while_revalidating("page", load, 10_000, patience=7_000)), [b"old"] * 50)
same(load.calls, 1)
C("PEXPIRE", "page", 9_000)
load.go.clear()
same(at_once(20, lambda: cached_while_revalidating("page", load, 10_000)), [b"old"] * 20)
until(lambda: load.calls == 2)
load.go.set()
until(lambda: C("GET", "page") == b"new")
same(cached_while_revalidating("page", load, 10_000), b"new")
same(load.calls, 2)
# A failure behind the scenes disturbs nobody, and nobody tries again at once.
C("PEXPIRE", "page", 9_000)
same(cached_while_revalidating("page", load, 10_000, backoff=60_000), b"new")
until(lambda: "backing-off" in str(C("CACHE.INFO", "page")))
same(cached_while_revalidating("page", load, 10_000), b"new")
same(load.calls, 3)
# With nothing to go on with it is told.
same(fails(lambda: cached_while_revalidating("cold", load, 10_000, backoff=60_000)), "down")
same(fails(lambda: cached_while_revalidating("cold", load, 10_000, backoff=60_000)), "b\"ValueError('down')\"")
"#,
    },
    Recipe {
        name: "stale-if-error",
        on: NONE,
        driver: r#"
load = Loader((b"old", 60_000), ValueError("down"), (b"new", 600_000))
same(cached_or_stale("page", load, 10_000), b"old")
C("PEXPIRE", "page", 9_000)
same(at_once(20, lambda: cached_or_stale("page", load, 10_000, backoff=60_000)), [b"old"] * 20)
same(load.calls, 2)
C("CACHE.INVALIDATE", "page", "STALE", 9_000)
same(cached_or_stale("page", load, 10_000), b"new")
# Nothing to give: all who wait are told why, and one tried.
broken = Loader(ValueError("down"))
told = at_once(20, lambda: fails(lambda: cached_or_stale("cold", broken, 10_000, backoff=60_000, patience=7_000)))
same((broken.calls, told.count("down"), told.count("b\"ValueError('down')\"")), (1, 1, 19))
"#,
    },
    Recipe {
        name: "negative",
        on: "read-through",
        driver: r#"
find = Loader(None)
same(at_once(20, lambda: user(1, find)), [None] * 20)
same((find.calls, C("EXISTS", "user:1")), (1, 1))
assert 0 < C("PTTL", "user:1") <= 30_000
same(user(2, Loader(b"ann")), b"ann")
assert 30_000 < C("PTTL", "user:2") <= 300_000
"#,
    },
    Recipe {
        name: "invalidate",
        on: "read-through",
        driver: r#"
rows = {1: b"old"}
begun, go = threading.Event(), threading.Event()
def slow():
    row = rows[1]
    begun.set()
    assert go.wait(20)
    return row, 60_000
with Callers(1) as pool:
    loading = pool.submit(cached, "user:1", slow)
    assert begun.wait(20)
    save(1, b"new", rows.__setitem__)
    go.set()
    same(loading.result(), b"old")
same(C("EXISTS", "user:1"), 0)
same(cached("user:1", lambda: (rows[1], 60_000)), b"new")
save(1, b"newer", rows.__setitem__)
same(cached("user:1", lambda: (rows[1], 60_000)), b"newer")
"#,
    },
    Recipe {
        name: "invalidate-softly",
        on: "read-through",
        driver: r#"
rows = {1: b"old"}
load = Loader((b"new", 60_000))
same(cached("user:1", lambda: (rows[1], 60_000)), b"old")
touch(1, b"new", rows.__setitem__)
same((rows[1], C("GET", "user:1")), (b"new", b"old"))
assert 0 < C("PTTL", "user:1") <= 10_000
load.go.clear()
with Callers(1) as pool:
    loading = pool.submit(cached, "user:1", load)
    until(lambda: load.calls == 1)
    same(cached("user:1", load), b"old")
    load.go.set()
    same(loading.result(), b"new")
same((cached("user:1", load), load.calls), (b"new", 1))
"#,
    },
    Recipe {
        name: "warm",
        on: NONE,
        driver: r#"
C("SET", "page:3", "theirs")
same(warm({f"page:{n}": f"html {n}" for n in range(100)}), 99)
same(C("GET", "page:3"), b"theirs")
same(C("GET", "page:99"), b"html 99")
ends = {C("PEXPIRETIME", f"page:{n}") // 1_000 for n in range(100) if n != 3}
assert len(ends) > 10, ends
assert all(200_000 < C("PTTL", f"page:{n}") <= 300_000 for n in range(100) if n != 3)
same(warm({"page:1": "again"}), 0)
"#,
    },
];

/// The same for Node.
const JS: &str = r"
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

const same = assert.deepEqual;
const atOnce = (callers, call) => Promise.all(Array.from({ length: callers }, () => call()));
async function until(condition) {
  for (const end = Date.now() + 20_000; !await condition(); await sleep(5)) assert(Date.now() < end, 'not in time');
}
function loader(...outcomes) {
  const load = async () => {
    const outcome = outcomes[Math.min(load.calls++, outcomes.length - 1)];
    await sleep(50);
    await load.go;
    if (outcome instanceof Error) throw outcome;
    return outcome;
  };
  load.calls = 0;
  return load;
}
";

const JS_END: &str = "
await shared.close();
await waiting.close();
";

const JS_RECIPES: [Recipe; 2] = [
    Recipe {
        name: "read-through",
        on: NONE,
        driver: r"
let load = loader(['html', 60_000]);
same(await atOnce(50, () => cached('page', load, { patience: 10_000 })), Array(50).fill('html'));
same(load.calls, 1);
load = loader(new Error('down'), ['html', 60_000]);
const got = await atOnce(50, () => cached('other', load, { lease: 60_000, patience: 10_000 }).catch(() => null));
same([got.filter(v => v === null).length, got.filter(v => v === 'html').length, load.calls], [1, 49, 2]);
await C('CACHE.FETCH', 'hanging', 60_000);
await assert.rejects(cached('hanging', load, { patience: 50 }), /hanging/);
",
    },
    Recipe {
        name: "stale-while-revalidate",
        on: NONE,
        driver: r"
const load = loader(['old', 60_000], ['new', 600_000], new Error('down'));
const page = key => cachedWhileRevalidating(key, load, 10_000, { backoff: 60_000, patience: 10_000 });
same(await atOnce(50, () => page('page')), Array(50).fill('old'));
same(load.calls, 1);
await C('PEXPIRE', 'page', 9_000);
let go;
load.go = new Promise(resolve => { go = resolve });
same(await atOnce(20, () => page('page')), Array(20).fill('old'));
await until(() => load.calls === 2);
go();
await until(async () => await C('GET', 'page') === 'new');
same(await page('page'), 'new');
same(load.calls, 2);
await assert.rejects(page('cold'), /down/);
await assert.rejects(page('cold'), /down/);
same(load.calls, 3);
",
    },
];

/// How a block of the page is called.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    language: &'static str,
    kind: &'static str,
    name: &'static str,
}

/// The page's blocks: each bears a name, so that none goes untested.
static BLOCKS: LazyLock<BTreeMap<Name, String>> = LazyLock::new(|| {
    let mut blocks = BTreeMap::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(head) = line.strip_prefix("```") else { continue };
        let text = lines.by_ref().take_while(|line| *line != "```");
        let text: String = text.map(|line| format!("{line}\n")).collect();
        let (language, title) = head.split_once(' ').expect("every block bears a name");
        let (kind, name) = title.split_once('=').expect("kind=name");
        let before = blocks.insert(Name { language, kind, name }, text);
        assert_eq!(before, None, "two blocks of one name: {head}");
    }
    blocks
});

fn recipe(language: &'static str, name: &'static str) -> &'static str {
    let block = BLOCKS.get(&Name { language, kind: "recipe", name });
    block.unwrap_or_else(|| panic!("the page has no recipe {name} in {language}"))
}

/// Sees that the page holds just these recipes, the clients besides.
fn assert_page_holds(language: &'static str, recipes: &[Recipe]) {
    let found = BLOCKS.keys().filter(|name| name.language == language && name.kind == "recipe");
    let found: Vec<_> = found.map(|name| name.name).collect();
    let mut expected: Vec<_> = recipes.iter().map(|recipe| recipe.name).collect();
    expected.push("clients");
    expected.sort_unstable();
    assert_eq!(found, expected);
    for name in found {
        let client = if language == "python" { "C(" } else { "await C(" };
        let code = recipe(language, name);
        let calls = ["createClient(", client, "cached(", "execute_command"];
        assert!(calls.iter().any(|call| code.contains(call)), "{name} talks to nobody:\n{code}");
    }
}

/// What runs a language.
struct Runtime {
    program: PathBuf,
    /// Where Node finds packages.
    modules: Option<PathBuf>,
    extension: &'static str,
}

impl Runtime {
    /// Python with the package `redis`.
    fn python() -> Option<Self> {
        let program = std::env::var_os("CORRAL_PYTHON").unwrap_or_else(|| "python3".into());
        let probe = Process::new(&program).args(["-c", "import redis"]).output();
        let program = program.into();
        let found = probe.is_ok_and(|probe| probe.status.success());
        found.then_some(Self { program, modules: None, extension: "py" })
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
        Some(Self { program: "node".into(), modules: Some(modules), extension: "mjs" })
    }

    /// Runs a program against a server of its own; its loads are all over then.
    #[track_caller]
    fn run(&self, name: &str, code: &str) {
        let server = Server::start();
        let dir = tempfile::tempdir().expect("a directory");
        let (script, log) =
            (dir.path().join(format!("recipe.{}", self.extension)), dir.path().join("log"));
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
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate a descriptor"))
            .stderr(output);
        let mut process = spawn(command).expect("start the runtime");
        let status = eventually(PATIENCE, name, || process.try_wait().expect("try_wait"));
        let said = fs::read_to_string(&log).expect("read the log");
        assert!(status.success(), "{name}: {status}\n{said}");
        eventually(SOON, "nobody waits", || waiters(&mut server.client(), "cache") == 0);
    }
}

/// Runs every recipe with its driver, or says why not.
fn run_all(
    language: &'static str,
    recipes: &[Recipe],
    (before, after): (&str, &str),
    runtime: Option<Runtime>,
) {
    assert_page_holds(language, recipes);
    let Some(runtime) = runtime else {
        eprintln!("no {language} with the package redis: the recipes are there, but did not run");
        return;
    };
    for Recipe { name, on, driver } in recipes {
        let mut parts = vec![before, recipe(language, "clients")];
        if *on != NONE {
            parts.push(recipe(language, on));
        }
        parts.extend([recipe(language, name), driver, after]);
        runtime.run(name, &parts.join("\n"));
    }
}

#[test]
fn the_recipes_in_python_do_what_the_page_says() {
    run_all("python", &PYTHON_RECIPES, (PYTHON, NONE), Runtime::python());
}

#[test]
fn the_recipes_in_javascript_do_what_the_page_says() {
    run_all("js", &JS_RECIPES, (JS, JS_END), Runtime::node());
}

/// A reply in the words of the page.
fn spell(reply: &Value) -> String {
    match reply {
        Value::Array(items) => items.iter().map(spell).collect::<Vec<_>>().join(" "),
        Value::Int(number) => number.to_string(),
        nil if nil.is_nil() => "(nil)".into(),
        text => text.as_str().into(),
    }
}

fn is_token(word: &str) -> bool {
    word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_digit())
}

#[test]
fn the_sessions_reply_what_the_page_says() {
    let sessions: Vec<_> = BLOCKS.iter().filter(|(name, _)| name.kind == "session").collect();
    assert_eq!(sessions.len(), 4);
    let server = Server::start();
    for (Name { name, .. }, text) in sessions {
        let mut client = server.client();
        assert_eq!(client.run("FLUSHALL"), ok());
        // The tokens of the page and what they are here.
        let mut tokens = BTreeMap::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let command = line.strip_prefix("> ").expect("a command, then its reply");
            let words = command.split(' ').map(|word| match is_token(word) {
                true => tokens.get(word).cloned().expect("a token that was given out"),
                false => word.to_owned(),
            });
            let reply = spell(&client.cmd(&words.collect::<Vec<_>>()));
            let mut expected = lines.next().expect("a reply").to_owned();
            let found = reply.split(' ').find(|word| is_token(word));
            if let (Some(found), Some(said)) = (found, expected.split(' ').find(|w| is_token(w))) {
                let said = said.to_owned();
                let newest = tokens.last_key_value();
                assert!(newest.is_none_or(|(before, _)| *before < said), "tokens rise: {said}");
                expected = expected.replace(&said, found);
                tokens.insert(said, found.to_owned());
            }
            assert_eq!(reply, expected, "{name}: {command}");
        }
    }
}
