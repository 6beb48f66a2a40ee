//! A server process with a directory and a port of its own.
//!
//! A [`Server`] keeps its directory, its port and its options over any number of runs of the process.
//! The process cannot outlive the test process: the kernel kills it then.

use super::client::{Client, Silence};
use super::process::{Port, allow_many_files, spawn};
use super::replication::wait_until_synced;
use super::value::Value;
use super::{POLL, SOON, eventually};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to load its data and to answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Words that never appear in the log of a healthy server.
const CRASHES: [&str; 6] = [
    "crashed by signal",
    "ASSERTION FAILED",
    "BUG REPORT START",
    "panicked at",
    "ERROR: AddressSanitizer",
    "ERROR: LeakSanitizer",
];
/// What a server logs if its port is taken.
const PORT_TAKEN: &str = "Address already in use";

/// The module under test: `CORRAL_MODULE`, or the release build of this crate.
pub fn module_path() -> PathBuf {
    let path = std::env::var_os("CORRAL_MODULE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/libcorral.so"),
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is not there: run `cargo build --release`, or set CORRAL_MODULE",
        path.display()
    );
    path.canonicalize().expect("a file has a canonical path")
}

/// The server to test with: `SERVER`, or `redis-server`.
pub fn server_binary() -> PathBuf {
    let binary = std::env::var_os("SERVER").unwrap_or_else(|| "redis-server".into());
    let binary = PathBuf::from(binary);
    // Each server runs in its own directory, where a relative path would mean something else.
    if binary.components().count() > 1 {
        std::path::absolute(&binary).unwrap_or(binary)
    } else {
        binary
    }
}

/// Options of a server to start; see [`Server::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    module: bool,
    library: Option<PathBuf>,
    module_args: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, PathBuf)>,
    aof: bool,
    cluster: bool,
    master: Option<u16>,
}

impl Builder {
    /// Whether the module is loaded; it is unless this says otherwise.
    pub fn module(mut self, module: bool) -> Self {
        self.module = module;
        self
    }

    /// Loads this build of the module instead of the one under test.
    pub fn library(mut self, library: &Path) -> Self {
        self.library = Some(library.into());
        self
    }

    /// Adds an argument behind the module's path.
    pub fn module_arg(mut self, arg: impl ToString) -> Self {
        self.module_args.push(arg.to_string());
        self
    }

    /// Adds an argument to the command line: `.arg("--maxmemory").arg("2mb")`. These win over the
    /// options that the fixtures set.
    pub fn arg(mut self, arg: impl ToString) -> Self {
        self.args.push(arg.to_string());
        self
    }

    /// Sets a variable of the process's environment.
    pub fn env(mut self, name: &str, value: PathBuf) -> Self {
        self.env.push((name.into(), value));
        self
    }

    /// Whether there is an append-only file, synced at every write.
    pub fn aof(mut self, aof: bool) -> Self {
        self.aof = aof;
        self
    }

    /// Whether cluster mode is on. [`Cluster::start`](super::Cluster::start) makes a whole cluster.
    pub fn cluster(mut self, cluster: bool) -> Self {
        self.cluster = cluster;
        self
    }

    /// Makes this a replica, started once it is in sync with its master.
    pub fn replica_of(mut self, master: &Server) -> Self {
        self.master = Some(master.port());
        self
    }

