"""Drives a headless Chromium over its DevTools protocol: load a page, evaluate JavaScript, take screenshots, read the console.

`path()` finds the browser (CHROMIUM=... or the usual names); tests are skipped if there is none.
"""

import asyncio
import base64
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-port=0",
)  # fmt: skip


def path() -> str | None:
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Page:
    """One tab. `problems` collects console errors, warnings and exceptions; `requests` every requested URL."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.problems, self.requests = socket, list[str](), list[str]()
        self._number, self._loaded = 0, False

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await asyncio.wait_for(self.socket.receive_json(), 30)
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.problems.append(str(params["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    async def open(self, file: Path, width: int, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        await self.call("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._note(await asyncio.wait_for(self.socket.receive_json(), 30))

    async def evaluate(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def picture(self, file: Path, whole: bool = True) -> None:
        data = await self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        file.write_bytes(base64.b64decode(data["data"]))


@asynccontextmanager
async def browser(executable: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Starts a browser with a new, empty profile; yields a session whose base URL is its DevTools server."""
    # its helper processes may write into the profile for a moment after it has ended
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file, until = Path(profile) / "DevToolsActivePort", time.monotonic() + 60
            while not (port_file.exists() and port_file.read_text().strip()):
                assert process.poll() is None, f"{executable} ended with {process.returncode}"
                assert time.monotonic() < until, "the browser did not start within a minute"
                await asyncio.sleep(0.1)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port_file.read_text().split()[0]}") as session:
                yield session
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def visit(files: list[Path], view: dict[str, Any], look: Callable[[Page], Awaitable[None]]) -> None:
    """Opens each file in one new browser, runs `look(page)`, and checks that there were no problems and no other requests."""

    async def go() -> None:
        executable = path()
        assert executable is not None
        async with browser(executable) as session:
            for file in files:
                async with page(session) as tab:
                    await tab.open(file, **view)
                    await look(tab)
                    assert tab.problems == []
                    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []

    asyncio.run(go())


@asynccontextmanager
async def page(session: aiohttp.ClientSession) -> AsyncIterator[Page]:
    async with session.put("/json/new?about:blank") as answer:
        target = await answer.json()
    async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        yield Page(socket)
    async with session.get(f"/json/close/{target['id']}"):
        pass
