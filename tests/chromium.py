"""Drives a headless Chromium by its DevTools protocol, over a pipe.

So no driver, and no package, is needed but the browser.
"""

import json
import os
import select
import shutil
import subprocess
import time

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
_SECONDS = 60


class Browser:
  """A page in a browser of its own.

  Attributes:
    events: of the page, by their names: [(name, parameters)].
  """

  def __init__(self, directory):
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()
    command = [
      PROGRAM,
      "--headless=new",
      "--no-sandbox",  # tests may be root
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--autoplay-policy=no-user-gesture-required",
      "--mute-audio",
      "--disable-background-networking",
      "--no-first-run",
      f"--user-data-dir={directory}",
      "--remote-debugging-pipe",
      "about:blank",
    ]
    # The protocol's pipes have to be its files 3 and 4.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    self._process = subprocess.Popen(
      ["bash", "-c", shell, "bash", *command],
      pass_fds=(theirs_in, theirs_out),
      stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    self._in, self._out = ours_in, ours_out
    self._rest, self._number, self._session = b"", 0, None
    self.events = []
    targets = self.call("Target.getTargets")["targetInfos"]
    page = next(t["targetId"] for t in targets if t["type"] == "page")
    self._session = self.call(
      "Target.attachToTarget", targetId=page, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def close(self):
    self._process.kill()
    self._process.wait()
    os.close(self._in)
    os.close(self._out)

  def call(self, method, **params):
    """A command of the protocol; returns its result."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._out, json.dumps(message).encode() + b"\0")
    while (answer := self._read()).get("id") != self._number:
      self.events.append((answer.get("method"), answer.get("params")))
    assert "error" not in answer, (method, answer)
    return answer["result"]

  def _read(self):
    while b"\0" not in self._rest:
      ready, _, _ = select.select([self._in], [], [], _SECONDS)
      assert ready, "the browser does not answer"
      self._rest += os.read(self._in, 1 << 20)
    text, self._rest = self._rest.split(b"\0", 1)
    return json.loads(text)

  def open(self, url):
    """Loads a page, and waits until it is there."""
    self.call("Page.navigate", url="about:blank")
    self.call("Page.navigate", url=url)
    self.until(
      "document.readyState === 'complete' && location.href != 'about:blank'"
    )

  def ask(self, code):
    """The value of JavaScript."""
    answer = self.call(
      "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
    )
    assert "exceptionDetails" not in answer, (code, answer)
    return answer["result"].get("value")

  def until(self, code, seconds=_SECONDS):
    """Waits until JavaScript is true."""
    end = time.monotonic() + seconds
    while not (value := self.ask(code)):
      assert time.monotonic() < end, code
      time.sleep(0.05)
    return value

  def click(self, x, y):
    at = {"x": x, "y": y, "button": "left", "clickCount": 1}
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
      self.call("Input.dispatchMouseEvent", type=kind, **at)

  def press(self, key, code=0):
    text = {"text": key} if len(key) == 1 else {}
    for kind in ("keyDown", "keyUp"):
      self.call(
        "Input.dispatchKeyEvent",
        type=kind,
        key=key,
        windowsVirtualKeyCode=code,
        **(text if kind == "keyDown" else {}),
      )

  def type(self, text):
    self.call("Input.insertText", text=text)

  def size(self, width, height):
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )
