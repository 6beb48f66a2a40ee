//! The files in extras/: the script for redis_exporter, the alert rules and the dashboard.
//!
//! One test runs the whole chain: a server, the exporter with the script, and Prometheus, which
//! scrapes it and answers every query of the dashboard. The alert rules have their own tests, in
//! tests/extras/alerts_test.yml.
//!
//! Without redis_exporter, Prometheus or promtool, their tests say so and check nothing else, unless
//! CI=true. The files are used as they are: only ports, intervals and names are filled in.

mod support;
use support::*;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::thread;
use std::time::Duration;

/// How long a scrape and its evaluation may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Replaces what occurs exactly once.
#[track_caller]
fn fill_in(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old}");
    text.replace(old, new)
}

/// The script for these queues and locks.
fn script(queues: &[&str], locks: &[&str]) -> String {
    let list = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let text = read("extras/corral.lua");
    let text = fill_in(&text, "queues = {}", &format!("queues = {}", list(queues)));
    fill_in(&text, "locks = {}", &format!("locks = {}", list(locks)))
}

/// The metrics that the script reports, by their keys.
#[track_caller]
fn metrics(c: &mut Client, queues: &[&str], locks: &[&str]) -> BTreeMap<String, String> {
    let reply = c.cmd(&["EVAL", &script(queues, locks), "0"]);
    let metrics = reply.items().chunks(2);
    metrics.map(|pair| (pair[0].as_str().to_owned(), pair[1].as_str().to_owned())).collect()
}

