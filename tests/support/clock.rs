//! A wall clock that a test can set: a preloaded library adds a shift to the system's time. The
//! monotonic clock is not changed.

use super::server::Builder;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *seconds;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("CLOCK_SHIFT");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof(*seconds), PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) seconds = page;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, id, now);
    if (result == 0 && seconds && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += *seconds;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *to) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (to) *to = exact.tv_sec;
    return exact.tv_sec;
}
"#;

/// The wall clock of the servers that are started with it.
pub struct WallClock {
    dir: TempDir,
}

impl WallClock {
    /// A clock that shows the system's time.
    #[track_caller]
    pub fn new() -> Self {
        let clock = Self { dir: tempfile::tempdir().expect("a directory") };
        clock.set(0);
        let source = clock.dir.path().join("clock.c");
        fs::write(&source, LIBRARY).expect("write the source");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([clock.library(), source])
            .status()
            .expect("a C compiler");
        assert!(compiled.success());
        clock
    }

    /// Has a server use this clock.
    pub fn of(&self, server: Builder) -> Builder {
        let shift = self.dir.path().join("shift");
        server.env("LD_PRELOAD", self.library()).env("CLOCK_SHIFT", shift)
    }

    /// Sets the clock ahead of the system's time.
    pub fn ahead(&self, by: Duration) {
        self.set(i64::try_from(by.as_secs()).expect("a shift"));
    }

    /// Sets the clock behind the system's time.
    pub fn behind(&self, by: Duration) {
        self.set(-i64::try_from(by.as_secs()).expect("a shift"));
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("clock.so")
    }

    /// In place: the servers have mapped the file.
    fn set(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let shift = self.dir.path().join("shift");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(shift);
        file.expect("the shift").write_all_at(&seconds.to_ne_bytes(), 0).expect("set the clock");
    }
}
