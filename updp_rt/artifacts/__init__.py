"""Saving and loading: safetensors and a manifest, never pickle."""

from updp_rt.artifacts.checkpoint import load_checkpoint
from updp_rt.artifacts.create import create_model
from updp_rt.artifacts.describe import fingerprint
from updp_rt.artifacts.errors import ArtifactError, first_error
from updp_rt.artifacts.manifest import Manifest
from updp_rt.artifacts.store import load, read_manifest, save, versions

__all__ = [
    "ArtifactError",
    "Manifest",
    "create_model",
    "fingerprint",
    "first_error",
    "load",
    "load_checkpoint",
    "read_manifest",
    "save",
    "versions",
]