/// The numeric fields of `INFO corral`.
fn counters(c: &mut Client) -> BTreeMap<String, String> {
    let info = c.run("INFO corral");
    let fields = info.as_str().lines().filter_map(|line| line.split_once(':'));
    let numbers = fields.filter(|(name, value)| {
        !name.ends_with("_build") && value.bytes().all(|byte| byte.is_ascii_digit())
    });
    numbers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A server with a queue, a lock that a client waits for, and a key that is neither.
fn busy_server() -> (Server, Client) {
    let server = Server::start();
    let replies = server.client().pipeline(&[
        "TASK.PUBLISH mail a",
        "TASK.CONSUME workers w1 mail",
        "TASK.PUBLISH mail b",
        "TASK.PUBLISH mail c",
        "LOCK.ACQUIRE nightly me 600000",
        "CACHE.SET page text 600000",
        "CACHE.GET page",
        "SET other text",
    ]);
    assert!(replies.iter().all(|reply| !reply.is_error()), "{replies:?}");
    let mut waiter = server.client();
    waiter.send("LOCK.ACQUIRE nightly you 600000 BLOCK 0");
    wait_blocked(&server, 1);
    (server, waiter)
}

#[test]
fn the_script_reports_every_counter_and_every_listed_name() {
    let (server, _waiter) = busy_server();
    let mut c = server.client();
    let found = metrics(&mut c, &["mail", "other"], &["nightly"]);
    let counters = counters(&mut c);
    assert!(counters.len() > 30, "{counters:?}");
    for (name, value) in &counters {
        assert_eq!(found.get(name), Some(value), "{name}");
    }
    for (key, value) in [
        ("corral_up", "1"),
        ("corral_task_published", "3"),
        ("corral_lock_waiters", "1"),
        ("corral_task_info_length|mail", "3"),
        ("corral_task_info_dead|mail", "0"),
        ("corral_task_info_policy_paused|mail", "0"),
        ("corral_task_info_group_ready|mail|workers", "2"),
        ("corral_task_info_group_leased|mail|workers", "1"),
        ("corral_lock_info_holders|nightly", "1"),
        ("corral_lock_info_waiters|nightly", "1"),
        // `other` is not a queue.
        ("corral_info_errors", "1"),
    ] {
        assert_eq!(found.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[test]
fn the_script_needs_read_permissions_only() {
    let (server, _waiter) = busy_server();
    let mut c = server.client();
    let user = "ACL SETUSER monitor on >secret resetkeys %R~mail %R~nightly -@all \
        +auth +eval +info +task.info +lock.info";
    assert_eq!(c.run(user), ok());
    assert_eq!(c.run("AUTH monitor secret"), ok());
    let found = metrics(&mut c, &["mail"], &["nightly"]);
    assert_eq!(found["corral_info_errors"], "0");
    assert_eq!(found["corral_task_info_length|mail"], "3");
    assert_eq!(found["corral_lock_info_waiters|nightly"], "1");
}

#[test]
fn a_group_with_a_binary_name_is_reported() {
    let server = Server::start();
    let mut c = server.client();
    c.publish("mail", "a");
    c.cmd(&args!["TASK.CONSUME", b"w\xff\n|", "w1", "mail"]);
    let found = metrics(&mut c, &["mail"], &[]);
    let leased = found.get("corral_task_info_group_leased|mail|w??|");
    assert_eq!(leased.map(String::as_str), Some("1"), "{found:?}");
}

#[test]
fn each_node_of_a_cluster_reports_its_own_names() {
    let cluster = Cluster::start(3, Server::builder());
    let names = ["a", "b", "c", "d", "e", "f"];
    let owners: BTreeSet<_> = names.iter().map(|name| cluster.node_for(name).port()).collect();
    assert!(owners.len() > 1, "the names belong to several nodes");
    for name in names {
        let mut c = cluster.client_for(name);
        c.publish(name, "a");
        let port = cluster.node_for(name).port();
        let own = names.iter().filter(|name| cluster.node_for(name).port() == port).count();
        let found = metrics(&mut c, &names, &[]);
        let lengths = found.keys().filter(|key| key.starts_with("corral_task_info_length|"));
        assert_eq!(lengths.count(), own, "{found:?}");
        assert!(found.contains_key(&format!("corral_task_info_length|{name}")), "{found:?}");
        assert_eq!(found["corral_info_errors"], "0");
    }
}

#[test]
fn the_script_reports_a_server_without_the_module() {
    let server = Server::builder().module(false).start();
    let found = metrics(&mut server.client(), &["mail"], &["nightly"]);
    assert_eq!(found, BTreeMap::from([("corral_up".into(), "0".into())]));
}

// --- The dashboard

/// The queries of the dashboard's panels.
#[track_caller]
fn queries(c: &mut Client) -> Vec<String> {
    // The server's JSON parser saves a dependency.
    let walk = "local queries = {} \
        for _, panel in ipairs(cjson.decode(ARGV[1]).panels) do \
            for _, target in ipairs(panel.targets or {}) do \
                table.insert(queries, target.expr) end end \
        return queries";
    let reply = c.cmd(&["EVAL", walk, "0", &read("extras/dashboard.json")]);
    reply.items().iter().map(|query| query.as_str().to_owned()).collect()
}

/// The metrics of Corral that a text names.
fn named_metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    words.filter(|word| word.starts_with("corral_")).collect()
}

#[test]
fn the_dashboard_shows_every_counter() {
    let server = Server::start();
    let mut c = server.client();
    let queries = queries(&mut c).join("\n");
    let shown = named_metrics(&queries);
    let counters = counters(&mut c);
    let hidden: Vec<_> = counters.keys().filter(|name| !shown.contains(name.as_str())).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

// --- With the exporter and Prometheus

/// The first of these programs that is installed. Without one the test ends early, unless CI=true.
#[track_caller]
fn installed(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").expect("a PATH");
    let dirs: Vec<_> = std::env::split_paths(&path).collect();
    let files = names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    let found = files.into_iter().find(|file| file.is_file());
    if found.is_none() {
        let missing = format!("{} is not installed", names[0]);
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}: scripts/setup.sh test");
        eprintln!("{missing}: nothing is checked with it");
    }
    found
}

/// A program that serves HTTP. Dropping it ends it, and prints its log if the test has failed.
struct Service {
    process: Child,
    port: Port,
    log: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- {}\n{log}", self.log.display());
        }
    }
}

impl Service {
    /// Starts the program. Its log goes into the directory.
    fn start(program: &Path, dir: &Path, args: &[String]) -> Self {
        let port = Port::reserve();
        let name = program.file_name().expect("a program").to_string_lossy();
        let log = dir.join(format!("{name}.log"));
        let file = fs::File::create(&log).expect("create the log");
        let mut command = Process::new(program);
        command
            .args(args)
            .arg(format!("--web.listen-address=127.0.0.1:{}", port.number()))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("duplicate a descriptor"))
            .stderr(file);
        let process = spawn(command).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { process, port, log }
    }

    /// The body of the page, if the program answers with success.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number())).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let (head, body) = reply.split_once("\r\n\r\n")?;
        head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
    }

    /// Waits until Prometheus finds something for a query; returns its answer.
    #[track_caller]
    fn answer(&self, query: &str) -> String {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        eventually(TIMEOUT, query, || {
            self.get(&path).filter(|body| {
                body.contains(r#""status":"success""#) && !body.contains(r#""result":[]"#)
            })
        })
    }
}

