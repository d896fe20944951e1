"""Drives a headless Firefox by its own protocol, Marionette, over a socket.

Programs of tests have a scope of their own, so they see a page's elements and
none of its variables.
"""

import base64
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAM = shutil.which("firefox-esr") or shutil.which("firefox")
_SECONDS = 60
_SETTINGS = {
  "marionette.port": 0,  # any that is free
  "media.autoplay.default": 0,  # allowed
  "media.volume_scale": "0",
  "datareporting.policy.dataSubmissionEnabled": False,
  "app.update.auto": False,
}


class Browser:
  """A page in a browser of its own."""

  def __init__(self, directory: pathlib.Path):
    directory.mkdir()
    lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});"
             for k, v in _SETTINGS.items())  # fmt: skip
    (directory / "user.js").write_text("\n".join(lines))
    self._process = subprocess.Popen(
      [PROGRAM, "--headless", "--marionette", "--profile", str(directory)],
      env=os.environ | {"HOME": str(directory)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    told, end = directory / "MarionetteActivePort", time.monotonic() + _SECONDS
    while not (told.exists() and told.read_text()):
      assert time.monotonic() < end, "the browser does not begin"
      time.sleep(0.05)
    address = "localhost", int(told.read_text())
    self._socket = socket.create_connection(address, timeout=_SECONDS)
    self._stream = self._socket.makefile("rb")
    self._read()  # its greeting
    self._number = 0
    self.call("WebDriver:NewSession")

  def close(self):
    self._stream.close()
    self._socket.close()
    self._process.kill()
    self._process.wait()

  def call(self, method, **params):
    """A command of the protocol; returns its result."""
    self._number += 1
    text = json.dumps([0, self._number, method, params]).encode()
    self._socket.sendall(b"%d:%b" % (len(text), text))
    _, _, error, result = self._read()
    assert error is None, (method, params, error)
    return result

  def _read(self):
    length = b""
    while (digit := self._stream.read(1)) != b":":
      assert digit, "the browser has ended"
      length += digit
    return json.loads(self._stream.read(int(length)))

  def open(self, url):
    self.call("WebDriver:Navigate", url=url)

  def ask(self, code):
    """The value of JavaScript, which may ask for `$("id")`."""
    script = f"const $ = (id) => document.getElementById(id); return {code}"
    return self.call("WebDriver:ExecuteScript", script=script, args=[])["value"]

  def until(self, code, seconds=_SECONDS):
    """Waits until JavaScript is true."""
    end = time.monotonic() + seconds
    while not (value := self.ask(code)):
      assert time.monotonic() < end, code
      time.sleep(0.05)
    return value

  def act(self, keys=(), line=()):
    """Presses keys, and draws a line with the mouse while they are down."""
    down = [{"type": "keyDown", "value": key} for key in keys]
    up = [{"type": "keyUp", "value": key} for key in keys[::-1]]
    pause = [{"type": "pause"}]
    moves = [
      {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0}
      for x, y in line
    ]
    if line:
      moves.insert(1, {"type": "pointerDown", "button": 0})
      moves.append({"type": "pointerUp", "button": 0})
    actions = [
      {
        "type": "key",
        "id": "keys",
        "actions": [*down, *pause * len(moves), *up],
      },
      {"type": "pointer", "id": "mouse", "actions": pause * len(down) + moves},
    ]
    self.call("WebDriver:PerformActions", actions=actions)

  def size(self, width, height):
    self.call("WebDriver:SetWindowRect", width=width, height=height)

  def picture(self, path):
    """Writes what can be seen, as PNG."""
    data = self.call("WebDriver:TakeScreenshot", full=False)["value"]
    pathlib.Path(path).write_bytes(base64.b64decode(data))
