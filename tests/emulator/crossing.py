"""Ways in which the lanes of a wave exchange values, as the GPU's builtins and as loops over lanes."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Across:
    """A way to move 32-bit values across a wave.

    Attributes:
        device: an expression in `value` and `other`, one number each.
        host: the same for `lane` of 64, `value` and `other` arrays of a wave.
    """

    device: str
    host: str


def _dpp(control: int, row_mask: int, bank_mask: int, bound_ctrl: bool, source: str) -> Across:
    """`source`: the lane a value comes from, negative where there is none."""
    device = (
        f"(u32)__builtin_amdgcn_update_dpp((int)other, (int)value, {control}, {row_mask}, {bank_mask}, "
        f"{str(bound_ctrl).lower()})"
    )
    written = f"({row_mask} >> lane / 16 & 1) && ({bank_mask} >> lane % 16 / 4 & 1)"
    outside = "0u" if bound_ctrl else "other[lane]"
    host = f"!({written}) ? other[lane] : ({source}) < 0 ? {outside} : value[{source}]"
    return Across(device, host)


def _random_dpp(rng: random.Random) -> Across:
    by = rng.randrange(1, 16)
    quad = [rng.randrange(4) for _ in range(4)]
    packed = sum(lane << 2 * place for place, lane in enumerate(quad))
    control, source = rng.choice([
        (packed, f"(lane & ~3) + ({packed} >> 2 * (lane & 3) & 3)"),
        (0x100 + by, f"lane % 16 + {by} < 16 ? lane + {by} : -1"),
        (0x110 + by, f"lane % 16 >= {by} ? lane - {by} : -1"),
        (0x120 + by, f"(lane & ~15) + (lane + 16 - {by}) % 16"),
        (0x130, "lane < 63 ? lane + 1 : -1"),
        (0x134, "(lane + 1) % 64"),
        (0x138, "lane - 1"),
        (0x13C, "(lane + 63) % 64"),
        (0x140, "lane ^ 15"),
        (0x141, "lane ^ 7"),
        (0x142, "lane >= 16 ? (lane & ~15) - 1 : -1"),
        (0x143, "lane >= 32 ? 31 : -1"),
    ])  # fmt: skip
    masks = rng.choice([(15, 15), (15, 15), (rng.randrange(1, 16), rng.randrange(1, 16))])
    return _dpp(control, *masks, rng.random() < 0.5, source)


def _random_swizzle(rng: random.Random) -> Across:
    keep, flip_on, flip = rng.randrange(32), rng.randrange(32), rng.randrange(32)
    control = keep | flip_on << 5 | flip << 10
    device = f"(u32)__builtin_amdgcn_ds_swizzle((int)value, {control}) + other"
    return Across(device, f"value[(lane & 32) + (((lane & {keep}) | {flip_on}) ^ {flip}) % 32] + other[lane]")


def random_across(rng: random.Random) -> Across:
    """Permutations, broadcasts, votes and, above all, DPP."""
    lane, odd, start = rng.randrange(64), rng.randrange(1, 64, 2), rng.randrange(64)
    ways = [
        Across(
            "(u32)__builtin_amdgcn_ds_bpermute((int)(other * 4), (int)value)",
            "value[other[lane] % 64]",
        ),
        Across(
            f"(u32)__builtin_amdgcn_ds_permute((int)((lane_id * {odd} + {start}) % 64 * 4), (int)value) ^ other",
            f"value[pushed_from(lane, {odd}, {start})] ^ other[lane]",
        ),
        Across(f"(u32)__builtin_amdgcn_readlane((int)value, {lane}) + other", f"value[{lane}] + other[lane]"),
        Across("(u32)__builtin_amdgcn_readfirstlane((int)value) ^ other", "value[0] ^ other[lane]"),
        Across(
            "(u32)__builtin_popcountll(__builtin_amdgcn_uicmp(value, other, 34) >> (lane_id & 31))",
            "(u32)__builtin_popcountll(ballot_greater(value, other) >> (lane & 31))",
        ),
    ]
    return rng.choice([*ways, _random_swizzle(rng), *[_random_dpp(rng)] * 6])
