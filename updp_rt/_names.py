"""Models by name, told apart from mistyped ones without loading timm, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

# This project's own, see `updp_rt.artifacts.small`.
SMALL_MODELS = ("small_resnet", "small_mobilenetv2", "small_convnext", "small_vit")


def unknown_model(name: str, names: Iterable[str]) -> str:
    """That there is no model `name`, with the nearest of `names`."""
    known = [*SMALL_MODELS, *sorted(names)]
    longer = [other for other in known if other.startswith(name)]
    near = list(dict.fromkeys([*longer, *get_close_matches(name, known, n=5)]))[:5]
    advice = f"perhaps one of: {', '.join(near)}" if near else "timm.list_models() names all"
    return f"timm knows no model {name!r}; {advice}"


def refuse_unknown(name: str) -> None:
    """Raise ValueError for a name that timm's own files do not mention; whoever creates the model knows exactly."""
    if name in SMALL_MODELS:
        return
    spec = find_spec("timm")
    places = spec.submodule_search_locations if spec else None
    text = "\n".join(file.read_text("utf-8") for place in places or () for file in Path(place).glob("models/*.py"))
    names = re.findall(r"^@register_model\ndef (\w+)\(", text, re.MULTILINE)
    if names and not re.search(rf"\b{re.escape(name.partition('.')[0])}\b", text):
        raise ValueError(unknown_model(name, names))
