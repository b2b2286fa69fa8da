"""The example service over HTTP: good and bad requests by the thousand, a swap in the middle, and its stop."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import statistics
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save

import updp_rt
from updp_rt.blocks.randomize import randomize

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-tests"
SIZE = 64
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
TENSOR, PNG, JPEG = ({"Content-Type": kind} for kind in ("application/x-safetensors", "image/png", "image/jpeg"))


def model() -> Any:
    torch.manual_seed(0)
    # Small images: verification draws on numbers below the normal ones, which some processors are slow with.
    small = {"input_size": (3, SIZE, SIZE)}
    return randomize(timm.create_model("resnet10t", num_classes=7, pretrained_cfg_overlay=small).eval(), seed=1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where the service listens, and its process."""
    folder = updp_rt.save(model(), tmp_path_factory.mktemp("served") / "model")
    port = 18000 + os.getpid() % 2000
    environment = os.environ | {"SERVE_TOKEN": TOKEN, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["UPDP_RT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    command = [sys.executable, "-m", "examples.serve", str(folder), "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
        yield f"http://127.0.0.1:{port}", process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)  # uvicorn raises the signal again once all is answered


@pytest.fixture
def ask(served: tuple[str, int]) -> Iterator[Callable[..., Any]]:
    import httpx

    with httpx.Client(base_url=served[0], timeout=120) as client:
        for _ in range(600):
            try:
                client.get("/health")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield client.request


def picture(kind: str, side: int = 40, seed: int = 0) -> bytes:
    pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    out = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(out, kind)
    return out.getvalue()


def images(count: int, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def bomb() -> bytes:
    """A PNG that claims a thousand million pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 32000, 32000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


BAD: dict[str, tuple[bytes, dict[str, str], int]] = {
    "wrong type": (b"hello", {"Content-Type": "text/plain"}, 415),
    "no type": (b"hello", {}, 415),
    "no picture": (b"GIF89a" + bytes(100), PNG, 415),
    "truncated": (picture("PNG")[:900], PNG, 422),
    "truncated jpeg": (picture("JPEG", 200)[:2000], JPEG, 422),
    "huge": (bytes(9 * 2**20), JPEG, 413),
    "bomb": (bomb(), PNG, 413),
    "NaN": (save({"x": torch.full((1, 3, SIZE, SIZE), torch.nan)}), TENSOR, 422),
    "wrong shape": (save({"x": torch.zeros(1, 3, 32, 32)}), TENSOR, 422),
    "too many": (save({"x": torch.zeros(9, 3, SIZE, SIZE)}), TENSOR, 422),
    "wrong dtype": (save({"x": torch.zeros(1, 3, SIZE, SIZE).double()}), TENSOR, 422),
    "other name": (save({"y": torch.zeros(1, 3, SIZE, SIZE)}), TENSOR, 422),
    "no tensor": (b"\x00" * 64, TENSOR, 415),
    "empty": (b"", PNG, 415),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_with_a_reason(name: str, ask: Callable[..., Any]) -> None:
    data, headers, status = BAD[name]
    answer = ask("POST", "/predict", content=data, headers=headers)
    assert answer.status_code == status
    assert len(answer.json()["detail"]) > 10


def test_answers_are_the_model_s(ask: Callable[..., Any]) -> None:
    source = model()
    for count in (1, 3, 8):
        x = images(count, seed=count)
        with torch.inference_mode():
            expected = source(x)
        found = torch.tensor(ask("POST", "/predict", content=save({"x": x}), headers=TENSOR).json()["logits"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    from timm.data import create_transform, resolve_data_config

    for kind, headers in (("PNG", PNG), ("JPEG", JPEG)):
        data = picture(kind, 200)
        x = create_transform(**resolve_data_config(model=source))(Image.open(io.BytesIO(data)).convert("RGB"))[None]
        with torch.inference_mode():
            expected = source(x)
        found = torch.tensor(ask("POST", "/predict", content=data, headers=headers).json()["logits"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_swapping_wants_the_token(ask: Callable[..., Any]) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer another-long-token"},
        {"Authorization": b"Bearer \xe4"},
    ):
        for path in ("/swap", "/restore"):
            assert ask("POST", path, headers=headers).status_code == 403
    assert ask("GET", "/health").json()["accelerated"] is False


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def load(url: str, total: int, busy: int = 8) -> tuple[Counter[str], list[float], list[str]]:
    """Requests of which each twentieth is bad: statuses, seconds of good ones, and what was wrong."""
    import httpx

    source, bad = model(), list(BAD.values())
    pool = []
    for seed in range(8):
        x = images(1 + seed % 2, seed)
        with torch.inference_mode():
            pool.append((save({"x": x}), source(x)))
    statuses: Counter[str] = Counter()
    seconds: list[float] = []
    wrong: list[str] = []
    turns = iter(range(total))

    async def one(client: httpx.AsyncClient) -> None:
        for turn in turns:
            if turn % 20 == 0:
                data, headers, status = bad[turn // 20 % len(bad)]
                answer = await client.post("/predict", content=data, headers=headers)
                if answer.status_code != status:
                    wrong.append(f"{answer.status_code} instead of {status}")
            else:
                data, expected = pool[turn % len(pool)]
                begun = time.perf_counter()
                answer = await client.post("/predict", content=data, headers=TENSOR)
                seconds.append(time.perf_counter() - begun)
                if answer.status_code != 200:
                    wrong.append(f"{answer.status_code}: {answer.text}")
                elif not torch.allclose(torch.tensor(answer.json()["logits"]), expected, rtol=1e-4, atol=1e-4):
                    wrong.append("other logits")
            statuses[f"{answer.status_code // 100}xx"] += 1

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(one(client) for _ in range(busy)))
    return statuses, seconds, wrong


def test_ten_thousand_requests_with_a_swap_in_the_middle(served: tuple[str, int], ask: Callable[..., Any]) -> None:
    """Before, during and after; nobody sees a 5xx or other logits, and memory stays what it was."""
    url, pid = served
    asyncio.run(load(url, 500))  # warm
    told = []

    async def swapping() -> tuple[Counter[str], list[float], list[str]]:
        import httpx

        async def swap() -> None:
            async with httpx.AsyncClient(base_url=url, timeout=300) as client:
                for path in ("/swap", "/restore", "/swap"):
                    answer = await client.post(path, headers=ADMIN)
                    assert answer.status_code == 200, answer.text

        found, _ = await asyncio.gather(load(url, 2500), swap())
        return found

    for name, run in (("before", lambda: load(url, 2500)), ("during", swapping), ("after", lambda: load(url, 5000))):
        if name == "after":
            memory = resident(pid)
        begun = time.perf_counter()
        statuses, seconds, wrong = asyncio.run(run())
        took = time.perf_counter() - begun
        assert wrong == []
        assert statuses.keys() == {"2xx", "4xx"}
        quantiles = statistics.quantiles(seconds, n=100)
        told.append(
            f"{name}: {sum(statuses.values()) / took:.0f} requests/s, p50 {1e3 * quantiles[49]:.1f} ms, "
            f"p99 {1e3 * quantiles[98]:.1f} ms"
        )
    print("\n".join(told))
    assert abs(resident(pid) - memory) <= 0.03 * memory
    assert ask("GET", "/health").json()["accelerated"] is True
    certificates = ask("GET", "/certificate").json()
    assert [each["inputs"]["shape"][0] for each in certificates] == [1, 2, 4, 8]
    metrics = ask("GET", "/metrics").text
    assert "model_accelerated 1.0" in metrics
    assert 'requests_total{path="/predict",status="200"}' in metrics
    assert 'status="500"' not in metrics


def test_a_stop_answers_what_has_come(tmp_path: Path) -> None:
    from examples.serve.batching import Batcher

    with torch.inference_mode():
        batcher = Batcher(torch.nn.Flatten(), (1, 2, 4))
        futures = [batcher.submit(torch.full((1 + i % 3, 2), float(i))) for i in range(50)]
        batcher.close()
    for i, future in enumerate(futures):
        assert torch.equal(future.result(0), torch.full((1 + i % 3, 2), float(i)))