    /// Starts the server and waits until it answers; panics with its log when it does not.
    #[track_caller]
    pub fn start(self) -> Server {
        self.try_start().unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// Starts the server and waits until it answers. The error is the log of a server that exited
    /// instead, for example because it refused to load the module.
    #[track_caller]
    pub fn try_start(self) -> Result<Server, String> {
        let mut refusal = String::new();
        for _ in 0..20 {
            let mut server = Server::prepare(self.clone());
            match server.run("server.conf") {
                Ok(()) => {
                    if let Some(master) = self.master {
                        wait_until_synced(&mut Client::connect(master), &mut server.client());
                    }
                    return Ok(server);
                }
                Err(log) if log.contains(PORT_TAKEN) => refusal = log,
                Err(log) => return Err(log),
            }
        }
        Err(refusal)
    }

    fn config(&self, dir: &Path, port: u16, bus_port: u16) -> String {
        let mut lines = vec![
            format!("bind 127.0.0.1\nport {port}\ndir \"{}\"", dir.display()),
            "daemonize no\nsave \"\"\nenable-debug-command yes\nenable-module-command yes".into(),
            "repl-diskless-sync yes\nrepl-diskless-sync-delay 0".into(),
        ];
        if self.module {
            let args = self.module_args.iter().map(|arg| format!(" \"{arg}\""));
            let args = args.collect::<String>();
            let library = self.library.clone().unwrap_or_else(module_path);
            lines.push(format!("loadmodule \"{}\"{args}", library.display()));
        }
        if self.aof {
            lines.push("appendonly yes\nappendfsync always".into());
        }
        if self.cluster {
            lines.push(format!("cluster-enabled yes\ncluster-port {bus_port}"));
            lines.push("cluster-config-file nodes.conf\ncluster-node-timeout 2000".into());
        }
        if let Some(master) = self.master {
            lines.push(format!("replicaof 127.0.0.1 {master}"));
        }
        lines.join("\n") + "\n"
    }
}

/// A server process, or its directory and port between two runs. Dropping it kills the process and
/// fails the test if the server has crashed.
pub struct Server {
    options: Builder,
    port: Port,
    bus_port: Port,
    dir: TempDir,
    /// `None` while it is stopped.
    process: Option<Child>,
    paused: AtomicBool,
}

impl Server {
    /// A standalone server with the module.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Options for a server, initially those of a standalone one with the module.
    pub fn builder() -> Builder {
        Builder {
            module: true,
            library: None,
            module_args: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            aof: false,
            cluster: false,
            master: None,
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The port of the cluster bus, used in cluster mode only.
    pub fn bus_port(&self) -> u16 {
        self.bus_port.number()
    }

    /// The address, as client libraries take it.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    /// The process id; panics while the server is stopped.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server is stopped").id()
    }

    /// The server's directory: configuration, log, RDB, `appendonlydir`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The log of all runs so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A new RESP2 connection.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.port())
    }

    /// A new RESP2 connection with a database selected.
    #[track_caller]
    pub fn client_in(&self, db: usize) -> Client {
        let mut client = self.client();
        if db != 0 {
            assert_eq!(client.run(format!("SELECT {db}")), super::ok());
        }
        client
    }

    /// A new RESP3 connection.
    #[track_caller]
    pub fn client3(&self) -> Client {
        let mut client = self.client();
        let hello = client.run("HELLO 3");
        assert!(matches!(hello, Value::Map(_)), "HELLO 3: {hello:?}");
        client
    }

    /// Many connections, opened fast and all accepted. The server takes 10,000 at most by default:
    /// `.arg("--maxclients").arg("12000")`.
    #[track_caller]
    pub fn clients(&self, count: usize) -> Vec<Client> {
        allow_many_files();
        let mut clients = Vec::with_capacity(count);
        for number in 1..=count {
            let mut client = self.client();
            // Lets the server accept, so that its backlog never overflows.
            if number % 256 == 0 || number == count {
                assert_eq!(client.run("PING"), super::simple("PONG"));
            }
            clients.push(client);
        }
        clients
    }

