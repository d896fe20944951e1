"""Maps functions that release the interpreter's lock, by threads."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator


def map_in_order(
  function: Callable, items: Iterable, threads: int, ahead: int
) -> Iterator:
  """Yields function(item) in the items' order, `ahead` items ahead.

  The bound keeps memory flat for any number of items.
  """
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  futures = collections.deque()
  try:
    for item in items:
      futures.append(pool.submit(function, item))
      if len(futures) > ahead:
        yield futures.popleft().result()
    while futures:
      yield futures.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)
