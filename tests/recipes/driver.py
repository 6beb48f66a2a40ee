"""What the drivers of the Python files share."""
import os, signal, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor as Callers
from clients import C, W, shared

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
    """The driver again with a role, or a file of the page, in a process that ends with this one."""
    if not arguments[0].endswith(".py"):
        arguments = sys.argv[0], *arguments
    process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment})
    process.printed = []
    threading.Thread(target=lambda: process.printed.extend(iter(process.stdout.readline, "")), daemon=True).start()
    return process

def counted(field):
    """A counter of INFO."""
    lines = shared.execute_command("INFO", "corral")
    return lines[f"corral_{field}"] if isinstance(lines, dict) else lines


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
