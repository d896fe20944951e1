"""Serves a page and its audio to this machine alone.

A browser seeks in audio by asking for ranges of bytes, which Python's own
server does not support. Requests name audio by number, so no other file can be
read: the files are fixed when the server starts, and later links do not count.
"""

import http.server
import mimetypes
import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import BinaryIO

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")  # else a foreign page might pose as ours
_SECONDS = 60.0  # that a thread waits for a client
_MOST_DIGITS = 18  # of a position in a file; larger numbers are behind its end
_HEADERS = {
  "Content-Security-Policy": "frame-ancestors 'none'",
  "Cross-Origin-Resource-Policy": "same-origin",
  "X-Content-Type-Options": "nosniff",
}


def server(
  page: bytes, audio: Sequence[str], port: int
) -> http.server.ThreadingHTTPServer:
  """A server of the page at / and of the audio at /audio/NUMBER.

  Args:
    page: HTML.
    audio: the files.
    port: 0 takes a free one.

  Raises:
    ValueError: the port cannot be used.
  """

  class Handler(_Handler):
    content, paths = page, audio
    real = {path: os.path.realpath(path) for path in dict.fromkeys(audio)}

  try:
    return http.server.ThreadingHTTPServer((HOST, port), Handler)
  except (OSError, OverflowError) as e:
    raise ValueError(
      f"--serve={port}: this port cannot be had"
      f" ({getattr(e, 'strerror', None) or e}); give another, or 0 for any"
    ) from e


class _Handler(http.server.BaseHTTPRequestHandler):
  content: bytes
  paths: Sequence[str]
  real: Mapping[str, str]  # where links of paths lead
  protocol_version = "HTTP/1.1"
  timeout = _SECONDS

  def handle(self):
    """As the parent's, but a client may leave at any time."""
    try:
      super().handle()
    except OSError:  # the client has left or waits, or the file is unreadable
      self.close_connection = True

  def do_GET(self):
    name = re.sub(r":[0-9]*$", "", self.headers.get("Host", "")).lower()
    audio = re.fullmatch(r"/audio/([0-9]{1,9})", self.path)
    if name not in _NAMES:
      self.send_error(403)
    elif self.path == "/":
      self._answer(200, len(self.content), "text/html; charset=utf-8")
      if self.command == "GET":
        self.wfile.write(self.content)
    elif audio and int(audio[1]) < len(self.paths):
      self._send(self.paths[int(audio[1])])
    else:
      self.send_error(404)

  do_HEAD = do_GET

  def _send(self, path):
    try:
      file = _opened(self.real[path])
    except OSError:
      self.send_error(404)
      return
    with file:
      self._send_range(file, mimetypes.guess_type(path)[0])

  def _send_range(self, f, kind):
    size = os.fstat(f.fileno()).st_size
    start, end, status = 0, size, 200
    asked = re.fullmatch(
      r"bytes=([0-9]*)-([0-9]*)", self.headers.get("Range", "")
    )
    if asked and any(asked.groups()):
      # Python reads no numbers of thousands of digits.
      first, last = (
        text and (int(text) if len(text) <= _MOST_DIGITS else size + 1)
        for text in asked.groups()
      )
      status = 206
      if first != "":
        start, end = first, size if last == "" else min(size, last + 1)
      else:
        start = max(0, size - last)
      if start >= end:
        self._answer(416, 0, kind, f"bytes */{size}")
        return
    told = f"bytes {start}-{end - 1}/{size}" if status == 206 else None
    self._answer(status, end - start, kind, told)
    if self.command == "GET":
      f.seek(start)
      left = end - start
      while left and (block := f.read(min(left, 1 << 16))):
        self.wfile.write(block)
        left -= len(block)
      if left:  # the file is shorter now, which the client cannot know
        self.close_connection = True

  def _answer(self, status, length, kind, told=None):
    self.send_response(status)
    self.send_header("Content-Type", kind or "application/octet-stream")
    self.send_header("Content-Length", str(length))
    self.send_header("Accept-Ranges", "bytes")
    if told:
      self.send_header("Content-Range", told)
    self.end_headers()

  def end_headers(self):
    """Adds the headers of every answer, errors included."""
    for name, value in _HEADERS.items():
      self.send_header(name, value)
    super().end_headers()

  def version_string(self):
    """Names no version, as versions may have known faults."""
    return "vicreg_jax"

  def log_message(self, *_):
    """Logs no requests."""


def _opened(path) -> BinaryIO:
  """An open file. Raises OSError if the path has become something else."""
  # Neither call waits for a pipe's other end.
  file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
  whole = stat.S_ISREG(os.fstat(file).st_mode)
  if not whole or os.path.realpath(path) != path:  # a folder may be a link now
    os.close(file)
    raise FileNotFoundError(path)
  return open(file, "rb")
