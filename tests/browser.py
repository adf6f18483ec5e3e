"""A headless Chromium that a test drives with its mouse and its keys, over the pipe of the DevTools
protocol (`--remote-debugging-pipe`): JSON messages, each ended by a zero byte."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0  # seconds


def chromium() -> str:
    """Its command; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    return found


class Browser:
    def __init__(self, session: subprocess.Popen, send: int, receive: int):
        self.process, self._send, self._receive = session, send, receive
        self._number, self._rest, self._session = 0, b"", ""
        self.errors: list[str] = []  # what a page has thrown or logged as an error
        self.requests: list[str] = []  # addresses that a page has asked for

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._receive, 1 << 16)
            assert part, "Chromium has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        return message

    def begin(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def open(self, path: Path, fragment: str = "") -> None:
        """Show a page, until it says that it is ready."""
        self.call("Page.navigate", url="about:blank")  # else a fragment alone loads nothing
        self.call("Page.navigate", url=path.as_uri() + fragment)
        self.wait("document.body?.dataset.ready === 'yes'")

    def value(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        ends = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < ends, expression
            time.sleep(0.02)

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of what is shown of an element."""
        x, y = self.value(
            f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [r.left + Math.min(r.width, 160) / 2, r.top + r.height / 2]; })()"
        )
        return x, y

    def point(self, selector: str) -> None:
        x, y = self.place(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        self.point(selector)
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def draw(self, selector: str, points: Sequence[tuple[float, float]]) -> None:
        """A stroke of the mouse through places of an element, each in parts of its sides."""
        left, top, width, height = self.value(
            f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [r.left, r.top, r.width, r.height]; })()"
        )
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            place = {"x": left + x * width, "y": top + y * height}
            self.call("Input.dispatchMouseEvent", type=kind, **place, button="left", buttons=1)

    def key(self, key: str, has_shift: bool = False) -> None:
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        held = {"modifiers": 8} if has_shift else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **held)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **held)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def scheme(self, scheme: str) -> None:
        """Light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in a folder."""
    theirs_in, send = os.pipe()
    receive, theirs_out = os.pipe()
    options = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run"
    # Chromium reads from descriptor 3 and writes to 4.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = ["bash", "-c", shell, "bash", chromium(), *options.split()]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={folder}", "about:blank"],
        pass_fds=(theirs_in, theirs_out),
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        found = Browser(process, send, receive)
        found.begin()
        yield found
    finally:
        process.kill()
        process.wait()
        os.close(send)
        os.close(receive)
