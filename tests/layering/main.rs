//! The layers of `src/`. These tests read the source files and need no server.
//!
//! Imports point downwards in [`LAYERS`], files do not import each other circularly, and no file
//! has more than [`MAX_LINES`] lines. Tests and models (`*_tests.rs`, `*_model.rs`) may import
//! anything.
//!
//! An import counts for the file that defines the item, through any re-export. A `mod.rs` is the
//! root of its folder: the files below it may use the types, traits and constants that it declares,
//! even though it uses theirs. They may call its functions unless the call leads back to them. The
//! check does not follow methods and does not expand macros.

mod source;

use source::{Token, end_of_use, functions, imports, is_name, tokens, use_leaves, without_tests};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::ops::Range;
use std::path::Path;

/// The modules from top to bottom. A module imports only from the lines below its own.
const LAYERS: &[&[&str]] = &[
    &["lib"],
    &["corral"],
    &["cache", "lock", "task"],
    &["family"],
    &["command", "waiting"],
    &["context"],
    &["args", "names"],
    &["server"],
    &["error", "interest", "time", "stats"],
];

/// Modules that may import less than their layer allows.
const RESTRICTED: &[(&str, &[&str])] = &[("server", &["error", "time"])];

/// The length limit of a file.
const MAX_LINES: usize = 400;

#[test]
fn the_sources_keep_to_the_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read_folder(&src, "", &mut files);
    assert!(files.len() > 10, "no sources in {}", src.display());
    let problems = check(&files);
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn an_upward_import_is_reported() {
    let up = sample(&[
        ("lib.rs", "mod cache; mod lock; mod server; mod time; use lock::Lock;"),
        ("time.rs", "pub struct Millis;"),
        ("lock/mod.rs", "use crate::time::Millis; pub struct Lock(Millis);"),
        ("cache.rs", "#[cfg(test)] mod tests { use crate::lock::Lock; }"),
        ("server/mod.rs", "/// Like `crate::lock::Lock`.\n\nfn f() -> [crate::lock::Lock; 1] {}"),
    ]);
    assert_eq!(check(&up), ["src/server/mod.rs:3: server must not import lock"]);
    let sideways = sample(&[
        ("lock/mod.rs", "pub struct Lock;"),
        ("cache.rs", "use super::{\n  lock::{self, Lock as L},\n};"),
    ]);
    assert_eq!(check(&sideways), ["src/cache.rs:2: cache must not import lock"]);
    let too_much = sample(&[
        ("stats.rs", "pub struct Counter;"),
        ("server/mod.rs", "mod key;"),
        (
            "server/key.rs",
            "fn f(name: &'static str) { g(\"crate::lock::x\", '\"'); crate::stats::Counter }",
        ),
    ]);
    assert_eq!(check(&too_much), ["src/server/key.rs:1: server must not import stats"]);
    let unknown = sample(&[("other.rs", "")]);
    assert_eq!(check(&unknown), ["src/other.rs: the module is missing from LAYERS"]);
}

#[test]
fn a_circular_import_is_reported() {
    let direct = sample(&[
        ("lock/mod.rs", "mod line; mod store; pub use line::serve;"),
        ("lock/line.rs", "use super::store::Stored; pub fn serve() {}"),
        // Through the re-export.
        ("lock/store.rs", "use super::serve; pub struct Stored;"),
    ]);
    let cycle = "circular import: src/lock/line.rs -> src/lock/store.rs -> src/lock/line.rs";
    assert_eq!(check(&direct), [cycle]);
    let through_module_names = sample(&[
        ("lock/mod.rs", "mod line; mod store;"),
        ("lock/line.rs", "use super::store; pub fn serve() { store::read() }"),
        ("lock/store.rs", "pub fn read() { super::line::serve() }"),
    ]);
    assert_eq!(check(&through_module_names), [cycle]);
    let through_a_function_of_the_root = sample(&[
        ("lock/mod.rs", "mod line; use line::Line; pub fn begin() { Line::new() }"),
        ("lock/line.rs", "use super::begin; pub struct Line;"),
    ]);
    assert_eq!(
        check(&through_a_function_of_the_root),
        ["circular import: src/lock/line.rs -> src/lock/mod.rs begin -> src/lock/line.rs"]
    );
}

#[test]
fn a_folder_may_share_the_types_of_its_root() {
    let root = sample(&[
        (
            "lock/mod.rs",
            "pub mod commands; mod line; use line::Line;
             pub const EVENTS: i32 = 1; pub struct Lock { line: Line } pub fn now() {}
             impl Lock { fn changed() { line::serve() } }",
        ),
        ("lock/line.rs", "use super::{EVENTS, Lock, now}; pub struct Line; pub fn serve() {}"),
        ("lock/commands/mod.rs", "mod acquire; pub use acquire::Acquire;"),
        ("lock/commands/acquire.rs", "use crate::lock::{Lock, line}; fn f() { line::serve() }"),
        ("lock/rules_model.rs", "use crate::corral::Corral;"),
    ]);
    assert_eq!(check(&root), [""; 0]);
}

