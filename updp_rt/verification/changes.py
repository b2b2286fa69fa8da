"""What is no longer as it was when a certificate was made."""

from __future__ import annotations

from updp_rt.verification.certificate import Certificate


def changes_since(old: Certificate, new: Certificate) -> list[str]:
    """One line for each part of the environment, each source file, the images and the kernels that differs."""
    before = {
        "engine": old.engine,
        **old.environment,
        **{f"source {path}": digest for path, digest in old.files.items()},
    }
    after = {
        "engine": new.engine,
        **new.environment,
        **{f"source {path}": digest for path, digest in new.files.items()},
    }
    found = [
        f"{key}: {before.get(key, 'absent')} then, {after.get(key, 'absent')} now"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    if old.inputs.sha256 != new.inputs.sha256:
        found.append(f"images: {old.inputs.source} then, other ones ({new.inputs.source}, same shape) now")
    then = {(m.name, k.problem): k.kernel for m in old.modules for k in m.kernels}
    now = {(m.name, k.problem): k.kernel for m in new.modules for k in m.kernels}
    other = sum(then.get(key) != kernel for key, kernel in now.items())
    if other:
        found.append(f"kernels: {other} of {len(now)} problems run on another one")
    return found
