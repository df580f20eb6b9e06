"""A headless Chromium for the tests of pages: what is on the machine, spoken to through two pipes."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The browser reads from descriptor 3 and writes to 4; the first copies keep the one from being written over the other.
START = """import os, sys
first, second = os.dup2(int(sys.argv[1]), 40), os.dup2(int(sys.argv[2]), 41)
os.dup2(first, 3), os.dup2(second, 4)
os.execvp(sys.argv[3], sys.argv[3:])"""
TROUBLE = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}


class Browser:
    """One page of a Chromium. `call` sends a command of the DevTools protocol, `value` evaluates JavaScript."""

    def __init__(self, program, profile):
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
        command = [sys.executable, "-c", START, str(theirs_in), str(theirs_out), program, *flags.split()]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.out, self.into, self.rest = ours_out, ours_in, b""
        self.numbers, self.session, self.events = itertools.count(1), {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters, **self.session}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self):
        while b"\0" not in self.rest:
            got = os.read(self.into, 1 << 20)
            assert got, "the browser has ended"
            self.rest += got
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def show(self, path, *, width, dark=False, script=True):
        """Load the page of a file in a window so wide, with the reader's setting."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def value(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def move(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def pdf(self):
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    def trouble(self):
        """What the console has said since the page was loaded."""
        return [event for event in self.events if event["method"] in TROUBLE]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser, or the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a headless Chromium; none of {', '.join(NAMES)} is on the path")
    made = Browser(program, tmp_path_factory.mktemp("profile"))
    yield made
    made.process.terminate()
    made.process.wait(20)