#[test]
fn a_long_file_is_reported() {
    let long = [("time.rs".to_owned(), "//\n".repeat(MAX_LINES + 1))];
    assert_eq!(check(&long), ["src/time.rs: 401 lines, the limit is 400"]);
}

fn sample(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("read a folder of sources") {
        let path = entry.expect("read a folder of sources").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            read_folder(&path, &format!("{name}/"), files);
        } else if name.ends_with(".rs") {
            files.push((name, fs::read_to_string(&path).expect("read a source")));
        }
    }
}

/// The violations in these files, given as paths below `src/` and texts.
fn check(files: &[(String, String)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            problems.push(format!("src/{path}: {lines} lines, the limit is {MAX_LINES}"));
        }
    }
    let sources = Sources::read(files);
    problems.extend(sources.upward_imports());
    problems.extend(cycles(sources.graph()));
    problems
}

/// A path from the root of the crate.
type Segments = Vec<String>;

/// The sources outside tests, by module.
struct Sources(BTreeMap<Segments, Source>);

struct Source {
    /// Its path below `src/`.
    path: String,
    tokens: Vec<Token>,
    /// The imported items, by the name that they have in this file.
    names: HashMap<String, Segments>,
    /// The modules that `use …::*` imports.
    globs: Vec<Segments>,
    /// The tokens of each function outside an impl.
    functions: BTreeMap<String, Range<usize>>,
    /// Every item that the file names.
    references: Vec<Reference>,
}

struct Reference {
    /// The index of the token.
    at: usize,
    target: Segments,
}

impl Sources {
    fn read(files: &[(String, String)]) -> Self {
        let is_test = |path: &str| path.ends_with("_model.rs") || path.ends_with("_tests.rs");
        let sources = files.iter().filter(|(path, _)| !is_test(path)).map(|(path, text)| {
            let tokens = without_tests(tokens(text));
            let functions = functions(&tokens);
            let path = path.clone();
            let (names, globs, references) = Default::default();
            (module_of(&path), Source { path, tokens, names, globs, functions, references })
        });
        let mut sources = Self(sources.collect());
        let modules: Vec<_> = sources.0.keys().cloned().collect();
        for module in &modules {
            for (name, path) in imports(&sources.0[module].tokens) {
                let Some(target) = sources.absolute(module, &path) else { continue };
                let source = sources.0.get_mut(module).expect("the module is known");
                match name.as_str() {
                    "*" => source.globs.push(target),
                    _ => drop(source.names.insert(name, target)),
                }
            }
        }
        for module in &modules {
            let references = sources.references(module);
            sources.0.get_mut(module).expect("the module is known").references = references;
        }
        sources
    }

    fn is_module(&self, path: &[String]) -> bool {
        self.0.contains_key(path)
    }

