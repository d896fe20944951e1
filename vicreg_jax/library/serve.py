"""Serves a page and the audio that it plays, to this machine alone.

A browser seeks in audio by asking for ranges of bytes, which Python's own
server does not know. Audio is named by its number, so nothing else can be had.
"""

import http.server
import mimetypes
import os
import re
from collections.abc import Sequence

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")  # else a page elsewhere might call itself ours


def server(
  page: bytes, audio: Sequence[str], port: int
) -> http.server.ThreadingHTTPServer:
  """A server of the page at / and of the audio at /audio/NUMBER.

  Args:
    page: HTML.
    audio: the files.
    port: 0 takes one that is free.

  Raises:
    ValueError: the port cannot be had.
  """

  class Handler(_Handler):
    content, paths = page, audio

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
  protocol_version = "HTTP/1.1"

  def do_GET(self):
    name = self.headers.get("Host", "").rpartition(":")[0]
    audio = re.fullmatch(r"/audio/(\d{1,9})", self.path)
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
      with open(path, "rb") as f:
        self._send_range(f, mimetypes.guess_type(path)[0])
    except (BrokenPipeError, ConnectionResetError):
      self.close_connection = True  # it has heard enough
    except OSError:
      self.send_error(404)

  def _send_range(self, f, kind):
    size = os.fstat(f.fileno()).st_size
    start, end, status = 0, size, 200
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
    if asked and any(asked.groups()):
      first, last = asked.groups()
      status = 206
      if first:
        start, end = int(first), min(size, int(last or size) + 1)
      else:
        start = max(0, size - int(last))
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

  def _answer(self, status, length, kind, told=None):
    self.send_response(status)
    self.send_header("Content-Type", kind or "application/octet-stream")
    self.send_header("Content-Length", str(length))
    self.send_header("Accept-Ranges", "bytes")
    self.send_header("X-Content-Type-Options", "nosniff")
    if told:
      self.send_header("Content-Range", told)
    self.end_headers()

  def log_message(self, *_):
    """Says nothing of each request."""
