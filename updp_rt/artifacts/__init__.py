"""Saving and loading: safetensors and a manifest, never pickle."""

from updp_rt.artifacts.checkpoint import load_checkpoint
from updp_rt.artifacts.create import Opened, create_model, open_model
from updp_rt.artifacts.errors import ArtifactError, first_error
from updp_rt.artifacts.manifest import Manifest
from updp_rt.artifacts.store import load, read_manifest, save, versions
from updp_rt.artifacts.weights import fingerprint

__all__ = [
    "ArtifactError",
    "Manifest",
    "Opened",
    "create_model",
    "fingerprint",
    "first_error",
    "load",
    "load_checkpoint",
    "open_model",
    "read_manifest",
    "save",
    "versions",
]
