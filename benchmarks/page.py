"""docs/measured.md, made from the results that the repository keeps; a test compares the two."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from benchmarks.commands import STUDIES, SUITES
from benchmarks.results import RESULTS, Result, stored

PATH = Path(__file__).parents[1] / "docs" / "measured.md"

# By suite: the section's title, and what the reader must know besides the tables. No figures: those are in the tables.
SECTIONS: dict[str, tuple[str, str]] = {
    "models": (
        "Accelerated models",
        """
        Each model at each batch size is one interleaved run in a process of its own; ratios are of medians. "Compiled"
        is `torch.compile` with freezing; in P6 the 6 blocks are merged that save most. Inductor makes one program of
        the whole model, which adds residuals in place and allocates less, but never looks at the weights again; an
        accelerated model goes on calling your modules one by one and follows their weights.
        """,
    ),
    "engines": (
        "Engines",
        """
        What `engine="auto"` picks, over the fastest of eager torch, frozen Inductor, ONNX Runtime and OpenVINO. Those
        run bare; ours also checks before each call that weights, hooks and modes are as they were. Each runs alone for
        a moment before it is timed, and what slows a whole round down is taken out of its times. Three cases that were
        below 0.97 in 71 rounds were measured again in 201. In two of them `auto` ran the same engine as the best other
        (0.96 and 0.97 then); in ConvNeXt's it had taken the compiler, from times of another minute (0.85, and 0.88 in
        201 rounds by that choice): here it chose anew.
        """,
    ),
    "merged_speed": (
        "Merged models in plain torch, and exported",
        """
        Baseline and merged model in turn in one run, without fused kernels: what depth pruning alone gives, in eager
        torch, in frozen Inductor and, where it is installed, in ONNX Runtime on the files that `updp_rt.export` writes.
        Eager torch runs the norms and activations of the baseline one by one, which the other two fuse, so merging
        saves it more.
        """,
    ),
    "paper": (
        "ConvNeXt among its peers",
        """
        Throughput of whole models, as the paper compares them. Speed alone: none of these is trained here, so it says
        nothing of accuracy at equal speed.
        """,
    ),
    "blocks": ("Blocks", "Each kind of prunable block by itself, on the input that it meets in its model."),
    "micro": (
        "Operators",
        """
        Each fused operator by itself, on the shapes that the four models meet. Where each call pays for Inductor's
        guards, Inductor is mostly behind.
        """,
    ),
    "memory": (
        "Memory that `accelerate` adds",
        "One packed copy of the weights, as the growth of a process of its own.",
    ),
    "progressive_vs_direct": (
        "Progressive against direct training",
        """
        The same subnets on scikit-learn's digits: half the blocks, drawn at random; same calibrated start, same budget;
        "direct" has λ = 1 from the start. Accuracy is of 719 unseen images, so that 0.14 points are one image, and a
        spread over three seeds is a rough one. On data this easy the calibrated start already loses little, and direct
        training at a high rate soon makes up for it. The rates of ResNet34 and ConvNeXt-Tiny were lowered, to a tenth
        of their baselines', after the higher ones had been seen; both are shown.
        """,
    ),
    "fading": (
        "Where fading pays",
        """
        Half the blocks of a model on Fashion-MNIST, drawn by the seed, pruned on 6,000 images from the same calibrated
        start, by budgets from short to long. "Direct" has λ = 1 from the start; a ramp is the share of the steps in
        which λ rises; distilled, the baseline's outputs are half of the target, which costs its passes forward besides.
        Accuracy is of 5,000 images that nothing was trained on or chosen by: 0.1 points are five of them. Seed 0 of
        small_resnet ran on another processor. Of few steps the longer a ramp the more it costs, so that the default is
        a short one below 1,000; of 561 and more no way to fade is outside the noise of small_resnet, while
        small_mobilenetv2, which has one seed, does better with shorter ramps. What distilling adds is about what as
        many more steps would add.
        """,
    ),
    "field_cnn": (
        "UPDP and its rivals: depth of CNNs",
        """
        Fashion-MNIST: baselines on 12,000 images, pruning on 3,000 of them, blocks chosen by 1,000 others, accuracy of
        5,000 that nothing was trained on or chosen by. All methods have the start, the images, the seeds and as many
        passes as UPDP; changes and speed-ups are against the baseline of the same seed, timed in turn on fused kernels.
        For so few steps UPDP leaves its supernet as it is fitted; `supernet_epochs=1` trains it, for as many fewer
        steps of the subnet. With `body=skip` blocks fade until their input alone is left, where that can be; with
        `body=affine` they fade into an affine map of every pixel, fitted in closed form as `toast`'s is. With
        `body=any:search=guided` UPDP is asked for the speed-up that `drop` has there. Two jobs ran side by side, so
        that speed-ups are rough. `dp` and `layermerge` choose by latency, so that the number of blocks is theirs.
        "UPDP as fast" is what the most accurate of UPDP's ways, as fast as a rival within 2%, adds to it; it is
        picked by these same images, which favours it by part of the noise. What is published is of other networks, data
        and devices: it compares with no other column.

        A few tenths of a point are noise. UPDP is ahead of `drop`, the strongest rival, or level with it, at as much
        speed or more, by one body or another: on small_resnet `any` is ahead by 0.4 points at half and 0.1 at a third,
        and affine maps are level and faster; on small_mobilenetv2 affine maps are ahead by 0.4 at half, and `skip` is
        level at a third; on small_convnext `any` and affine maps are level at half, and `any` and `skip` at a third,
        and `any` at half and `skip` at a third are faster. Merging alone is slower than `drop`; it is more accurate at
        half of small_resnet and small_convnext, and behind at a third of small_mobilenetv2. No body is the best
        everywhere, and `any`, which chooses, is not always as good as the best of them: on a third of small_mobilenetv2
        it is 0.3 behind `drop`, by one seed of three. The other rivals are behind. Fading is ahead of λ = 1 from the
        start (`direct=true`) in thirteen of eighteen pairs of these models, by 0.02 to 1.28 points, and behind in five,
        by 0.02 to 0.22. Times on the second machine varied more, so that its speed-ups are rougher still; that of
        `direct=true` at a third of small_mobilenetv2, seed 2, 0.93, is far from the 1.13 predicted, and not to
        be relied on.

        Tried besides, once each, and no default made of it. The baseline's outputs as all of the target, for three
        quarters of the steps: on a third of small_resnet, affine maps, 89.24% for 88.60 (as half of it 88.84), and
        `any` 88.90 for 88.52 and, of another seed, 88.66 for 88.54; on half of small_mobilenetv2 `any` 84.78 for 84.46,
        but `skip` 83.98 for 84.60; on half of small_convnext `any` 83.52 for 83.72. A rate of 2e-4 for 5e-4 on a third
        of small_resnet: `any` 88.86 for 88.52, affine maps 88.58 for 88.60.

        Tried, and the default now: the fit of affine maps. Plain least squares, as `toast`'s, gave 83.18 and 81.86% on
        half of small_convnext, two seeds, where `toast` has 83.54 and 82.62 untrained: training did not mend what was
        learnt by heart from a few images (82.36 with a tenth of the rate for the maps, 82.74 with 1e-4 for all). With a
        ridge that draws a block that adds to its input to this input they have 84.48 and 84.22; 0.01 of each channel's
        variance is as good as 0.1 (84.12), and so is 0.01 of the mean (84.10). small_resnet does not mind, and
        small_vit has 84.26 for 83.92. With the plain fit, maps offered to `any` for all blocks cost small_convnext a
        point, since untrained they looked better than what training makes better: they are offered where a block cannot
        be left out.
        """,
    ),
    "field_vit": (
        "UPDP and its rivals: a ViT",
        """
        As for CNNs. `hetdpt` and `nose` take parts out of blocks; those that narrow a ViT (`wdpruning`, `s2vite`,
        `scop`, `xpruner`, `hvt`) remove as much arithmetic as UPDP saves, at one share alone. UPDP is level with `drop`
        at half, at one speed, and ahead by 0.2 at a third, and faster (`skip`); it is level with `nose`, the most
        accurate rival, and faster. No method that narrows is as accurate as merging, at as much speed or less. Fading
        and λ = 1 from the start are level: ahead in two of six pairs, by 0.1, and behind in four, by 0.1 to 0.5.
        """,
    ),
    "field_width": (
        "UPDP and its rivals: channels",
        """
        As above, to a share of the parameters, and trained afterwards: our own masks with and without constraints, and
        Torch-Pruning's. At one share of parameters ours keep more accuracy of CNNs and save less time: the latency of
        one does not say what the other would have at it. On small_convnext Torch-Pruning is level and faster; on
        small_vit ours are more accurate and faster.
        """,
    ),
    "kendall": (
        "What a search can go by",
        """
        Kendall's τ over a space small enough to train all of it. The supernet sees the training images, what judges by
        it the validation images, as the search has them; alone, subnets are trained from the baseline as the chosen one
        is, and judged by 5,000 test images. "Brief" is a subset after 32 steps by itself; "within a size" counts pairs
        of as many blocks alone, as a search for a number of blocks has them. Each trained alone has noise of its own:
        where there are several seeds, τ between their accuracies alone is as much as any judge can be expected to
        reach.
        """,
    ),
    "searches": (
        "Which search finds more",
        """
        The best subset of half the blocks that each engine finds in as many trials, in a supernet fitted to the
        baseline, by the cross entropy on 1,000 validation images; accuracy is of the same images, before any training.
        "skip" leaves blocks out where that can be. `dp` and `guided` judge single blocks first, which counts as trials;
        the genetic search is the mean of three draws. One seed: where it merges MobileNetV2 in 24 trials, 18 of which
        go to single blocks, `guided` is behind.
        """,
    ),
    "channels_accuracy": (
        "Accuracy after channel pruning, without training",
        """
        719 unseen images of the digits; "recalibrated" has BatchNorm's statistics taken again on 512 images. All
        columns of a row have as many parameters. "Averaged" is constrained pruning whose coupled groups score as the
        mean of their layers, as Torch-Pruning's do by default; "constrained" sums them, as
        `prune_channels(constrained=True)` does; "free" is unconstrained by scores alone; "unconstrained" also looks at
        64 training images. What makes the difference to "averaged" is that a channel costs what all its layers lose
        together. With the local scope, in every layer alike, freedom costs more inputs.
        """,
    ),
    "channels_speed": (
        "Copies and speed of channel-pruned models",
        """
        A share of every layer's inputs is dropped at random, each layer for itself: the hardest case for reordering.
        Channels that are gathered by the naive export (one gather at each layer that does not keep all that is there),
        by the least that a reordering alone can leave, by the export as it is, with `copies="fewest"`, and by the
        published package apple-upscale 0.1.1, of the same masks; the seconds that both take to export. `fewest` pays in
        arithmetic, mostly more than it saves, so it is not the default. Gathers weigh more beside less arithmetic.
        """,
    ),
    "gpu": ("On a GPU", "Numerics of every kernel, whole models and single operators in one run."),
    "whole_models": (
        "Whole models projected for an MI100",
        """
        Projections, not measurements. Fused operators are projected with their fastest tile; what torch is left with,
        and the unfused model, are bounded from below by the bytes and FLOPs of each of torch's passes
        (`updp_rt/projection/README.md`). Launches are not in the times; a graph holds them. At batch 1 the bound
        flatters torch most: of latency it has one load's a pass, and the projections have all of it.
        """,
    ),
    "projection": (
        "Projected for an MI100",
        "Projections, not measurements: `updp_rt/projection/README.md` states the model and how to check it on a card.",
    ),
}
_ABOUT = """
Made by `python -m benchmarks page` from `benchmarks/results/`, where each row stands with quartiles, versions and
commit. Each section names the machine, and the commands that make its figures again on yours; `python -m benchmarks
SUITE --help` lists what each takes. Candidates are timed in turn in one run, and only those whose numerics hold.
"""


def make_page() -> str:
    """The page's text."""
    found = stored()
    sections = ["# Measured", _prose(_ABOUT)]
    missing = [name for name in SECTIONS if name not in found]
    for suite in SECTIONS:
        if suite in found:
            sections += _section(suite, found[suite])
    commands = ", ".join(f"`python -m benchmarks {name}`" for name in missing)
    sections += [f"Not measured yet: {commands}."] if missing else []
    return "\n\n".join(sections) + "\n"


def _section(suite: str, results: Mapping[str, Result]) -> list[str]:
    title, text = SECTIONS[suite]
    parts = [f"## {title}", _prose(text)]
    for device, result in results.items():
        about, made = result.about, (SUITES | STUDIES)[suite]
        where = f"`{device}`, torch {about['versions']['torch']}, commit {about['commit']}"
        parts.append("\n".join([f"On {where}:", "```", *about["command"].split(" && "), "```"]))
        parts += [about["note"]] if "note" in about else []
        parts += [table.to_markdown() for table in made.tables(result.rows) if table.rows]
        picture = RESULTS / device / f"{suite}.png"
        if picture.exists():
            parts.append(f"![{title}](../benchmarks/results/{device}/{suite}.png)")
    return parts


def _prose(text: str) -> str:
    """Paragraphs, filled."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(textwrap.fill(each, 120, break_long_words=False, break_on_hyphens=False) for each in paragraphs)
