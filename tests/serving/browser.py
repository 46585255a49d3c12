"""Chromium without a window, driven through its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
    "--no-first-run", "--remote-debugging-port=0", "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37}
CHROMIUM = shutil.which("chromium")


class Browser:
    """One tab. `complaints` holds what the console or the page's policy has said against it."""

    def __init__(self, folder: Path):
        assert CHROMIUM
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._ids, self.complaints = itertools.count(1), []
        port = self._wait(lambda: (folder / "DevToolsActivePort").read_text().split()[0])
        pages = httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False, timeout=30).json()
        place = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self._socket = connect(place, max_size=None, proxy=None)
        for domain in ("Page", "Runtime", "Log"):
            self.tell(f"{domain}.enable")

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)

    def _wait(self, get: Any, seconds: float = 20.0) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if got := get():
                    return got
            except (OSError, IndexError):
                pass
            assert time.monotonic() < deadline, "the browser did not do it in time"
            time.sleep(0.05)

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and its result; what the browser reports meanwhile is noted."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            told = json.loads(self._socket.recv(timeout=60))
            if told.get("id") == number:
                assert "error" not in told, told["error"]
                return told["result"]
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        if told["method"] == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"])
        elif told["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"])
        elif told["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(params["args"])

    def open(self, url: str) -> None:
        self.tell("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a script's last expression."""
        told = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait for a script's value to be true."""
        return self._wait(lambda: self.run(script))

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")

    def count(self, selector: str) -> int:
        return self.run(f"document.querySelectorAll({json.dumps(selector)}).length")

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of what is visible of an element."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.until(f"!!{find} && !!{find}.getClientRects().length")
        box = f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}}), {find}.getBoundingClientRect()"
        x, y = self.run(f"(() => {{ const b = ({box}); return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.tell("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        self.tell("Input.insertText", text=text)

    def press(self, key: str, shift: bool = False) -> None:
        code = KEYS[key]
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        text = {"text": "\r"} if key == "Enter" else {}
        self.tell("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **about)

    def size(self, width: int, height: int, dark: bool = False, scale: float = 1.0) -> None:
        phone = {"mobile": width < 600, "deviceScaleFactor": scale}
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, **phone)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.tell("Emulation.setEmulatedMedia", features=scheme)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot", format="png")["data"]))
