"""A headless Chromium, driven through its DevTools protocol."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--remote-allow-origins=*",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
)  # fmt: skip
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "PageDown": 34, "PageUp": 33, "Enter": 13, " ": 32,
        "Tab": 9}  # fmt: skip


def find_chromium():
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser with one page. `profile` is an empty folder for its files."""

    def __init__(self, profile):
        command = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._log = open(f"{profile}.log", "w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)
        self._count, self._events = 0, []
        try:
            host = self._wait_for_host(f"{profile}.log")
            with urllib.request.urlopen(f"http://{host}/json", timeout=10) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            self._socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=30)
        except BaseException:
            self._process.kill()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def _wait_for_host(self, log):
        for _ in range(300):
            with open(log, encoding="utf-8") as file:
                found = re.search(r"DevTools listening on ws://([^/]+)/", file.read())
            if found:
                return found[1]
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError("Chromium did not start")

    def close(self):
        self._socket.close()
        self._process.terminate()
        self._process.wait(10)
        self._log.close()

    def send(self, method, **parameters):
        """Sends a command of the protocol and returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def run(self, script):
        """Value of a JavaScript expression; a promise is awaited."""
        result = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script, seconds=20):
        """Waits for an expression to be true."""
        for _ in range(int(seconds * 20)):
            if self.run(script):
                return
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {script}")

    def open(self, path, width=1280, height=900, dark=False, phone=False):
        """Opens a file in a window of this size, forgetting what was logged before."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="", features=[scheme])
        self._events.clear()
        self.send("Page.navigate", url=path.as_uri())
        self.until(f"location.href === '{path.as_uri()}' && document.readyState === 'complete'")

    def press(self, key):
        """Presses a key where the focus is."""
        code = {"key": key, "code": "Space" if key == " " else key}
        code["windowsVirtualKeyCode"] = KEYS[key]
        text = {"text": key if key == " " else "\r"} if key in (" ", "Enter") else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **code)

    def click(self, selector):
        """Clicks in the middle of an element, as a mouse does."""
        x, y = self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
            "node.scrollIntoView({block: 'center'});"
            "const box = node.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self):
        """The window as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def print(self):
        """The page as PDF."""
        answer = self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(answer["data"])

    def complaints(self):
        """Errors and warnings of the console, exceptions, and whatever was asked of a network."""
        self.run("1")  # takes in what is on its way
        found = []
        for event in self._events:
            kind, data = event["method"], event["params"]
            if kind == "Runtime.exceptionThrown":
                found.append(json.dumps(data["exceptionDetails"]))
            elif kind == "Runtime.consoleAPICalled" and data["type"] in ("error", "assert"):
                found.append(json.dumps(data["args"]))
            elif kind == "Log.entryAdded" and data["entry"]["level"] == "error":
                found.append(data["entry"]["text"])
            elif kind == "Network.requestWillBeSent":
                url = data["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:")):
                    found.append(f"asked for {url}")
        return found
