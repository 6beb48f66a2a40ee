import os, subprocess, sys, threading, time
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

# The part that this process plays: none in the first one, which starts the others.
role = sys.argv[1] if len(sys.argv) > 1 else None

def end_with_the_first():
    sys.stdin.read()
    os._exit(1)

if role:
    threading.Thread(target=end_with_the_first, daemon=True).start()

def start(role):
    """This script again, in a process of its own, which ends with this one."""
    return subprocess.Popen([sys.executable, __file__, role], stdin=subprocess.PIPE)

def counted(field):
    """What INFO tells under this name."""
    lines = shared.execute_command("INFO", "corral")
    return lines[f"corral_{field}"] if isinstance(lines, dict) else lines
