"""Headless Chromium, driven through a pipe by its DevTools protocol: what the tests of the report look with.

Debian's `chromium` is all that is needed. WebGL2 is drawn in software.
"""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = "SCANSYNTH_REQUIRE_BROWSER"
"""Environment variable of the full check: without a browser the tests fail there."""


def find_browser():
    """Chromium's path; without it the test is skipped, or fails where the full check runs."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        message = "Chromium is not installed, the report's viewer is NOT TESTED: apt install chromium"
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(message)
    return path


class Browser:
    """One page. What the page requests and complains of is kept in `requests` and `complaints`."""

    def __init__(self, folder, size=(960, 700), webgl=True):
        read, self._to = os.pipe()
        self._from, write = os.pipe()
        graphics = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"] if webgl else ["--disable-3d-apis"]
        # The shell puts the pipes where Chromium looks for them.
        command = ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", find_browser(), "--headless=new"]
        command += ["--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={folder}", *graphics]
        command += ["--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars", "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read)
        os.close(write)
        self._rest, self._count, self._session = b"", 0, None
        self.requests, self.complaints, self.page = [], [], None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self(f"{domain}.enable")
        self.resize(*size)

    def __call__(self, method, **params):
        """Call a method of the protocol; its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(time.monotonic() + 120)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self, until):
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            if not (part := os.read(self._from, 1 << 20)):
                raise RuntimeError("the browser has ended")
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(line)
        name, params = message.get("method"), message.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"].get("exception", {}).get("description", str(params)))
        elif name == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([one.get("value", one.get("description")) for one in params["args"]]))
        elif name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message

    def open(self, path, ready="document.querySelector('#viewer-root').ariaBusy === 'false'"):
        """Open a file, and wait until it is read and ready: by default, until its viewer is."""
        self.requests.clear()
        self.complaints.clear()
        self.page = path
        self("Page.navigate", url=path.as_uri())
        self.wait(f"document.readyState === 'complete' && {ready}")

    def visit(self, url, ready="true"):
        """Open an address, and wait until it is read and ready."""
        self.requests.clear()
        self.complaints.clear()
        self.page = url
        self("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && {ready}")

    def click(self, selector):
        """Click the middle of an element with the mouse."""
        self.corner(selector)
        x, y = self.run(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def give_file(self, selector, path):
        """Choose a file in a file input."""
        document = self("DOM.getDocument")["root"]["nodeId"]
        found = self("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=found, files=[str(path)])

    def screenshot(self, path):
        """The window as a PNG file."""
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot")["data"]))

    def run(self, script):
        """The value of an expression in the page; a promise is waited for."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", str(answer)))
        return answer["result"].get("value")

    def wait(self, condition, seconds=60):
        """Wait until an expression holds."""
        until = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > until:
                raise TimeoutError(f"{condition} does not come true; complaints: {self.complaints}")
            time.sleep(0.05)

    def settle(self):
        """Wait until what was asked for is drawn."""
        self.run(
            "(async () => { const frame = () => new Promise(requestAnimationFrame);"
            "do await frame(); while (document.querySelector('[aria-busy=true]')); await frame(); })()"
        )

    def resize(self, width, height, scale=1):
        """Set the size of the window in CSS pixels."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def press(self, key):
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        codes = {"PageUp": 33, "PageDown": 34, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        number = codes.get(key, ord(key.upper()) if len(key) == 1 else {"Tab": 9}.get(key, 0))
        self("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=number, **text)
        self("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=number)
        self.settle()

    def choose(self, selector, value):
        """Set a control's value (of a radio button: choose it) as a user would."""
        self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); const value = {json.dumps(value)};"
            "if (one.type === 'radio' || one.type === 'checkbox') one.click(); else { one.value = value;"
            "for (const type of ['input', 'change']) one.dispatchEvent(new Event(type, {bubbles: true})); } })()"
        )
        self.settle()

    def corner(self, selector):
        """Bring an element into view; its left and upper edge in the window."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        self.settle()
        return self.run(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.x, box.y]; })()"
        )

    def picture(self, selector):
        """What is seen of an element, (height, width, 3) float in [0, 255]."""
        x, y = self.corner(selector)
        left, top, wide, high = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "return [scrollX, scrollY, one.offsetWidth, one.offsetHeight]; })()"
        )
        clip = {"x": x + left, "y": y + top, "width": wide, "height": high, "scale": 1}
        data = base64.b64decode(self("Page.captureScreenshot", format="png", clip=clip)["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)

    def close(self):
        """End the browser."""
        try:
            self._session = None
            self("Browser.close")
        except (RuntimeError, TimeoutError, BrokenPipeError):
            self._process.kill()
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)
