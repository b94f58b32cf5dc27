"""A TCP proxy whose faults are switched while it runs, to stand before a server that a test wants to be far or ill.

    with FaultProxy("127.0.0.1:8123") as proxy:
        ...  # connect to proxy.address
        proxy.cut()
        proxy.heal()

It listens on 127.0.0.1, on one port for its whole life, in a thread of its own; every method may be called from any
thread and returns once the fault is in force. Faults add up until `heal`, which ends all of them.

Not guaranteed: the cut of the bytes. A chunk may be joined or split on its way, as on any network.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self

_CHUNK_BYTES: Final = 65_536
#: Chunks under way in one direction: with a delay, this much is on the wire before the sender has to wait.
_UNDER_WAY: Final = 64
#: Closing with a linger of zero seconds sends RST instead of FIN.
_RESET: Final = struct.pack("ii", 1, 0)
#: Beyond this a method of the proxy hangs.
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True)
class _Faults:
    """What is wrong with the way now. `reset_after` is how many bytes of an answer still pass before the reset."""

    delay_up_s: float = 0.0
    delay_down_s: float = 0.0
    bytes_per_s: float | None = None
    reset_after: int | None = None


@dataclass(eq=False)
class _Link:
    """One connection of a client, with ours to the target."""

    client: socket.socket
    server: socket.socket | None = None
    task: asyncio.Task[None] | None = None
    closed: bool = False
    answered: int = 0
    """Bytes of answers forwarded since a reset was asked for."""

    def close(self, *, reset: bool) -> None:
        if self.closed:
            return
        self.closed = True
        for end in (self.client, self.server):
            if end is None:
                continue
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


@dataclass(frozen=True)
class _Way:
    """One direction of a link, and the chunks on it: (when it is due in seconds of the loop's clock, bytes)."""

    source: socket.socket
    to: socket.socket
    upwards: bool
    chunks: asyncio.Queue[tuple[float, bytes]] = field(default_factory=lambda: asyncio.Queue(_UNDER_WAY))


class FaultProxy:
    """The proxy; a context manager. `address` is host:port to connect to, `target` host:port it forwards to."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.accepted = 0
        """Connections accepted so far."""
        self.resets = 0
        """Answers that were cut by `reset_answer`."""
        # Bound and never listening: it keeps the port ours while connections are refused.
        self._holder = _bindable()
        self._holder.bind(("127.0.0.1", 0))
        host, self.port = self._holder.getsockname()
        self.address = f"{host}:{self.port}"
        self._faults = _Faults()
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._accepting: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self._do(self._open())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- faults ---------------------------------------------------------------------------------------------------

    def delay(self, *, up_s: float = 0.0, down_s: float = 0.0) -> None:
        """Everything takes so many seconds longer, to the target (`up_s`) and back (`down_s`); none is lost."""
        self._change(delay_up_s=up_s, delay_down_s=down_s)

    def limit(self, bytes_per_s: float) -> None:
        """At most so many bytes a second, for each connection and direction."""
        self._change(bytes_per_s=bytes_per_s)

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""

        async def change() -> None:
            await self._stop_listening()
            await self._reset_all()

        self._do(change())

    def half_open(self) -> None:
        """Nothing passes any more, and nobody is told: connections stay open, new ones are accepted, all is silence.

        What was under way is kept and arrives after `heal`, late, as after a network partition.
        """

        async def change() -> None:
            self._flowing.clear()

        self._do(change())

    def reset_answer(self, after_bytes: int = 20) -> None:
        """Forward so many bytes of the next answer on any connection, then reset that connection; once.

        An answer that is not longer than that passes; the bytes of the same connection's next ones are counted on.
        """
        self._change(reset_after=after_bytes)

    def heal(self) -> None:
        """End every fault. What was held back goes on its way."""

        async def change() -> None:
            self._faults = _Faults()
            self._flowing.set()
            if self._accepting is None:
                self._listen()

        self._do(change())

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._links)

    def close(self) -> None:
        """End every connection and the thread. Safe to call again."""
        if self._loop.is_closed():
            return
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()
        self._holder.close()

    def _do(self, change: Coroutine[Any, Any, None]) -> None:
        """Run it in the proxy's thread, where all its state lives."""
        asyncio.run_coroutine_threadsafe(change, self._loop).result(_PATIENCE_S)

    def _change(self, **faults: Any) -> None:
        async def change() -> None:
            self._faults = replace(self._faults, **faults)
            for link in self._links:
                link.answered = 0

        self._do(change())

    # -- connections ----------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._listen()

    def _listen(self) -> None:
        listener = _bindable()
        listener.bind(self._holder.getsockname())
        listener.listen(128)
        listener.setblocking(False)
        self._accepting = self._loop.create_task(self._accept(listener))

    async def _stop_listening(self) -> None:
        accepting, self._accepting = self._accepting, None
        if accepting is not None:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)

    async def _reset_all(self) -> None:
        links = list(self._links)
        tasks = [link.task for link in links if link.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in links:
            # One that was cancelled before its first step has closed nothing.
            self._end(link, reset=True)

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await self._loop.sock_accept(listener)
                self.accepted += 1
                link = _Link(client)
                self._links.add(link)
                link.task = self._loop.create_task(self._serve(link))

    async def _serve(self, link: _Link) -> None:
        # Whatever ends it but the two ends themselves is told in the only way there is.
        reset = True
        try:
            await self._flowing.wait()
            server = link.server = socket.socket()
            server.setblocking(False)
            host, _, port = self.target.rpartition(":")
            await self._loop.sock_connect(server, (host, int(port)))
            for end in (link.client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._forward(link, _Way(link.client, server, True), _Way(server, link.client, False))
            reset = False
        except OSError:
            pass
        finally:
            self._end(link, reset=reset)

    async def _forward(self, link: _Link, *ways: _Way) -> None:
        steps = [step for way in ways for step in (self._read(way), self._write(link, way))]
        tasks = [asyncio.ensure_future(step) for step in steps]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            # Only then has the loop let go of the sockets, and they may be closed.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, way: _Way) -> None:
        while True:
            data = await self._loop.sock_recv(way.source, _CHUNK_BYTES)
            delay = self._faults.delay_up_s if way.upwards else self._faults.delay_down_s
            await way.chunks.put((self._loop.time() + delay, data))
            if not data:
                return

    async def _write(self, link: _Link, way: _Way) -> None:
        while True:
            due, data = await way.chunks.get()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            await self._flowing.wait()
            if not data:
                way.to.shutdown(socket.SHUT_WR)
                return
            left = None if way.upwards else self._left_of_the_answer(link)
            await self._loop.sock_sendall(way.to, data[:left])
            if left is not None:
                link.answered += len(data)
                if len(data) > left:
                    self._faults = replace(self._faults, reset_after=None)
                    self.resets += 1
                    raise ConnectionResetError("this answer was to be cut here")
            if (rate := self._faults.bytes_per_s) is not None:
                await asyncio.sleep(len(data) / rate)

    def _left_of_the_answer(self, link: _Link) -> int | None:
        """How many bytes may still pass before the reset; None when none is asked for."""
        after = self._faults.reset_after
        return None if after is None else max(0, after - link.answered)

    def _end(self, link: _Link, *, reset: bool) -> None:
        self._links.discard(link)
        link.close(reset=reset)


def _bindable() -> socket.socket:
    """A socket that may share its port with one that does not listen."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made