    /// A path as a module writes it, from the root of the crate. `None` outside this crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Segments> {
        let first = path[0].as_str();
        if let Some(target) = self.0[module].names.get(first) {
            return Some([target, &path[1..]].concat());
        }
        let mut absolute = if first == "crate" { Vec::new() } else { module.to_vec() };
        if !is_keyword(first) && !self.is_module(&[module, &path[..1]].concat()) {
            return None;
        }
        for segment in path {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                _ => absolute.push(segment.clone()),
            }
        }
        Some(absolute)
    }

    /// Every item that a module names, by a path or by an imported name.
    fn references(&self, module: &[String]) -> Vec<Reference> {
        let tokens = &self.0[module].tokens;
        let mut references = Vec::new();
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
        let mut at = 0;
        while at < tokens.len() {
            let start = at;
            at += 1;
            if text(start) == "use" {
                at = end_of_use(tokens, start);
                for (place, _, path) in use_leaves(tokens, start + 1..at) {
                    let target = self.absolute(module, &path);
                    references.extend(target.map(|target| Reference { at: place, target }));
                }
                continue;
            }
            let is_start = is_name(text(start))
                && start.checked_sub(1).is_none_or(|before| !matches!(text(before), "::" | "."));
            if !is_start {
                continue;
            }
            let mut path = vec![text(start).to_owned()];
            while text(at) == "::" && is_name(text(at + 1)) {
                path.push(text(at + 1).to_owned());
                at += 2;
            }
            let alone = path.len() == 1;
            if alone && is_keyword(text(start)) {
                continue;
            }
            let target = match self.0[module].names.get(&path[0]) {
                // Without a path this is a variable, not a child module.
                None if alone => None,
                _ => self.absolute(module, &path),
            };
            references.extend(target.map(|target| Reference { at: start, target }));
        }
        references
    }

    /// The module that defines an item, and the name of the item. A path to a module has no item.
    fn resolve(&self, path: &[String], depth: usize) -> Option<(Segments, Option<String>)> {
        let mut length = 0;
        while length < path.len() && self.is_module(&path[..=length]) {
            length += 1;
        }
        let (module, rest) = path.split_at(length);
        let source = self.0.get(module)?;
        let Some(item) = rest.first() else { return Some((module.to_vec(), None)) };
        if let Some(target) = source.names.get(item)
            && depth > 0
        {
            return self.resolve(&[target, &rest[1..]].concat(), depth - 1);
        }
        let declares =
            |glob: &&Segments| self.0.get(*glob).is_some_and(|source| source.declares(item));
        let module = source.globs.iter().find(declares).map_or(module, Vec::as_slice);
        Some((module.to_vec(), Some(item.clone())))
    }

    fn upward_imports(&self) -> BTreeSet<String> {
        let rank = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
        let top = |path: &[String]| match path.first() {
            Some(first) if self.is_module(&path[..1]) => first.clone(),
            _ => "lib".to_owned(),
        };
        let mut problems = BTreeSet::new();
        for (module, source) in &self.0 {
            let own = top(module);
            let Some(own_rank) = rank(&own) else {
                problems.insert(format!("src/{}: the module is missing from LAYERS", source.path));
                continue;
            };
            let restricted = RESTRICTED.iter().find(|(name, _)| *name == own);
            for reference in &source.references {
                let other = top(&reference.target);
                let allowed = match restricted {
                    Some((_, only)) => only.contains(&other.as_str()),
                    None => rank(&other).is_none_or(|rank| rank > own_rank),
                };
                if other != own && !allowed {
                    let line = source.tokens[reference.at].line;
                    let path = &source.path;
                    problems.insert(format!("src/{path}:{line}: {own} must not import {other}"));
                }
            }
        }
        problems
    }

    /// The imports between files. Each function of a root is a node of its own.
    fn graph(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
        for (module, source) in &self.0 {
            let own = format!("src/{}", source.path);
            let functions = match source.is_root() {
                true => source.functions.iter().collect(),
                false => Vec::new(),
            };
            for reference in &source.references {
                let Some(node) = self.node(module, &reference.target) else { continue };
                for (name, range) in &functions {
                    if range.contains(&reference.at) {
                        graph.entry(format!("{own} {name}")).or_default().insert(node.clone());
                    }
                }
                if node != own {
                    graph.entry(own.clone()).or_default().insert(node);
                }
            }
            // A function depends on what the functions that it calls depend on.
            for (caller, range) in &functions {
                let words = source.tokens[(*range).clone()].iter().map(|token| &token.text);
                let called =
                    words.filter(|word| *word != *caller && source.functions.contains_key(*word));
                let called = called.map(|callee| format!("{own} {callee}"));
                graph.entry(format!("{own} {caller}")).or_default().extend(called);
            }
        }
        graph
    }

    /// The node that an import leads to, if the import counts.
    fn node(&self, from: &[String], target: &[String]) -> Option<String> {
        let (module, item) = self.resolve(target, 8)?;
        // Importing a module is not a dependency: using its items is.
        let item = item?;
        let source = &self.0[&module];
        let below_root = source.is_root() && from.starts_with(&module) && from != module;
        match source.functions.contains_key(&item) {
            true if below_root => Some(format!("src/{} {item}", source.path)),
            false if below_root => None,
            _ => Some(format!("src/{}", source.path)),
        }
    }
}

impl Source {
    fn is_root(&self) -> bool {
        self.path.ends_with("/mod.rs") || self.path == "lib.rs"
    }

    fn declares(&self, name: &str) -> bool {
        const KEYWORDS: [&str; 8] =
            ["fn", "struct", "enum", "trait", "type", "const", "static", "union"];
        let pairs = self.tokens.windows(2);
        self.names.contains_key(name)
            || pairs
                .into_iter()
                .any(|pair| KEYWORDS.contains(&pair[0].text.as_str()) && pair[1].text == name)
    }
}

/// Whether a path can begin with this word in any module.
fn is_keyword(segment: &str) -> bool {
    matches!(segment, "crate" | "self" | "super")
}

/// `lock/mod.rs` is `[lock]`, `lock/line.rs` is `[lock, line]`, `lib.rs` is the root.
fn module_of(path: &str) -> Segments {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').filter(|segment| *segment != "lib").map(str::to_owned).collect()
}

/// The cycles of a graph, shortest first. Each search ignores the last step of the earlier cycles.
fn cycles(mut graph: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(cycle) =
        graph.keys().filter_map(|start| shortest_cycle(&graph, start)).min_by_key(Vec::len)
    {
        found.push(format!("circular import: {}", cycle.join(" -> ")));
        let [.., from, to] = &cycle[..] else { break };
        graph.get_mut(from).expect("the cycle is in the graph").remove(to);
    }
    found
}

fn shortest_cycle(graph: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut before = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for next in graph.get(node).into_iter().flatten() {
            if next == start {
                let steps = std::iter::successors(Some(node), |step| before.get(step).copied());
                let mut cycle: Vec<_> = steps.map(str::to_owned).collect();
                cycle.reverse();
                cycle.push(start.to_owned());
                return Some(cycle);
            }
            if !before.contains_key(next.as_str()) {
                before.insert(next.as_str(), node);
                queue.push_back(next);
            }
        }
    }
    None
}
