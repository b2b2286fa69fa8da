"""Every operator through both doors, in a process that never loads the runtime. Fails by assertion."""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from tests.ops.calls import ACTIVATIONS, FORMS, OPERATORS
from updp_rt import ops


def main() -> None:
    seen = set()
    for form in FORMS:
        for act in ACTIVATIONS:
            call = replace(form, act=act).call(torch.float64)
            wanted = call.exact()
            for door in (getattr(ops, form.operator), getattr(torch.ops.updp_rt, form.operator)):
                found = door(*call.args)
                found = torch.cat(found, -1) if isinstance(found, tuple) else found
                assert found.shape == form.shape, form
                assert found.is_contiguous(memory_format=form.layout), form
                assert float((found - wanted).abs().max()) <= 1e-12 * float(wanted.abs().max()), (form, act)
        seen.add(form.operator)
    assert seen == set(OPERATORS)
    assert "updp_rt.runtime" not in sys.modules


if __name__ == "__main__":
    main()
