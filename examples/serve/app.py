"""The service: predictions, health, metrics, and, for who has the token, swapping the model and back."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from timm.data import create_transform, resolve_data_config
from torch import nn

import updp_rt
from examples.serve.batching import Batcher, FullError
from examples.serve.inputs import MAX_BYTES, RefusedError, read_picture, read_tensor
from updp_rt.runtime import Swapped, swap

SIZES = (1, 2, 4, 8)
_LOOPBACK = ("127.0.0.1", "::1")


class Service:
    """A classifier behind HTTP; `app` is what a server runs.

    Args:
        model: in eval mode.
        token: who sends it from this machine may swap and restore: ``Authorization: Bearer TOKEN``.
        sizes: of the batches that run, ascending.
    """

    def __init__(self, model: nn.Module, token: str, sizes: tuple[int, ...] = SIZES) -> None:
        if len(token) < 16:
            raise ValueError("a token has at least 16 characters: secrets.token_urlsafe() makes one")
        self.model, self.token, self.sizes = model, token, sizes
        config = resolve_data_config(model=model)
        self.shape: tuple[int, int, int] = tuple(config["input_size"])
        self.transform = create_transform(**config)
        self.examples = [torch.randn(size, *self.shape) for size in sizes]
        self.swapped: Swapped | None = None
        self._swapping = asyncio.Lock()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "requests", "Requests by path and status.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram("request_seconds", "Time to answer a prediction.", registry=self._registry)
        self._batches = Histogram("batch_images", "Images in a batch.", buckets=sizes, registry=self._registry)
        self._accelerated = Gauge("model_accelerated", "1 while the accelerated twin serves.", registry=self._registry)
        self.app = FastAPI(title="images, classified", lifespan=self._lifespan)
        self.app.middleware("http")(self._count)
        for path, serve in {"/predict": self.predict, "/swap": self.swap, "/restore": self.restore}.items():
            self.app.post(path)(serve)
        for path, tell in {"/health": self.health, "/metrics": self.metrics, "/certificate": self.certificate}.items():
            self.app.get(path, response_model=None)(tell)

    async def predict(self, request: Request) -> dict[str, Any]:
        """Classify a picture, the body of the request, or a tensor of images as safetensors."""
        begun = time.perf_counter()
        kind = request.headers.get("content-type", "").partition(";")[0]
        data = await _body(request)
        try:
            if kind in ("image/jpeg", "image/png"):
                x = await asyncio.to_thread(read_picture, data, self.transform)
            elif kind == "application/x-safetensors":
                x = read_tensor(data, self.shape, self.sizes[-1])
            else:
                raise RefusedError(415, "send image/jpeg, image/png or application/x-safetensors")
            logits = await asyncio.wrap_future(self._batcher.submit(x))
        except RefusedError as refused:
            raise HTTPException(refused.status, str(refused)) from None
        except FullError as full:
            raise HTTPException(429, str(full), {"Retry-After": "1"}) from None
        self._seconds.observe(time.perf_counter() - begun)
        return {"classes": logits.argmax(1).tolist(), "logits": logits.float().tolist()}

    async def swap(self, request: Request) -> dict[str, Any]:
        """Run the accelerated twin from the next batch on; the model serves until that is verified."""
        self._authorize(request)
        async with self._swapping:
            if self.swapped is None:
                try:
                    self.swapped = await asyncio.to_thread(swap, self.model, self.examples)
                except updp_rt.AccelerationError as error:
                    raise HTTPException(409, f"the model serves as before: {error}") from None
            self._accelerated.set(1)
            return {"accelerated": True, "certified": all(each.passed for each in self.swapped.certificates)}

    async def restore(self, request: Request) -> dict[str, Any]:
        """Run the model itself from the next batch on."""
        self._authorize(request)
        async with self._swapping:
            if self.swapped is not None:
                updp_rt.restore(self.model, inplace=True)
                self.swapped = None
            self._accelerated.set(0)
            return {"accelerated": False}

    async def health(self) -> dict[str, Any]:
        """Whether requests are answered, and by what."""
        return {"status": "ok", "accelerated": self.swapped is not None}

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4")

    async def certificate(self) -> list[dict[str, Any]]:
        """Of the accelerated twin, one for each batch size; empty while the model runs by itself."""
        return [] if self.swapped is None else [each.model_dump(mode="json") for each in self.swapped.certificates]

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        with torch.inference_mode():
            for example in self.examples:
                self.model(example)
        self._batcher = Batcher(self.model, self.sizes, seen=self._batches.observe)
        yield
        await asyncio.to_thread(self._batcher.close)

    async def _count(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        route = request.scope.get("route")
        self._requests.labels(route.path if route else "other", response.status_code).inc()
        return response

    def _authorize(self, request: Request) -> None:
        host = request.client.host if request.client else ""
        given = request.headers.get("authorization", "")
        if host not in _LOOPBACK or not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            raise HTTPException(403, "only from this machine, with the token")


async def _body(request: Request) -> bytes:
    """The request's body, refused as soon as it is larger than `MAX_BYTES`."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise HTTPException(413, f"at most {MAX_BYTES} bytes", {"Connection": "close"})
    return bytes(data)
