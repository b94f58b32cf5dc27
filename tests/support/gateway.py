"""`vigie gateway` as a process of its own, for tests: an embedded ClickHouse that several processes share over HTTP.

The port stays the same over restarts, as do the data. It is ended by its process id when the context ends.

Not guaranteed: a gateway outlives a test process that is killed with SIGKILL.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from sinks.clickhouse import Sink
from tests.support.pipeline import VIGIE, environment

#: The engine opens in half a second; a directory of many parts takes longer.
START_TIMEOUT_S: Final = 60.0
#: Ten seconds for statements under way, five for those that were cancelled, and then some.
STOP_TIMEOUT_S: Final = 25.0
_POLL_S: Final = 0.02
#: Below the range from which Linux picks the ports of clients, one of which could otherwise have it after a kill.
_PORTS: Final = range(20_000, 32_000)


class GatewayError(Exception):
    """The gateway could not be started or stopped; the message ends with what it printed."""


class Gateway:
    """A gateway that runs (or was killed, or stopped). Made by `gateway`.

    `url` is what VIGIE_CLICKHOUSE_URL takes; `data` is the directory of the database, which an embedded ClickHouse can
    open when the gateway has ended.
    """

    def __init__(self, folder: Path, port: int, options: Sequence[str]) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "clickhouse"
        self.output = folder / "gateway.log"
        self._command = [
            str(VIGIE), "gateway", "--data-dir", str(self.data), "--port", str(self.port), *options,
        ]  # fmt: skip
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None when it is not running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start it and return once it answers. Raises GatewayError with its output if it does not."""
        if self.pid is not None:
            raise GatewayError(f"the gateway on {self.url} is already running")
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment({}),
                cwd=self._folder,
            )
        until = time.monotonic() + START_TIMEOUT_S
        try:
            while not self.answers():
                if self.pid is None:
                    raise GatewayError(f"the gateway ended while starting:\n{self.tail()}")
                if time.monotonic() > until:
                    raise GatewayError(f"the gateway did not answer within {START_TIMEOUT_S:.0f} s:\n{self.tail()}")
                time.sleep(_POLL_S)
            if self.pid is None:
                raise GatewayError(f"somebody else answers on {self.url}:\n{self.tail()}")
        except BaseException:
            self.kill()
            raise

    def answers(self) -> bool:
        """Whether somebody answers pings at its port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read() == b"Ok.\n"
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it as an operator would (SIGTERM). Raises GatewayError unless it ends by itself with exit code 0.

        Nothing if it is not running.
        """
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise GatewayError(f"the gateway did not stop within {STOP_TIMEOUT_S:.0f} s:\n{self.tail()}") from None
        if code != 0:
            raise GatewayError(f"the gateway ended with exit code {code}:\n{self.tail()}")

    def kill(self) -> None:
        """End it at once (SIGKILL). Nothing if it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Stop it if it runs, start it again on the same port and data, and return once it answers."""
        self.stop()
        self.start()

    def tail(self, lines: int = 40) -> str:
        """The last lines that it printed."""
        return "\n".join(self.output.read_text("utf-8", "replace").splitlines()[-lines:])


@contextlib.contextmanager
def gateway(folder: Path, *, port: int = 0, options: Sequence[str] = ()) -> Iterator[Gateway]:
    """Start a gateway over `folder`/clickhouse, yield it, and end it.

    With port 0 a free one is chosen and kept. `options` are more of the command's, like --read-only. Data and output
    stay in the folder. Raises GatewayError; what else the block raises carries the end of its output as a note.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = Gateway(folder, port, options)
    try:
        running.start()
        yield running
    except Exception as error:
        if not isinstance(error, GatewayError) and (printed := running.tail()):
            error.add_note(f"output of the gateway on {running.url}:\n{printed}")
        raise
    finally:
        running.kill()


def free_port() -> int:
    """A port nobody listens on, drawn at random, so that processes that start at the same time seldom meet."""
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As the gateway will: connections of its predecessor that linger do not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise GatewayError(f"no free port between {_PORTS.start} and {_PORTS.stop}")


def ask(
    url: str, body: bytes | None, address: str = "/", method: str = "POST", **headers: str
) -> tuple[int, str | None, bytes]:
    """One request on a connection of its own: the status, ClickHouse's number of the error, and the body.

    An underscore in the name of a header stands for a dash.
    """
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, address, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers["X-ClickHouse-Exception-Code"], answer.read()
    finally:
        connection.close()


def post(sql: str) -> bytes:
    """A whole request, to be sent by hand."""
    body = sql.encode()
    return b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def dial(url: str) -> socket.socket:
    """A connection on which bytes are sent by hand."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


@contextlib.contextmanager
def block_table(sink: Sink) -> Iterator[None]:
    """A table `blocks` of offsets, which remembers tokens as the tables of the product do."""
    sink.command(
        "CREATE TABLE blocks (offset Int64) ENGINE = MergeTree ORDER BY offset "
        "SETTINGS non_replicated_deduplication_window = 1000"
    )
    try:
        yield
    finally:
        sink.command("DROP TABLE blocks")


def block(*offsets: int) -> pa.Table:
    """Rows for `blocks`."""
    return pa.table({"offset": pa.array(offsets, pa.int64())})


def stored(sink: Sink) -> list[int]:
    """What `blocks` holds, in order."""
    return [offset for (offset,) in sink.rows("SELECT offset FROM blocks ORDER BY offset")]
