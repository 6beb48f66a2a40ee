"""What the drivers of the Python files share."""
import os, signal, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor as Callers
import redis
from connect import URL, corral

# A plain client, beside the package.
shared = redis.Redis.from_url(URL, protocol=2, socket_timeout=20)
C = shared.execute_command

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
    assert found == expected, f"{found!r:.2000}, not {expected!r:.2000}"

# The role of this process: none in the first one, which starts the others.
role = sys.argv[1] if len(sys.argv) > 1 else None

def end_with_the_first():
    sys.stdin.read()
    os._exit(1)

if role:
    threading.Thread(target=end_with_the_first, daemon=True).start()

def start(*arguments, **environment):
    """The driver again with a role, a file of the page, or `-m MODULE`, in a process."""
    if not arguments[0].endswith((".py", "-m")):
        arguments = sys.argv[0], *arguments
    process = subprocess.Popen([sys.executable, "-u", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment})
    process.printed = []
    threading.Thread(target=lambda: process.printed.extend(iter(process.stdout.readline, "")), daemon=True).start()
    return process

def counted(field):
    """A counter of INFO."""
    return C("INFO", "corral")[f"corral_{field}"]

def work_off(worker, done):
    """Runs a worker until `done` is true."""
    with worker:
        until(done)

def is_done(*queues):
    """Whether all tasks of these queues are done or dead."""
    return not any(info["length"] + info["delayed"] for info in (corral.queue(queue).info() for queue in queues))

def corral_worker(place):
    """`corral worker PLACE`"""
    return start("-m", "corral_client.cli", "worker", place)

def exclude_each_other(before, after):
    """Two ways to take the lock `nightly-batch`, both at once: they exclude each other."""
    inside, done = [], []

    def work():
        inside.append(1)
        same(len(inside), 1)
        time.sleep(0.02)
        inside.pop()
        done.append(1)

    at_once(8, lambda: [call(work) for call in (before, after)])
    assert len(done) >= 2, done
    same(C("EXISTS", "lock:{nightly-batch}"), 0)
