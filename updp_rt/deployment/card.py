"""The model card of a model on the Hub: what it is, how good, how fast, how that was checked, and how it was made."""

from __future__ import annotations

from updp_rt.artifacts.manifest import Description
from updp_rt.report.collect import Certified, Parts
from updp_rt.report.schema import Identity, Profile, Summary

_USE = """\
```python
import torch
import updp_rt

model = updp_rt.from_pretrained("{place}")
fast = updp_rt.accelerate(model, torch.randn(8, {channels}, {height}, {width}))  # on fused kernels
```

timm builds it too, once `updp_rt.timm` is imported: `timm.create_model("hf-hub:{place}", pretrained=True)`."""


def write_card(
    name: str, description: Description, parts: Parts | None, *, accuracy: float | None, license: str | None
) -> str:
    """The card as Markdown with the Hub's metadata above.

    Args:
        name: of the repository, or of the folder.
        parts: what the folder holds that the model was made in, if there is one.
        accuracy: share of images classified right, if known.
        license: of the weights, by the Hub's name of it.
    """
    from huggingface_hub import EvalResult, ModelCardData

    summary = parts.summary if parts and isinstance(parts.summary, Summary) else None
    reached = summary.merged.accuracy if summary else accuracy
    data = ModelCardData(
        license=license,
        library_name="updp_rt",
        pipeline_tag="image-classification",
        tags=["timm", "updp_rt", "pruning"],
        model_name=name,
        eval_results=None
        if reached is None
        else [
            EvalResult(
                task_type="image-classification",
                dataset_type="imagefolder",
                dataset_name=summary.evaluated_on if summary else "validation",
                metric_type="accuracy",
                metric_value=round(reached, 6),
            )
        ],
    )
    channels, height, width = description.input_size
    place = name if "/" in name else f"USER/{name}"
    sections = {
        "": _what(description),
        "How good and how fast": _figures(summary, parts, reached),
        "How it was checked": _checked(summary, parts),
        "How it was made": _made(description, parts),
        "Use": _USE.format(place=place, channels=channels, height=height, width=width),
    }
    text = "\n\n".join(f"## {title}\n\n{body}" if title else body for title, body in sections.items() if body)
    return f"---\n{data.to_yaml()}\n---\n\n# {name.rpartition('/')[2]}\n\n{text}\n"


def _what(description: Description) -> str:
    done = []
    if description.blocks:
        done.append(f"{len(description.blocks)} of its blocks merged into one convolution or linear layer each")
    if description.channels:
        done.append("its channels pruned")
    images = "x".join(map(str, description.input_size))
    what = f"timm's `{description.architecture}`{', ' + ' and '.join(done) if done else ''}, for images of {images}."
    return f"{what} Pictures go through: {description.preprocessing}." if description.preprocessing else what


def _figures(summary: Summary | None, parts: Parts | None, accuracy: float | None) -> str:
    if summary is None:
        return "" if accuracy is None else f"Accuracy: {accuracy:.2%}."
    rows = [["", "accuracy", "depth", "parameters", "MACs", "latency", "speedup"], ["---", *["---:"] * 6]]
    for label, figures in (("baseline", summary.baseline), ("this model", summary.merged)):
        speedup = summary.baseline.latency_ms / figures.latency_ms
        size = [f"{figures.params / 1e6:.2f} M", f"{figures.macs / 1e6:.1f} M"]
        times = [f"{figures.latency_ms:.2f} ms", f"{speedup:.2f}×"]
        rows.append([label, f"{figures.accuracy:.2%}", str(figures.depth), *size, *times])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = (
        f"{table}\n\nAccuracy on {summary.images} images of {summary.evaluated_on}; latency of a batch of "
        f"{summary.batch_size} on {summary.device}, in plain torch."
    )
    if parts and isinstance(parts.profile, Profile):
        times_ms, shape = parts.profile.model, "x".join(map(str, parts.profile.input))
        text += (
            f" On fused kernels, on {parts.profile.device}, {shape}, {parts.profile.dtype}: baseline "
            f"{times_ms.baseline:.2f} ms, this model {times_ms.accelerated:.2f} ms."
        )
    return text


def _checked(summary: Summary | None, parts: Parts | None) -> str:
    lines = []
    if summary is not None:
        lines.append(
            f"Merging: the merged model and the trained subnet put {summary.predictions_that_differ} of "
            f"{summary.images} images into different classes."
        )
    if parts and isinstance(parts.certificate, Certified) and not parts.certificate.doubt:
        certificate = parts.certificate.certificate
        logits = certificate.logits
        lines.append(
            f"Certificate ({certificate.created:%Y-%m-%d}): {certificate}. Logits: error {logits.error:.1e} against "
            f"{certificate.reference}, bound {logits.bound:.1e}; {logits.disagree} of {logits.decided} images whose "
            "class errors within the bound cannot turn are in another."
        )
    return "\n\n".join(lines)


def _made(description: Description, parts: Parts | None) -> str:
    text = []
    if description.blocks:
        rows = [f"| `{name}` | {block.body} | {block.form} |" for name, block in description.blocks.items()]
        text.append("\n".join(["| block | pruned body | merged form |", "|---|---|---|", *rows]))
    if parts and isinstance(parts.identity, Identity):
        settings = {k: v for k, v in parts.identity.config.items() if isinstance(v, bool | int | float | str)}
        text.append("Settings of the run: " + ", ".join(f"{name} {value}" for name, value in settings.items()) + ".")
    return "\n\n".join(text)
