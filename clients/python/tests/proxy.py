"""A proxy in front of a server, for connections with TLS and for slow ones."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading

from conftest import PATIENCE_S, Server
from corral_client.pytest_plugin import free_port


class Proxy:
    """`delay_s` passes on each connection before anything of what the server sends goes through."""

    def __init__(self, server: Server, context: ssl.SSLContext | None = None, delay_s: float = 0) -> None:
        self.server, self._delay_s = server, delay_s
        self._loop, self.port = asyncio.new_event_loop(), free_port()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        opened = asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=context)
        asyncio.run_coroutine_threadsafe(opened, self._loop).result(PATIENCE_S)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        ways = [self._loop.create_task(self._copy(reader, there_writer)), self._loop.create_task(self._back(there_reader, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        writer.close()
        there_writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._delay_s)
        await self._copy(reader, writer)

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
