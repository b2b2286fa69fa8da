"""What the expressions of random programs are made of; the functions they call are in prelude.h."""

from __future__ import annotations

TYPES = ("i32", "u32", "i64", "u64", "u16", "f16", "f32", "f64")
COUNTS = {"i32": 3, "u32": 4, "i64": 2, "u64": 2, "u16": 2, "f16": 2, "f32": 4, "f64": 2}
VARIABLES = {kind: [f"{kind}_{n}" for n in range(count)] for kind, count in COUNTS.items()}

# By type of the result: a template, and the types of what fills it.
_SAME_INTEGER = ("{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} & {1}", "{0} | {1}", "{0} ^ {1}")
OPERATIONS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    **{kind: [(f"({text})", (kind, kind)) for text in _SAME_INTEGER] for kind in ("i32", "u32", "i64", "u64")},
    "u16": [(f"(u16)({text})", ("u16", "u16")) for text in _SAME_INTEGER],
    **{
        kind: [(f"({text})", (kind, kind)) for text in ("{0} + {1}", "{0} - {1}", "{0} * {1}")]
        for kind in ("f16", "f32", "f64")
    },
}
for _kind, _bits in (("i32", 31), ("u32", 31), ("i64", 63), ("u64", 63)):
    OPERATIONS[_kind] += [
        (f"({{0}} << ({{1}} & {_bits}))", (_kind, "u32")),
        (f"({{0}} >> ({{1}} & {_bits}))", (_kind, "u32")),
        ("(~{0})", (_kind,)),
        ("({0} * {1} + {2})", (_kind, _kind, _kind)),
        ("({0} + {1} + {2})", (_kind, _kind, _kind)),
    ]
for _kind in TYPES:
    _other = "f64" if _kind == "f32" else "f32"
    OPERATIONS[_kind] += [
        ("smaller({0}, {1})", (_kind, _kind)),
        ("larger({0}, {1})", (_kind, _kind)),
        ("middle({0}, {1}, {2})", (_kind, _kind, _kind)),
        ("({0} < {1} ? {2} : {3})", ("i32", "i32", _kind, _kind)),
        # Of another type than the result, or LLVM might take it for a minimum: see prelude.h.
        ("({0} >= {1} ? {2} : {3})", (_other, _other, _kind, _kind)),
        ("({0} != {1} ? {2} : {3})", (_kind, _kind, _kind, _kind)),
    ]
