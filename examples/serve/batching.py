"""Requests that come at about the same time run as one batch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import Tensor, nn


class FullError(RuntimeError):
    """More requests wait than there are places."""


class Batcher:
    """Runs a model in a thread of its own, on batches of the sizes that it was made ready for.

    Args:
        model: its module; what it runs on may be swapped at any time.
        sizes: of batches, ascending; a batch is filled up to the next one.
        wait: seconds for which the first of a batch waits for others.
        places: requests that may wait.
        seen: is told the size of each batch, as requests fill it.
    """

    def __init__(
        self,
        model: nn.Module,
        sizes: tuple[int, ...],
        *,
        wait: float = 0.003,
        places: int = 512,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._model, self._sizes, self._wait, self._seen = model, sizes, wait, seen
        self._waiting: queue.Queue[tuple[Tensor, Future[Tensor]] | None] = queue.Queue(places)
        self._next: tuple[Tensor, Future[Tensor]] | None = None
        self._thread = threading.Thread(target=self._serve, name="batches")
        self._thread.start()

    def submit(self, x: Tensor) -> Future[Tensor]:
        """The outputs for `x`, ``[N, C, H, W]`` with N at most the largest size, once they are there."""
        future: Future[Tensor] = Future()
        try:
            self._waiting.put_nowait((x, future))
        except queue.Full:
            raise FullError("too many requests wait; try again in a moment") from None
        return future

    def close(self) -> None:
        """Serve what waits, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        with torch.inference_mode():
            while batch := self._gather():
                x = torch.cat([x for x, _ in batch])
                self._seen(len(x))
                try:
                    outputs = self._run(x).split([len(x) for x, _ in batch])
                    for (_, future), output in zip(batch, outputs, strict=True):
                        future.set_result(output)
                except BaseException as error:  # each request has to be told; the next batch may be right
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)

    def _run(self, x: Tensor) -> Tensor:
        size = next(size for size in self._sizes if size >= len(x))
        filled = torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])]) if size > len(x) else x
        outputs: Tensor = self._model(filled)
        return outputs[: len(x)]

    def _gather(self) -> list[tuple[Tensor, Future[Tensor]]]:
        """What fits one batch and has come within the wait; nothing once it is closed and all is served."""
        first = self._next or self._waiting.get()
        self._next = None
        if first is None:
            return []
        batch, count, until = [first], len(first[0]), time.monotonic() + self._wait
        while count < self._sizes[-1]:
            try:
                found = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if found is None:
                self._waiting.put(None)
                break
            if count + len(found[0]) > self._sizes[-1]:
                self._next = found
                break
            batch.append(found)
            count += len(found[0])
        return batch