    /// Kills the process at once, with nothing saved.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            // SAFETY: plain system call. The process leads its group and has not been waited for, so
            // the id is still its own.
            unsafe { libc::kill(-process.id().cast_signed(), libc::SIGKILL) };
            process.wait().expect("wait for a killed server");
            self.paused.store(false, Ordering::Relaxed);
        }
    }

    /// Shuts the server down cleanly, with its data saved; panics if it does not exit with success.
    #[track_caller]
    pub fn stop(&mut self) {
        self.resume();
        self.client().send("SHUTDOWN SAVE NOW");
        let status = self.wait_exit();
        assert!(status.success(), "shutdown: {status}\n{}", self.log_excerpt());
    }

    /// Waits until the process has exited by itself, as a test expects it to.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let process = self.process.as_mut().expect("the server is stopped");
        let status = exit_within(SOON, process).expect("the server exits soon");
        self.process = None;
        status
    }

    /// Starts again in the same directory, on the same port, with the options it was built with. One
    /// that still runs is stopped cleanly before. A replica is not waited for: see
    /// [`wait_in_sync`](super::wait_in_sync).
    #[track_caller]
    pub fn restart(&mut self) {
        self.restart_with("server.conf");
    }

    /// As [`Server::restart`], without the module and its settings in the configuration file.
    #[track_caller]
    pub fn restart_without_module(&mut self) {
        self.restart_with_lines("plain.conf", None);
    }

    /// As [`Server::restart`], with another build of the module and without its settings.
    #[track_caller]
    pub fn restart_with_library(&mut self, library: &Path) {
        let load = format!("loadmodule \"{}\"", library.display());
        self.restart_with_lines("library.conf", Some(load));
    }

    #[track_caller]
    fn restart_with_lines(&mut self, name: &str, load: Option<String>) {
        let config = fs::read_to_string(self.dir().join("server.conf")).expect("read server.conf");
        let plain = config
            .lines()
            .filter(|line| !line.starts_with("loadmodule") && !line.starts_with("corral."));
        let lines = plain.map(str::to_owned).chain(load).collect::<Vec<_>>().join("\n");
        fs::write(self.dir().join(name), lines).expect("write the configuration");
        self.restart_with(name);
    }

    /// Stops the process with SIGSTOP: connections stay open, nothing is answered.
    #[track_caller]
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        self.paused.store(true, Ordering::Relaxed);
        eventually(SOON, "the server is paused", || self.stat()[0] == "T");
    }

    /// Lets a paused process go on; does nothing for one that runs.
    #[track_caller]
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
        self.paused.store(false, Ordering::Relaxed);
    }

    /// Processor time used so far, user and system.
    #[track_caller]
    pub fn cpu_time(&self) -> Duration {
        let stat = self.stat();
        let ticks = |field: usize| stat[field].parse::<u64>().expect("ticks are a number");
        // SAFETY: plain system call without arguments in memory.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let per_second = u64::try_from(per_second).expect("the clock ticks");
        // Fields 14 and 15 of proc(5), counted from field 3.
        Duration::from_millis((ticks(11) + ticks(12)) * 1000 / per_second)
    }

    fn prepare(options: Builder) -> Self {
        let dir = tempfile::Builder::new().prefix("corral-").tempdir().expect("a directory");
        let (port, bus_port) = (Port::reserve(), Port::reserve());
        let config = options.config(dir.path(), port.number(), bus_port.number());
        fs::write(dir.path().join("server.conf"), config).expect("write server.conf");
        Self { options, port, bus_port, dir, process: None, paused: AtomicBool::new(false) }
    }

    /// Starts the process and waits until it answers; the error is the log of one that exited.
    fn run(&mut self, config: &str) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.expect("open the log");
        let logged = self.log().len();
        let mut command = Command::new(server_binary());
        command
            .arg(self.dir().join(config))
            .args(&self.options.args)
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate a descriptor"))
            .stderr(log)
            .process_group(0);
        let mut process = spawn(command).unwrap_or_else(|error| {
            panic!("cannot run {}: {error}", server_binary().display());
        });

        let end = Instant::now() + START_TIMEOUT;
        while !self.answers(process.id()) {
            let exited = exit_within(POLL, &mut process).is_some();
            if exited || Instant::now() > end {
                let why = if exited { "" } else { "it does not answer\n" };
                self.process = (!exited).then_some(process);
                self.kill9();
                let log = self.log().split_off(logged);
                return Err(format!("{why}{log}"));
            }
        }
        self.process = Some(process);
        Ok(())
    }

    /// Whether the process with this id answers on the port, with its data loaded.
    fn answers(&self, pid: u32) -> bool {
        let Ok(mut client) = Client::try_connect(self.port()) else {
            return false;
        };
        match client.ask("INFO", START_TIMEOUT) {
            Ok(Value::Bulk(info)) => {
                let info = String::from_utf8_lossy(&info);
                let says = |line: &str| info.lines().any(|found| found == line);
                says(&format!("process_id:{pid}")) && says("loading:0")
            }
            // A password is asked for: it runs.
            Ok(error) => error.is_error_with("NOAUTH"),
            Err(_) => false,
        }
    }

    #[track_caller]
    fn restart_with(&mut self, config: &str) {
        if self.process.is_some() {
            self.stop();
        }
        eventually(SOON, "the server starts again", || match self.run(config) {
            Ok(()) => true,
            Err(log) if log.contains(PORT_TAKEN) => false,
            Err(log) => panic!("the server did not start again:\n{log}"),
        });
    }

    #[track_caller]
    fn signal(&self, signal: i32) {
        let pid = self.pid().cast_signed();
        // SAFETY: plain system call. The process has not been waited for, so the id is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "signal {signal} to {pid}");
    }

    /// The fields of /proc/PID/stat from the state (field 3) on.
    #[track_caller]
    fn stat(&self) -> Vec<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("proc is there");
        let (_, fields) = stat.rsplit_once(')').expect("stat names the program in parentheses");
        fields.split_whitespace().map(str::to_owned).collect()
    }

    fn log_file(&self) -> PathBuf {
        self.dir().join("server.log")
    }

    /// The most useful part of the log: around the first sign of a crash, or else the end.
    pub fn log_excerpt(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let crash = lines.iter().position(|line| is_crash(line));
        let start = crash.unwrap_or_else(|| lines.len().saturating_sub(60)).saturating_sub(10);
        lines[start..].iter().take(120).map(|line| format!("{line}\n")).collect()
    }

    /// Whether its log says that it crashed.
    pub fn has_crashed(&self) -> bool {
        self.log().lines().any(is_crash)
    }

    /// Why a server that should still run does not, if so. Kills it.
    fn find_crash(&mut self) -> Option<String> {
        if let Some(process) = &mut self.process {
            // One round trip, so that the effects of the test's last steps are complete.
            let answer = match Client::try_connect(self.port.number()) {
                _ if self.paused.load(Ordering::Relaxed) => Err(Silence::TimedOut),
                Ok(mut client) => client.ask("PING", Duration::from_secs(1)),
                Err(_) => Err(Silence::Closed),
            };
            // A process closes its sockets a little before it is seen to have exited.
            let timeout = if answer == Err(Silence::Closed) { SOON } else { Duration::ZERO };
            if let Some(status) = exit_within(timeout, process) {
                return Some(format!("the server was gone: {status}"));
            }
        }
        self.kill9();
        self.has_crashed().then(|| "the server crashed".to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            self.kill9();
            let (port, log) = (self.port(), self.log_excerpt());
            eprintln!("--- log of the server on port {port}\n{log}");
        } else if let Some(crash) = self.find_crash() {
            panic!("{crash}\n{}", self.log_excerpt());
        }
    }
}

fn is_crash(line: &str) -> bool {
    CRASHES.iter().any(|sign| line.contains(sign))
}

/// The exit status of a process that exits within `timeout`.
fn exit_within(timeout: Duration, process: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + timeout;
    loop {
        let last = Instant::now() >= end;
        let status = process.try_wait().expect("try_wait");
        if last || status.is_some() {
            return status;
        }
        thread::sleep(POLL);
    }
}

/// One field of an `INFO` section, over a connection of its own.
#[track_caller]
pub fn info(server: &Server, section: &str, field: &str) -> Option<String> {
    server.client().info(section, field)
}

/// How many clients are blocked.
#[track_caller]
pub fn blocked_clients(server: &Server) -> usize {
    let count = info(server, "clients", "blocked_clients").expect("INFO has blocked_clients");
    count.parse().expect("blocked_clients is a number")
}

/// Waits until exactly this many clients are blocked.
#[track_caller]
pub fn wait_blocked(server: &Server, count: usize) {
    let mut client = server.client();
    let count = count.to_string();
    eventually(SOON, &format!("{count} clients are blocked"), || {
        client.info("clients", "blocked_clients").as_ref() == Some(&count)
    });
}
