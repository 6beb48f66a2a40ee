//! What a server needs of the machine: a port that nobody else takes, and a process that does not
//! outlive the tests.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{LazyLock, mpsc};
use std::thread;

/// Ports are taken from here: below the ephemeral ones, which any connection may occupy.
const PORTS: Range<u16> = 12_000..32_000;

/// A port that no other test on this machine uses while this value lives, whether or not a server
/// listens on it.
pub struct Port {
    number: u16,
    /// The kernel frees an abstract socket with the process, and it shares the ports' name space.
    _reservation: UnixListener,
}

impl Port {
    /// Picks a port at random that is not reserved.
    #[track_caller]
    pub fn reserve() -> Self {
        let span = u64::from(PORTS.end - PORTS.start);
        for _ in 0..10_000 {
            let random = RandomState::new().build_hasher().finish() % span;
            let number = PORTS.start + u16::try_from(random).expect("ports are 16 bits");
            let name = format!("corral-test-port-{number}");
            let name = SocketAddr::from_abstract_name(name);
            match UnixListener::bind_addr(&name.expect("a short name")) {
                Ok(reservation) => {
                    return Self { number, _reservation: reservation };
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("reserve port {number}: {error}"),
            }
        }
        panic!("no free port");
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Starts a process that the kernel kills when this process dies.
///
/// The kernel sends the signal when the *thread* that forked ends, so one thread that never ends starts
/// all processes.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Request>> = LazyLock::new(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });

    let parent = std::process::id();
    let mut command = command;
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // The parent may have died before the call above.
            if libc::getppid().cast_unsigned() != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let (answer, child) = mpsc::channel();
    SPAWNER.send((command, answer)).expect("the spawner lives as long as the process");
    child.recv().expect("the spawner answers")
}

/// The interpreter that `CORRAL_PYTHON` names, or `python3`, if it has this package.
pub fn python_with(package: &str) -> Option<PathBuf> {
    let program = std::env::var_os("CORRAL_PYTHON").unwrap_or_else(|| "python3".into());
    let probe = Command::new(&program).args(["-c", &format!("import {package}")]).output();
    probe.is_ok_and(|probe| probe.status.success()).then(|| program.into())
}

/// Raises this process's limit of open files, and that of the servers it starts, as far as it goes.
pub fn allow_many_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid pointer to a limit that lives on this stack.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
