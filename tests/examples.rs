//! The shop in Go, Java and Rust: examples/go, examples/java, examples/rust. Each program runs alone, and all of them
//! share queues, cached values and locks, also with the packages for Python and Node.
//!
//! `scripts/examples.sh build` builds the programs in Go and Java, and `cargo build --example shop` the one in Rust. A
//! language that is not installed is not tested, unless `CI` is `true`.

mod support;
use support::*;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a program may take, which may have to start a virtual machine on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lease of loads, locks and tasks in tests that wait until it would have expired.
const LEASE: Duration = Duration::from_secs(3);

const MAIL: &str = "{shop}:mail";
const URGENT: &str = "{shop}:urgent";

#[derive(Clone)]
struct Program {
    language: &'static str,
    path: PathBuf,
}

/// The programs that can run here.
fn programs() -> Vec<Program> {
    let test = std::env::current_exe().expect("the path of this program");
    let profile = test.ancestors().nth(2).expect("the directory of the profile");
    let rust = profile.join("examples/shop");
    assert!(rust.exists(), "run `cargo build --example shop` first");
    let mut programs = vec![Program { language: "rust", path: rust }];
    for language in ["go", "java"] {
        let path = profile.with_file_name("shop").join(language);
        if path.exists() {
            programs.push(Program { language, path });
        } else {
            absent(&format!("the program in {language}"));
        }
    }
    programs
}

/// What is not installed is not tested, except in CI, which installs everything.
#[track_caller]
fn absent(what: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{what} is missing");
    eprintln!("{what} is not there, and was not tested");
}

/// A server, and the directory that is the database of the shop.
struct Shop {
    server: Server,
    directory: TempDir,
}