#[test]
fn the_exporter_serves_the_metrics_and_prometheus_answers_every_query() {
    let Some(exporter) = installed(&["prometheus-redis-exporter", "redis_exporter"]) else {
        return;
    };
    let (server, _waiter) = busy_server();
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let file = |name: &str, text: &str| {
        fs::write(dir.join(name), text).expect("write a file");
    };

    file("corral.lua", &script(&["mail"], &["nightly"]));
    let address = format!("--redis.addr=redis://127.0.0.1:{}", server.port());
    let args = [address, "--script=corral.lua".into()];
    let exporter = Service::start(&exporter, dir, &args);
    let scraped = eventually(TIMEOUT, "the exporter serves the metrics", || {
        exporter.get("/metrics").filter(|page| page.contains("corral_up"))
    });
    for (key, value) in [
        ("corral_up", "1"),
        ("corral_panics", "0"),
        ("corral_task_published", "3"),
        ("corral_task_info_group_ready|mail|workers", "2"),
        ("corral_lock_info_waiters|nightly", "1"),
        ("corral_info_errors", "0"),
    ] {
        // Later versions of the exporter have more labels.
        let found = scraped.lines().any(|line| {
            line.starts_with("redis_script_values{")
                && line.contains(&format!("key=\"{key}\""))
                && line.ends_with(&format!("}} {value}"))
        });
        assert!(found, "{key}: {scraped}");
    }

    let Some(prometheus) = installed(&["prometheus"]) else { return };
    let instance = format!("127.0.0.1:{}", exporter.port.number());
    let config = fill_in(&read("extras/prometheus.yml"), "localhost:9121", &instance);
    file("prometheus.yml", &fill_in(&config, "scrape_interval: 15s", "scrape_interval: 1s"));
    let rules = read("extras/alerts.yml");
    file("alerts.yml", &rules);
    let args = ["--config.file=prometheus.yml", "--storage.tsdb.path=data"].map(str::to_owned);
    let prometheus = Service::start(&prometheus, dir, &args);

    let labels = r#"{name="mail",group="workers",key=""}"#;
    let ready = prometheus.answer(&format!("corral_task_info_group_ready{labels}"));
    assert!(ready.contains(r#""2"]"#), "{ready}");
    for metric in named_metrics(&rules) {
        prometheus.answer(metric);
    }
    for query in queries(&mut server.client()) {
        let query = query.replace("$instance", &instance).replace("$__rate_interval", "1m");
        prometheus.answer(&query);
    }
}

#[test]
fn the_alerts_fire_when_they_should_and_only_then() {
    let Some(promtool) = installed(&["promtool"]) else { return };
    for args in [
        ["check", "config", "extras/prometheus.yml"],
        ["check", "rules", "extras/alerts.yml"],
        ["test", "rules", "tests/extras/alerts_test.yml"],
    ] {
        let run = Process::new(&promtool).args(args).current_dir(root()).output();
        let run = run.expect("run promtool");
        let printed = [run.stdout, run.stderr].concat();
        assert!(run.status.success(), "{args:?}: {}", String::from_utf8_lossy(&printed));
    }
}
