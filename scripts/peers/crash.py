"""Kills workers and measures how long another one takes to get the task.

crash.py ROUNDS COMMAND...: in each round a task hangs in one of two workers, that worker is killed with kill -9, and
another worker gets the task. Prints the time between in ms, one round in a line.
"""
import os
import signal
import subprocess
import sys
import time

import redis

QUEUE = os.environ["QUEUE"]
store = redis.Redis(port=int(os.environ["PORT"]))


def start(command):
    return subprocess.Popen([*command, "work", "1"], start_new_session=True)


def wait_for(key):
    deadline = time.monotonic() + 180
    while (value := store.get(f"{QUEUE}:{key}")) is None:
        if time.monotonic() > deadline:
            sys.exit(f"no {key}")
        time.sleep(0.005)
    return float(value)


def main():
    rounds, command = int(sys.argv[1]), sys.argv[2:]
    workers = [start(command), start(command)]
    try:
        for number in range(rounds):
            # The workers have to wait before a task is published.
            time.sleep(1.5)
            subprocess.run([*command, "hang", str(number)], check=True)
            worker = int(wait_for(f"worker{number}"))
            os.killpg(worker, signal.SIGKILL)
            killed = time.time()
            again = wait_for(f"again{number}")
            print(f"{max(0, again - killed) * 1000:.2f}", flush=True)
            for dead in [process for process in workers if process.pid == worker]:
                dead.wait()
                workers.remove(dead)
            workers.append(start(command))
    finally:
        for process in workers:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


main()
