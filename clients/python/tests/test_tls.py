"""Connections with TLS: `rediss://`, and clients whose options ask for it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
import redis.asyncio
import trustme
from conftest import PATIENCE_S, Server, eventually
from corral_client import Corral, ServerUnreachable, Task, Worker
from corral_client import asyncio as corral_asyncio
from proxy import Proxy
from test_topology import use


class Secured(Proxy):
    """The server behind a proxy that takes TLS connections, from clients with a certificate of its authority only.

    Not every build of the server has TLS.
    """

    def __init__(self, directory: Path, server: Server) -> None:
        authority = trustme.CA()
        self.authority = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.authority)
        self.files = {}
        for name in ("localhost", "client.example.org"):
            issued = authority.issue_cert(name)
            self.files[name] = directory / f"{name}.pem", directory / f"{name}.key"
            issued.cert_chain_pems[0].write_to_path(self.files[name][0])
            issued.private_key_pem.write_to_path(self.files[name][1])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.authority))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*self.files["localhost"])
        super().__init__(server, context)

    def options(self, **changes: Any) -> dict[str, Any]:
        certificate, key = self.files["client.example.org"]
        return {
            "ssl_ca_certs": str(self.authority), "ssl_certfile": str(certificate), "ssl_keyfile": str(key),
            "socket_timeout": PATIENCE_S,
        } | changes

    def url(self, host: str = "localhost", **changes: Any) -> str:
        options = {name: value for name, value in self.options(**changes).items() if value is not None}
        return f"rediss://{host}:{self.port}?{urlencode(options)}"


@pytest.fixture
def secured(server: Server, tmp_path: Path) -> Iterator[Secured]:
    secured = Secured(tmp_path, server)
    yield secured
    secured.close()


def test_each_family_works_over_tls(secured: Secured) -> None:
    use(Corral.from_url(secured.url()))
    assert secured.server.client.get("key") == b"1"


def test_a_client_with_tls_is_used_for_its_options(secured: Secured) -> None:
    use(Corral(redis.Redis(host="localhost", port=secured.port, ssl=True, **secured.options())))


def test_asyncio_works_over_tls(secured: Secured) -> None:
    async def main() -> None:
        client = redis.asyncio.Redis(host="localhost", port=secured.port, ssl=True, **secured.options())
        patient = {"redis_timeout": PATIENCE_S}
        for corral in corral_asyncio.Corral.from_url(secured.url(), **patient), corral_asyncio.Corral(client, **patient):
            assert await corral.cache.get_or_load("key", lambda: 1, ttl=60, fail_open=False) == 1
            async with corral.lock("name"):
                pass
            await corral.close()

    asyncio.run(main())


def refused(url: str) -> None:
    corral = Corral.from_url(url)
    with pytest.raises(ServerUnreachable):
        corral.queue("work").info()
    corral.close()


def test_a_server_that_is_not_the_one_named_is_refused(secured: Secured) -> None:
    refused(secured.url("127.0.0.1", ssl_check_hostname="true"))
    refused(secured.url(ssl_ca_certs=ssl.get_default_verify_paths().cafile or str(secured.files["localhost"][0])))
    # The client has no certificate.
    refused(secured.url(ssl_certfile=None, ssl_keyfile=None))
    refused(f"redis://localhost:{secured.port}")


def test_a_worker_goes_on_after_a_broken_tls_connection(secured: Secured) -> None:
    corral = Corral.from_url(secured.url())
    queue, seen = corral.queue("work"), []

    @queue.task()
    def work(task: Task, number: int) -> None:
        seen.append(number)

    with Worker([queue]):
        for number in range(3):
            work.options(retry=True).publish(number=number)
            eventually(lambda number=number: seen[-1:] == [number], "it runs")
            secured.server.client.client_kill_filter(_type="normal", skipme=True)
    corral.close()
