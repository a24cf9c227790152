"""Shows a progress bar on a terminal; otherwise prints a line every ten seconds."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    def __init__(self, num_bytes: int):
        self._num_bytes, self._done = max(num_bytes, 1), 0
        self._began = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=num_bytes, unit="B", unit_scale=True, file=sys.stderr)

    def advance(self, num_bytes: int, num_tokens: int) -> None:
        self._done = min(self._done + num_bytes, self._num_bytes)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{num_tokens:,} tokens", refresh=False)
            self._bar.update(self._done - self._bar.n)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            rate = num_tokens / (self._last_line - self._began)
            share = 100 * self._done / self._num_bytes
            print(f"{share:3.0f}%  {num_tokens:,} tokens  {rate:,.0f} tokens/s", file=sys.stderr, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()
