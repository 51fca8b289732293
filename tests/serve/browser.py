"""A headless Chromium that is steered through a pipe: no driver, no package."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

FOUND = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


class Browser:
    """One page of a Chromium."""

    def __init__(self, folder: Path, *, width=1200, height=1100, dark=False):
        read_ours, write_theirs = os.pipe()
        read_theirs, write_ours = os.pipe()

        def pipes():  # Chromium reads from 3 and writes to 4
            os.dup2(read_theirs, 200)
            os.dup2(write_theirs, 201)
            os.dup2(200, 3)
            os.dup2(201, 4)

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
        options += [f"--user-data-dir={folder}", "--remote-debugging-pipe", f"--window-size={width},{height}"]
        options += ["--disable-background-networking", "--no-first-run"]
        self.process = subprocess.Popen(
            [FOUND, *options, "about:blank"],
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_theirs)
        os.close(write_theirs)
        self.read, self.write = os.fdopen(read_ours, "rb"), os.fdopen(write_ours, "wb")
        self.number, self.session, self.events = 0, None, []
        pages = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self.session = self.send("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.send(f"{domain}.enable")
        shades = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=shades)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.write.write(json.dumps(message).encode() + b"\0")
        self.write.flush()
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self):
        parts = bytearray()
        while (byte := self.read.read(1)) != b"\0":
            assert byte, "Chromium has gone"
            parts += byte
        return json.loads(parts)

    def open(self, url):
        self.send("Page.navigate", url=url)
        return self

    def run(self, script):
        """The value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script, seconds=30):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.run(script):
                return
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {script}; the page has {self.run('document.body.innerText')!r}")

    def complaints(self):
        """What the page wrote as errors: exceptions, refused resources."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def asked(self):
        """Every address that the page loaded."""
        kind = "Network.requestWillBeSent"
        return [event["params"]["request"]["url"] for event in self.events if event.get("method") == kind]

    def picture(self, path):
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self.process.terminate()
        self.process.wait(20)
        self.read.close()
        self.write.close()
