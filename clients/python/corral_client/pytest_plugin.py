"""Fixtures for pytest: `corral_memory`, a Corral without a server, and `corral_server`, the URL of a real one.

`corral_server` starts the program in CORRAL_SERVER (default redis-server) with the module in CORRAL_MODULE, on a free
port, in a temporary directory. Without CORRAL_MODULE, tests that use it are skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest

from .testing import Memory, memory

_PATIENCE_S = 30.0


@pytest.fixture
def corral_memory() -> Iterator[Memory]:
    with memory() as fake:
        yield fake


@pytest.fixture(scope="session")
def corral_server() -> Iterator[str]:
    module = os.environ.get("CORRAL_MODULE")
    if not module:
        pytest.skip("CORRAL_MODULE does not name the module")
    directory = tempfile.mkdtemp(prefix="corral-")
    process, port = start_server(os.environ.get("CORRAL_SERVER", "redis-server"), module, directory)
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def start_server(program: str, module: str, directory: str, *options: str) -> tuple[subprocess.Popen[bytes], int]:
    """A server on a free port of this machine, when it answers. If the port was taken meanwhile, another one."""
    for _ in range(10):
        port = free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", *options]
        command += ["--loadmodule", os.path.abspath(module)]
        with open(os.path.join(directory, "server.log"), "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if await_server(process, port):
            return process, port
        process.kill()
        process.wait()
    with open(os.path.join(directory, "server.log")) as file:
        raise RuntimeError(f"{program} did not start:\n{file.read()}")


def await_server(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"INFO server\r\n")
                connection.settimeout(5)
                if f"process_id:{process.pid}\r\n".encode() in connection.recv(65536):
                    return True
        except OSError:
            pass
        time.sleep(0.02)
    return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