impl Shop {
    fn open() -> Self {
        let (server, directory) = (Server::start(), tempfile::tempdir().expect("a directory"));
        Self { server, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn create(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("write a file");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("remove a file");
    }

    /// The mails that were sent: the id of the task and the address of each.
    fn outbox(&self) -> Vec<String> {
        let Ok(mails) = fs::read_dir(self.path("outbox")) else { return Vec::new() };
        let name = |mail: fs::DirEntry| mail.file_name().into_string().expect("ASCII");
        let mut mails: Vec<_> = mails.map(|mail| name(mail.expect("read the directory"))).collect();
        mails.sort();
        mails
    }

    #[track_caller]
    fn start(&self, program: &Program, arguments: &[&str]) -> Run {
        self.start_with(program, arguments, &[])
    }

    #[track_caller]
    fn start_with(&self, program: &Program, arguments: &[&str], more: &[(&str, &str)]) -> Run {
        let mut command = Process::new(&program.path);
        command.args(arguments).env("SHOP_LEASE_MS", LEASE.as_millis().to_string());
        self.run(program.language, command, more)
    }

    #[track_caller]
    fn run(&self, language: &'static str, mut command: Process, more: &[(&str, &str)]) -> Run {
        let logs = tempfile::tempdir().expect("a directory");
        let log = logs.path().join("log");
        let output = File::create(&log).expect("create the log");
        command
            .env("CORRAL_URL", format!("redis://{}", self.server.addr()))
            .env("SHOP_DIR", self.directory.path())
            .envs(more.iter().copied())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate a descriptor"))
            .stderr(output);
        let process = spawn(command).expect("start the program");
        Run { language, process, log, _logs: logs }
    }

    /// Starts a worker, and waits until it has a connection that waits for tasks.
    #[track_caller]
    fn worker(&self, program: &Program, more: &[(&str, &str)]) -> Run {
        let mut client = self.server.client();
        let before = waiters(&mut client, "task");
        let run = self.start_with(program, &["worker"], more);
        eventually(PATIENCE, "the worker waits", || waiters(&mut client, "task") > before);
        run
    }

    /// Publishes a task as any client can.
    #[track_caller]
    fn publish(&self, queue: &str, task: &str, payload: &str) -> String {
        let publish = args!["TASK.PUBLISH", queue, payload, "FIELDS", 1, "task", task];
        self.server.client().cmd(&publish).as_str().to_owned()
    }

    /// Waits until no task of the queue is ready or leased.
    #[track_caller]
    fn await_empty(&self, queue: &str) {
        let mut client = self.server.client();
        let empty = || client.cmd(&args!["XLEN", queue]) == int(0);
        eventually(PATIENCE, "everything is done", empty);
    }

    #[track_caller]
    fn await_leased(&self, queue: &str, count: i64) {
        let mut client = self.server.client();
        let what = format!("{count} tasks are leased");
        eventually(PATIENCE, &what, || leased(&mut client, queue) == count);
    }
}

fn leased(client: &mut Client, queue: &str) -> i64 {
    let groups = client.cmd(&args!["XINFO", "GROUPS", queue]);
    match groups {
        Value::Error(_) => 0,
        groups => groups.items().iter().map(|group| group.get("pending").as_int()).sum(),
    }
}

/// A program that runs. It is killed when this is dropped.
struct Run {
    language: &'static str,
    process: Child,
    log: PathBuf,
    _logs: TempDir,
}

impl Run {
    fn printed(&self) -> String {
        fs::read_to_string(&self.log).expect("read the log")
    }

    fn says(&self, text: &str) -> bool {
        self.printed().contains(text)
    }

    #[track_caller]
    fn await_line(&mut self, text: &str) {
        let language = self.language;
        let end = Instant::now() + PATIENCE;
        loop {
            let ended = self.process.try_wait().expect("try_wait").is_some();
            if self.says(text) {
                return;
            }
            let in_time = Instant::now() < end && !ended;
            assert!(in_time, "{language} does not say {text:?}:\n{}", self.printed());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: plain system call. The process has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.process.id().cast_signed(), signal) };
    }

    /// Waits until it has ended by itself: whether with success.
    #[track_caller]
    fn ends(&mut self) -> bool {
        let status =
            eventually(PATIENCE, "the program ends", || self.process.try_wait().expect("try_wait"));
        // A virtual machine that has handled SIGTERM ends with its number.
        status.success() || status.code() == Some(128 + libc::SIGTERM)
    }

    #[track_caller]
    fn succeeds(&mut self) -> String {
        assert!(self.ends(), "{}:\n{}", self.language, self.printed());
        self.printed()
    }

    #[track_caller]
    fn fails(&mut self) -> String {
        assert!(!self.ends(), "{} succeeds:\n{}", self.language, self.printed());
        self.printed()
    }

    #[track_caller]
    fn stops(mut self) {
        self.signal(libc::SIGTERM);
        self.succeeds();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a test for each program, all at the same time, each in a shop of its own. It also gets all programs.
fn each(test: impl Fn(&Shop, &Program, &[Program]) + Sync) {
    let programs = programs();
    thread::scope(|scope| {
        let tests = programs.iter().map(|program| {
            let (test, programs) = (&test, &programs);
            (program.language, scope.spawn(move || test(&Shop::open(), program, programs)))
        });
        for (language, run) in tests.collect::<Vec<_>>() {
            assert!(run.join().is_ok(), "{language}");
        }
    });
}

/// Waits until a lease would have expired twice, and checks something all the time.
#[track_caller]
fn longer_than_two_leases(mut holds: impl FnMut()) {
    let end = Instant::now() + LEASE * 2;
    while Instant::now() < end {
        holds();
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_value_is_loaded_once_although_the_load_takes_longer_than_its_lease() {
    each(|shop, program, programs| {
        shop.create("product-7", r#"{"name": "Tea", "price": 3}"#);
        shop.create("slow", "");
        let mut first = shop.start(program, &["product", "7"]);
        first.await_line("loading product 7");
        let others = programs.iter().map(|other| shop.start(other, &["product", "7"]));
        let mut others: Vec<_> = others.collect();
        let mut client = shop.server.client();
        let all_wait = |client: &mut Client| waiters(client, "cache") == programs.len();
        eventually(PATIENCE, "the others wait", || all_wait(&mut client));
        longer_than_two_leases(|| assert!(all_wait(&mut client), "the load keeps its lease"));
        shop.remove("slow");
        assert_eq!(compact(&first.succeeds()), r#"loadingproduct7{"name":"Tea","price":3}"#);
        for other in &mut others {
            assert_eq!(compact(&other.succeeds()), r#"{"name":"Tea","price":3}"#);
        }
        let cached = client.run("GET product:7");
        assert_eq!(compact(cached.as_str()), r#"{"name":"Tea","price":3}"#);
        // Absence is a value as well.
        assert_eq!(
            compact(&shop.start(program, &["product", "8"]).succeeds()),
            "loadingproduct8null"
        );
        assert_eq!(client.run("GET product:8"), bulk("null"));
        for other in programs {
            assert_eq!(compact(&shop.start(other, &["product", "8"]).succeeds()), "null");
        }
        // Any text that is not JSON is no value.
        assert_eq!(client.run("SET product:8 <html> PX 100000000"), ok());
        let printed = shop.start(program, &["product", "8"]).succeeds();
        assert!(printed.contains("loading product 8") && printed.ends_with("null\n"), "{printed}");
    });
}

fn compact(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn waiting_clients_get_the_reason_of_a_failed_load_and_do_not_load() {
    each(|shop, program, programs| {
        shop.create("slow", "");
        let mut first = shop.start(program, &["product", "7"]);
        first.await_line("loading product 7");
        let others = programs.iter().map(|other| shop.start(other, &["product", "7"]));
        let mut others: Vec<_> = others.collect();
        let mut client = shop.server.client();
        eventually(PATIENCE, "the others wait", || waiters(&mut client, "cache") == programs.len());
        shop.create("away", "");
        shop.remove("slow");
        assert!(first.fails().contains("the database is away"));
        for other in &mut others {
            let printed = other.fails();
            assert!(printed.contains("the last load failed: the database is away"), "{printed}");
            assert!(!printed.contains("loading"), "{printed}");
        }
        // A stale value is better than none.
        let stale = r#"{"name":"Tea","price":3}"#;
        assert_eq!(client.cmd(&args!["SET", "product:9", stale, "PX", 100_000]), ok());
        let printed = shop.start(program, &["product", "9"]).succeeds();
        assert!(
            printed.contains("loading product 9") && printed.ends_with(&format!("{stale}\n")),
            "{printed}"
        );
    });
}

#[test]
fn a_value_is_loaded_without_the_server() {
    each(|shop, program, _| {
        shop.create("product-7", r#"{"name":"Tea","price":3}"#);
        let away = [("CORRAL_URL", "redis://127.0.0.1:1")];
        let printed = shop.start_with(program, &["product", "7"], &away).succeeds();
        assert!(printed.ends_with("{\"name\":\"Tea\",\"price\":3}\n"), "{printed}");
    });
}

#[test]
fn a_lock_is_renewed_until_its_release_and_then_granted_in_fifo_order() {
    each(|shop, program, programs| {
        let (mut holder, mut client) = (slow_report(shop, program), shop.server.client());
        let mut others = Vec::new();
        for other in programs {
            others.push(shop.start(other, &["report"]));
            eventually(PATIENCE, "it waits", || waiters(&mut client, "lock") == others.len());
        }
        longer_than_two_leases(|| {
            assert_eq!(waiters(&mut client, "lock"), others.len(), "the lock keeps its lease");
        });
        shop.remove("slow");
        let mut fences = vec![fence(&holder.succeeds())];
        fences.extend(others.iter_mut().map(|other| fence(&other.succeeds())));
        assert!(fences.is_sorted(), "{fences:?}");
        let report = fs::read_to_string(shop.path("report")).expect("a report");
        assert_eq!(report, format!("{} 0\n", fences.last().expect("several")));
        assert_eq!(client.run("EXISTS lock::{shop}:report"), int(0));
    });
}

/// A report that holds its lock until the file `slow` is removed.
fn slow_report(shop: &Shop, program: &Program) -> Run {
    shop.create("slow", "");
    let mut holder = shop.start(program, &["report"]);
    holder.await_line("begins");
    holder
}

/// The token of a report that has ended.
#[track_caller]
fn fence(printed: &str) -> u64 {
    let [begin, end] = printed.lines().collect::<Vec<_>>().try_into().expect("two lines");
    let token = end.strip_prefix("report ").and_then(|end| end.strip_suffix(" ends"));
    let token = token.expect("the end").parse().expect("a number");
    assert_eq!(begin, format!("report {token} begins"));
    token
}

#[test]
fn work_stops_when_its_lock_is_lost() {
    each(|shop, program, _| {
        let (mut holder, mut client) = (slow_report(shop, program), shop.server.client());
        assert_eq!(client.run("SET lock::{shop}:report other PX 100000"), ok());
        // It knows after the next renewal, or when its lease has expired.
        longer_than_two_leases(|| ());
        shop.remove("slow");
        assert!(holder.fails().contains("the lock is lost"));
        assert!(!shop.path("report").exists());
        assert_eq!(client.run("GET lock::{shop}:report"), bulk("other"), "it is not released");
    });
}

#[test]
fn a_worker_takes_the_urgent_queue_first_and_gives_back_what_it_does_not_know() {
    each(|shop, program, _| {
        for n in 0..4 {
            shop.publish(MAIL, "welcome", &format!(r#"{{"to":"{n}@mail"}}"#));
        }
        for n in 0..4 {
            shop.publish(URGENT, "new_password", &format!(r#"{{"to":"{n}@urgent"}}"#));
        }
        shop.publish(URGENT, "new_password", r#"{"to":"nobody"}"#);
        shop.publish(URGENT, "new_password", "no JSON");
        shop.publish(MAIL, "unknown", "{}");
        let mut worker = shop.start(program, &["worker"]);
        for queue in [URGENT, MAIL] {
            shop.await_empty(queue);
        }
        assert_eq!(shop.outbox().len(), 8);
        worker.await_line("unknown, try 1: again in 10");
        assert!(worker.says("no handler for the task \"unknown\""));
        // The first mail can only start when an urgent one has ended: four run at a time.
        let printed = worker.printed();
        let first = printed.lines().find(|line| line.ends_with("done")).expect("a task is done");
        assert!(first.starts_with(URGENT), "{printed}");
        let mut client = shop.server.client();
        let reasons: Vec<_> = client
            .run("XRANGE dead::{shop}:urgent - +")
            .items()
            .iter()
            .map(|dead| dead.items()[1].get("reason").as_str().to_owned())
            .collect();
        assert_eq!(reasons.len(), 2);
        assert!(reasons.contains(&"\"nobody\" is no address".to_owned()), "{reasons:?}");
        assert!(reasons.iter().any(|reason| reason.contains("not a JSON object")), "{reasons:?}");
        let unknown = client.run("ZRANGE delayed::{shop}:mail 0 -1");
        assert_eq!(unknown.items().len(), 1);
        assert!(unknown.items()[0].as_str().contains(" 0+ "), "no try: {unknown:?}");
        worker.stops();
    });
}

#[test]
fn a_task_that_fails_is_retried() {
    each(|shop, program, _| {
        let mut client = shop.server.client();
        assert_eq!(client.run("TASK.POLICY {shop}:mail BACKOFF 1 20 TRIES 0"), ok());
        shop.create("away", "");
        let id = shop.publish(MAIL, "welcome", r#"{"to":"ann@example.org"}"#);
        let mut worker = shop.worker(program, &[]);
        worker.await_line(&format!("{id}: welcome, try 2: the database is away"));
        shop.remove("away");
        eventually(PATIENCE, "the mail is sent", || !shop.outbox().is_empty());
        assert_eq!(shop.outbox(), [format!("{id} ann@example.org")]);
        shop.await_empty(MAIL);
        worker.stops();
    });
}

/// A task that takes until the file `slow` is removed.
fn long_task(shop: &Shop) -> String {
    shop.create("slow", "");
    shop.publish(MAIL, "newsletter", r#"{"to":["ann@example.org","bob@example.org"]}"#)
}

#[test]
fn a_worker_renews_leases_and_finishes_its_tasks_when_it_has_to_stop() {
    each(|shop, program, programs| {
        let mut client = shop.server.client();
        let lease = LEASE.as_millis();
        assert_eq!(client.run(format!("TASK.POLICY {{shop}}:mail LEASE {lease}")), ok());
        let long = long_task(shop);
        let mut worker = shop.worker(program, &[]);
        shop.await_leased(MAIL, 1);
        // It would get the task if the lease expired.
        let other = shop.worker(programs.last().expect("several"), &[]);
        longer_than_two_leases(|| assert!(!worker.says("newsletter") && !other.says("newsletter")));
        worker.signal(libc::SIGTERM);
        longer_than_two_leases(|| assert!(worker.process.try_wait().expect("try_wait").is_none()));
        shop.remove("slow");
        assert!(worker.succeeds().contains(&format!("{long}: newsletter, try 1: done")));
        assert!(!other.says("newsletter"));
        assert_eq!(shop.outbox().len(), 2);
        shop.await_empty(MAIL);
        other.stops();
    });
}

#[test]
fn an_error_of_the_server_does_not_end_the_leases_of_tasks_that_run() {
    each(|shop, program, _| {
        let long = long_task(shop);
        let mut worker = shop.worker(program, &[]);
        shop.await_leased(MAIL, 1);
        let mut client = shop.server.client();
        assert_eq!(client.run("SET {shop}:urgent text"), ok());
        worker.await_line("TASK.CONSUME: ");
        assert_eq!(client.run("DEL {shop}:urgent"), int(1));
        eventually(PATIENCE, "the worker waits again", || waiters(&mut client, "task") == 1);
        let pending = client.run("XPENDING {shop}:mail workers - + 9");
        let [task] = pending.items() else { panic!("{pending:?}") };
        assert_eq!(task.items()[3], int(1), "one delivery: {pending:?}");
        shop.remove("slow");
        worker.await_line(&format!("{long}: newsletter, try 1: done"));
        worker.stops();
    });
}

#[test]
fn a_worker_that_has_to_stop_takes_no_more_tasks() {
    each(|shop, program, _| {
        shop.create("slow", "");
        for n in 0..20 {
            shop.publish(MAIL, "welcome", &format!(r#"{{"to":"{n}@example.org"}}"#));
        }
        let mut worker = shop.start(program, &["worker"]);
        shop.await_leased(MAIL, 4);
        worker.signal(libc::SIGTERM);
        worker.await_line("stopping: ");
        shop.remove("slow");
        let printed = worker.succeeds();
        let done = printed.lines().filter(|line| line.ends_with("try 1: done")).count();
        let mut client = shop.server.client();
        let left = client.run("XRANGE {shop}:mail - +");
        // A task that arrived with the signal was given back.
        assert!((1..=4).contains(&done), "{printed}");
        assert!(printed.contains(&format!("stopping: {done} tasks run\n")), "{printed}");
        assert_eq!((shop.outbox().len(), left.items().len()), (done, 20 - done));
        assert_eq!(leased(&mut client, MAIL), 0);
        for task in left.items() {
            assert_eq!(*task.items()[1].get("retry_count"), bulk("0"));
        }
    });
}

#[test]
fn what_a_worker_cannot_finish_in_time_goes_to_the_next_one() {
    each(|shop, program, programs| {
        let long = long_task(shop);
        let mut worker = shop.worker(program, &[("SHOP_STOP_MS", "0")]);
        shop.await_leased(MAIL, 1);
        worker.signal(libc::SIGTERM);
        worker.succeeds();
        shop.remove("slow");
        let mut next = shop.start(programs.last().expect("several"), &["worker"]);
        next.await_line(&format!("{long}: newsletter, try 1: done"));
        assert_eq!(shop.outbox().len(), 2);
        next.stops();
    });
}

#[test]
fn the_task_of_a_worker_that_is_killed_is_delivered_at_once() {
    each(|shop, program, programs| {
        let long = long_task(shop);
        let worker = shop.worker(program, &[]);
        shop.await_leased(MAIL, 1);
        let mut next = shop.worker(programs.last().expect("several"), &[]);
        drop(worker);
        shop.remove("slow");
        // The lease lasts for five minutes.
        next.await_line(&format!("{long}: newsletter, try 2: done"));
        assert_eq!(shop.outbox().len(), 2);
        next.stops();
    });
}

/// The packages for Python and Node.
struct Packages {
    python: Option<PathBuf>,
    node: Option<PathBuf>,
}

impl Packages {
    fn find() -> Self {
        let modules = std::env::var_os("CORRAL_NODE_PATH").map(PathBuf::from);
        let node = modules.filter(|modules| modules.join("corral-client/package.json").is_file());
        let packages = Self { python: python_with("corral_client"), node };
        if packages.python.is_none() {
            absent("the package for Python");
        }
        if packages.node.is_none() {
            absent("the package for Node");
        }
        packages
    }

    fn python(&self, shop: &Shop, code: &str) -> Option<Run> {
        let mut command = Process::new(self.python.as_ref()?);
        command.args(["-c", code]).env("PYTHONDONTWRITEBYTECODE", "1");
        Some(shop.run("python", command, &[]))
    }

    fn node(&self, shop: &Shop, code: &str) -> Option<Run> {
        let modules = std::path::absolute(self.node.as_ref()?).expect("a path");
        let program = shop.path("program.mjs");
        fs::write(&program, code).expect("write the program");
        // The second program of a shop finds the link.
        let _ = symlink(modules, shop.path("node_modules"));
        let mut command = Process::new("node");
        command.arg(program);
        Some(shop.run("node", command, &[]))
    }
}

const PYTHON_PUBLISHES: &str = "
import os
from corral_client import Corral
corral = Corral.from_url(os.environ['CORRAL_URL'], redis_timeout=30)
print(corral.queue('{shop}:mail').publish('welcome', {'to': 'python@example.org'}))
";
const NODE_PUBLISHES: &str = "
import { createCorral } from 'corral-client';
const corral = createCorral({ url: process.env.CORRAL_URL, timeout: '30s' });
console.log(await corral.queue('{shop}:mail').publish('welcome', { to: 'node@example.org' }));
await corral.close();
";

/// Handles `welcome` as the shops do, and says so.
const PYTHON_WORKS: &str = "
import os
from corral_client import Corral, Task, Worker
corral = Corral.from_url(os.environ['CORRAL_URL'], redis_timeout=30)
mail = corral.queue('{shop}:mail')
@mail.task()
def welcome(task: Task, to: str) -> None:
    print('python', task.id, to, flush=True)
Worker([mail]).run()
";
const NODE_WORKS: &str = "
import { createCorral, Worker } from 'corral-client';
const corral = createCorral({ url: process.env.CORRAL_URL, timeout: '30s' });
const mail = corral.queue('{shop}:mail');
mail.handle('welcome', ({ to }, task) => console.log('node', task.id, to));
await new Worker(corral, mail).run();
await corral.close();
";

#[test]
fn a_program_runs_the_tasks_of_all_others() {
    let packages = Packages::find();
    each(|shop, program, programs| {
        let publishers =
            [packages.python(shop, PYTHON_PUBLISHES), packages.node(shop, NODE_PUBLISHES)];
        let mut publishers: Vec<_> = publishers.into_iter().flatten().collect();
        for other in programs {
            let payload = format!(r#"{{"to": "{}@example.org"}}"#, other.language);
            publishers.push(shop.start(other, &["publish", "mail", "welcome", &payload]));
        }
        let mails = publishers
            .iter_mut()
            .map(|run| format!("{} {}@example.org", run.succeeds().trim(), run.language));
        let mut mails: Vec<_> = mails.collect();
        mails.sort();
        let worker = shop.worker(program, &[]);
        shop.await_empty(MAIL);
        assert_eq!(shop.outbox(), mails);
        worker.stops();
    });
}

#[test]
fn the_packages_run_the_tasks_of_the_programs() {
    let (shop, packages) = (Shop::open(), Packages::find());
    let starts: [&dyn Fn() -> Option<Run>; 2] =
        [&|| packages.python(&shop, PYTHON_WORKS), &|| packages.node(&shop, NODE_WORKS)];
    for mut worker in starts.iter().filter_map(|start| start()) {
        for program in programs() {
            let to = format!("{}@example.org", program.language);
            let payload = format!(r#"{{"to": "{to}"}}"#);
            let id = shop.start(&program, &["publish", "mail", "welcome", &payload]).succeeds();
            worker.await_line(&format!("{} {} {to}\n", worker.language, id.trim()));
        }
        worker.stops();
    }
}
