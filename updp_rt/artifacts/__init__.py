"""Saving and loading: safetensors and a manifest, never pickle."""

from updp_rt.artifacts.errors import ArtifactError
from updp_rt.artifacts.manifest import Manifest
from updp_rt.artifacts.store import load, read_manifest, save, versions

__all__ = ["ArtifactError", "Manifest", "load", "read_manifest", "save", "versions"]