OPERATIONS["i32"] += [
    ("(i32){0}", ("u32",)), ("(i32){0}", ("i64",)), ("(i32)(short){0}", ("u16",)), ("(i32)(signed char){0}", ("u32",)),
    ("to_i32({0})", ("f32",)), ("to_i32({0})", ("f64",)), ("to_i32({0})", ("f16",)),
    ("quotient({0}, {1})", ("i32", "i32")), ("remainder({0}, {1})", ("i32", "i32")),
    ("({0} < 0 ? 0 - {0} : {0})", ("i32",)), ("high_product({0}, {1})", ("i32", "i32")),
    ("(product24({0}, {1}) + {2})", ("i32", "i32", "i32")), ("((i32)({0} << 7) >> 19)", ("u32",)),
]  # fmt: skip
OPERATIONS["u32"] += [
    ("(u32){0}", ("i32",)), ("(u32){0}", ("u64",)), ("(u32){0}", ("u16",)), ("(u32)({0} >> 32)", ("u64",)),
    ("to_u32({0})", ("f32",)), ("to_u32({0})", ("f64",)), ("bits({0})", ("f32",)), ("(u32)bits({0})", ("f16",)),
    ("(opaque({0}) / ({1} | 1u))", ("u32", "u32")), ("(opaque({0}) % ({1} | 1u))", ("u32", "u32")),
    ("({0} / 7u)", ("u32",)), ("(({0} & 0xffffffu) / (({1} & 0xffffu) | 1u))", ("u32", "u32")),
    ("(u32)__builtin_popcount({0})", ("u32",)), ("(u32)__builtin_popcountll({0})", ("u64",)),
    ("zeros_above({0})", ("u32",)), ("zeros_below({0})", ("u32",)), ("zeros_above({0})", ("u64",)),
    ("rotate({0}, {1})", ("u32", "u32")), ("rotate({0}, 9)", ("u32",)), ("funnel({0}, {1}, {2})", ("u32",) * 3),
    ("field({0}, {1}, {2})", ("u32",) * 3), ("field({0}, 5, 11)", ("u32",)), ("blend({0}, {1}, {2})", ("u32",) * 3),
    ("__builtin_bitreverse32({0})", ("u32",)), ("__builtin_bswap32({0})", ("u32",)),
    ("high_product({0}, {1})", ("u32", "u32")), ("(product24({0}, {1}) + {2})", ("u32", "u32", "u32")),
    ("(byte_of({0}, 2) + byte_of({1}, 1))", ("u32", "u32")), ("byte_of({0}, {1})", ("u32", "u32")),
    ("(({0} & 0xffffu) | {1} << 16)", ("u32", "u32")), ("(({0} << 3) + {1})", ("u32", "u32")),
    ("(({0} + {1}) << 5)", ("u32", "u32")), ("(u32)({0} < {1})", ("f64", "f64")), ("in[{0} % INPUTS]", ("u32",)),
    ("(u32)((const u8*)in)[{0} % (4 * INPUTS)]", ("u32",)), ("(u32)((const u16*)in)[{0} % (2 * INPUTS)]", ("u32",)),
    ("table[{0} & 7]", ("u32",)),
]  # fmt: skip
OPERATIONS["i64"] += [
    ("(i64){0}", ("i32",)), ("(i64){0}", ("u32",)), ("(i64){0}", ("u64",)),
    ("to_i64({0})", ("f32",)), ("to_i64({0})", ("f64",)), ("((i64){0} * {1})", ("i32", "i32")),
    ("((i64){0} * {1} + {2})", ("i32", "i32", "i64")),
]  # fmt: skip
OPERATIONS["u64"] += [
    ("(u64){0}", ("u32",)), ("(u64){0}", ("i64",)), ("((u64){0} << 32 | {1})", ("u32", "u32")),
    ("((u64){0} * {1} + {2})", ("u32", "u32", "u64")), ("to_u64({0})", ("f64",)), ("bits({0})", ("f64",)),
]  # fmt: skip
OPERATIONS["u16"] += [
    ("(u16){0}", ("u32",)), ("bits({0})", ("f16",)), ("(u16)({0} * {1} + {2})", ("u16",) * 3),
    ("(u16)({0} << ({1} & 15))", ("u16", "u16")), ("(u16)({0} >> ({1} & 15))", ("u16", "u16")),
    ("(u16)((short){0} >> ({1} & 15))", ("u16", "u16")), ("(u16)({0} >> 16)", ("u32",)),
]  # fmt: skip
OPERATIONS["f16"] += [
    ("(f16){0}", ("f32",)), ("(f16)(short){0}", ("u16",)), ("bits_as<f16>({0})", ("u16",)), ("(-{0})", ("f16",)),
    ("(f16)__builtin_fabsf({0})", ("f16",)),
]  # fmt: skip
OPERATIONS["f32"] += [
    ("(f32){0}", ("i32",)), ("(f32){0}", ("u32",)), ("(f32){0}", ("i64",)), ("(f32){0}", ("u64",)),
    ("(f32){0}", ("f16",)), ("(f32){0}", ("f64",)), ("bits_as<f32>({0})", ("u32",)), ("(f32)byte_of({0}, 3)", ("u32",)),
    ("({0} / {1})", ("f32", "f32")), ("(-{0})", ("f32",)), ("__builtin_fabsf({0})", ("f32",)),
    ("__builtin_fmaf({0}, {1}, {2})", ("f32",) * 3), ("__builtin_fmaf(-{0}, __builtin_fabsf({1}), {2})", ("f32",) * 3),
    ("__builtin_floorf({0})", ("f32",)), ("__builtin_ceilf({0})", ("f32",)), ("__builtin_truncf({0})", ("f32",)),
    ("__builtin_rintf({0})", ("f32",)), ("__builtin_copysignf({0}, (f32){1})", ("f32", "i32")),
    ("__builtin_fminf({0}, 1.5f)", ("f32",)), ("__builtin_fmaxf({0}, -2.0f)", ("f32",)),
    ("__builtin_fminf(__builtin_fmaxf({0}, 1.0f), 64.0f)", ("f32",)), ("scaled({0}, {1} & 15)", ("f32", "i32")),
]  # fmt: skip
OPERATIONS["f64"] += [
    ("(f64){0}", ("i32",)), ("(f64){0}", ("u32",)), ("(f64){0}", ("i64",)), ("(f64){0}", ("u64",)),
    ("(f64){0}", ("f32",)), ("bits_as<f64>({0})", ("u64",)), ("quotient({0}, {1})", ("f64",) * 2), ("(-{0})", ("f64",)),
    ("__builtin_fma({0}, {1}, {2})", ("f64",) * 3), ("__builtin_floor({0})", ("f64",)),
    ("__builtin_fabs({0})", ("f64",)), ("__builtin_rint({0})", ("f64",)), ("__builtin_trunc({0})", ("f64",)),
    ("__builtin_fmin({0}, 3.0)", ("f64",)),
]  # fmt: skip

CONSTANTS: dict[str, tuple[str, ...]] = {
    "i32": ("0", "1", "(-1)", "5", "(-17)", "64", "65", "1000003", "(-2147483647 - 1)"),
    "u32": ("0u", "1u", "31u", "63u", "64u", "255u", "0xffffu", "0x80000000u", "0xffffffffu", "2654435761u"),
    "i64": ("0ll", "(-1ll)", "3ll", "0x123456789abll", "(-9223372036854775807ll - 1)"),
    "u64": ("0ull", "1ull", "0xffffffffull", "0x100000000ull", "0x9e3779b97f4a7c15ull"),
    "u16": ("(u16)0", "(u16)1", "(u16)77", "(u16)0x8000", "(u16)0xffff"),
    "f16": ("(f16)0", "(f16)1", "(f16)-0.5", "(f16)65504", "(f16)6e-8", "(f16)0.1"),
    "f32": ("0.0f", "1.0f", "(-0.5f)", "4.0f", "0.15915494f", "1e-40f", "3e38f", "16777216.0f", "0.1f"),
    "f64": ("0.0", "1.0", "(-2.0)", "0.1", "1e-310", "1e300"),
}
