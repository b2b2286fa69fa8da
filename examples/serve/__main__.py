"""``python -m examples.serve MODEL``: serve a saved model's folder, or a model of timm's, on loopback."""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path

import timm
import uvicorn

import updp_rt
from examples.serve.app import Service


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder that updp_rt.save wrote, or a name of timm's")
    parser.add_argument("--pretrained", action="store_true", help="with timm's weights")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    if Path(given.model).is_dir():
        model = updp_rt.load(given.model)
    else:
        model = timm.create_model(given.model, pretrained=given.pretrained).eval()
    token = os.environ.get("SERVE_TOKEN")
    if token is None:
        token = secrets.token_urlsafe()
        print(f"token for /swap and /restore: {token}")
    # On SIGTERM uvicorn takes no further connections and answers those it has; then the batches end.
    uvicorn.run(
        Service(model, token).app, host=given.host, port=given.port, timeout_graceful_shutdown=30, access_log=False
    )


if __name__ == "__main__":
    main()
