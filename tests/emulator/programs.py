"""Random C++ functions that mean the same wherever they are compiled: one text for the host and for gfx908.

A program's lanes each hold a `State` of variables. It is a list of phases: text that every lane runs, with a barrier
between phases on the GPU, where the host simply runs one phase for all lanes before the next. Within a phase lanes
share nothing but what phases before it left in LDS; phases of their own move values across the lanes of a wave.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

LANES = 128  # a workgroup: two waves, so that barriers matter
INPUTS = 32  # words of input a lane
MEETING = 16  # places where lanes of all workgroups meet, of up to 8 bytes

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
    ("__builtin_rintf({0})", ("f32",)), ("__builtin_copysignf({0}, {1})", ("f32", "f32")),
    ("__builtin_fminf({0}, 1.5f)", ("f32",)), ("__builtin_fmaxf({0}, -2.0f)", ("f32",)),
    ("__builtin_fminf(__builtin_fmaxf({0}, 1.0f), 64.0f)", ("f32",)), ("scaled({0}, {1} & 15)", ("f32", "i32")),
]  # fmt: skip
OPERATIONS["f64"] += [
    ("(f64){0}", ("i32",)), ("(f64){0}", ("u32",)), ("(f64){0}", ("i64",)), ("(f64){0}", ("u64",)),
    ("(f64){0}", ("f32",)), ("bits_as<f64>({0})", ("u64",)), ("({0} / {1})", ("f64", "f64")), ("(-{0})", ("f64",)),
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


_ATOMICS = ("add", "sub", "and", "or", "xor", "min", "max")
_ATOMIC_TYPES = ("u32", "i32", "u64")


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


def _random_across(rng: random.Random) -> Across:
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


class _Writer:
    """Writes the text of one program from one stream of random numbers."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loops = 0
        self.shared_operation = self.rng.choice(_ATOMICS), self.rng.choice(_ATOMIC_TYPES)

    def expression(self, kind: str, depth: int, of: str) -> str:
        """A value of type `kind` made of the variables of `of`: "s", a lane's, or "q", which all lanes share."""
        if depth == 0 or self.rng.random() < 0.15:
            return self._leaf(kind, of)
        template, operands = self.rng.choice(OPERATIONS[kind])
        return template.format(*(self.expression(operand, depth - 1, of) for operand in operands))

    def statements(self, count: int, nesting: int, of: str, indent: str = "  ") -> list[str]:
        return [line for _ in range(count) for line in self._statement(nesting, of, indent)]

    def target(self, kind: str, of: str = "s") -> str:
        return f"{of}.{self.rng.choice(VARIABLES[kind])}"

    def _leaf(self, kind: str, of: str) -> str:
        if self.rng.random() < 0.2:
            return self.rng.choice(CONSTANTS[kind])
        return self.target(kind, "q" if self.rng.random() < 0.15 else of)

    def _condition(self, of: str) -> str:
        kind = self.rng.choice(TYPES)
        test = self.rng.choice(("<", ">", "<=", ">=", "==", "!="))
        return f"{self.expression(kind, 1, of)} {test} {self.expression(kind, 1, of)}"

    def _statement(self, nesting: int, of: str, indent: str) -> list[str]:
        if nesting and self.rng.random() < 0.3:
            shape = self.rng.choice((self._branch, self._branch, self._loop, self._switch))
            return shape(nesting - 1, of, indent)
        if self.rng.random() < 0.07:
            return [f"{indent}table[{self.expression('u32', 1, of)} & 7] = {self.expression('u32', 2, of)};"]
        kind = self.rng.choice(TYPES)
        return [f"{indent}{self.target(kind, of)} = {self.expression(kind, self.rng.choice((1, 2, 2, 3)), of)};"]

    def _branch(self, nesting: int, of: str, indent: str) -> list[str]:
        lines = [f"{indent}if ({self._condition(of)}) {{"]
        lines += self.statements(self.rng.randrange(1, 4), nesting, of, indent + "  ")
        if self.rng.random() < 0.5:
            lines += [f"{indent}}} else {{"]
            lines += self.statements(self.rng.randrange(1, 4), nesting, of, indent + "  ")
        return [*lines, f"{indent}}}"]

    def _loop(self, nesting: int, of: str, indent: str) -> list[str]:
        self.loops += 1
        count = f"n{self.loops}"
        trips = f"({self.expression('u32', 1, of)} & 7)"  # reckoned anew before every trip
        lines = [f"{indent}for (u32 {count} = 0; {count} < {trips}; ++{count}) {{"]
        lines += self.statements(self.rng.randrange(1, 4), nesting, of, indent + "  ")
        if self.rng.random() < 0.4:
            lines += [f"{indent}  if ({self._condition(of)}) {self.rng.choice(('break', 'continue'))};"]
            lines += self.statements(1, 0, of, indent + "  ")
        return [*lines, f"{indent}}}"]

    def _switch(self, nesting: int, of: str, indent: str) -> list[str]:
        lines = [f"{indent}switch ({self.expression('u32', 1, of)} & 7) {{"]
        for case in sorted(self.rng.sample(range(8), self.rng.randrange(2, 5))):
            lines += [f"{indent}  case {case}:"]
            lines += self.statements(self.rng.randrange(1, 3), nesting, of, indent + "    ")
            if self.rng.random() < 0.7:
                lines += [f"{indent}    break;"]
        return [*lines, f"{indent}}}"]


@dataclass(frozen=True)
class _Phase:
    """One phase: what a lane does, or how values move across a wave. `shares`: a barrier has to follow."""

    lines: list[str]
    shares: bool = False
    across: Across | None = None
    called: bool = False  # a function call on the GPU, its arguments in memory


def _phases(writer: _Writer) -> list[_Phase]:
    phases = [_Phase(["  lds[lane] = lane;", "  lds[LANES + lane] = ~lane;"], shares=True)]
    for _ in range(writer.rng.randrange(2, 5)):
        lines = writer.statements(writer.rng.randrange(3, 9), 3, "s")
        phases.append(_Phase(lines, called=writer.rng.random() < 0.1))
        phases += writer.rng.choice((_exchange, _atomics, _crossing, _crossing))(writer)
    return phases


def _exchange(writer: _Writer) -> list[_Phase]:
    """Every lane leaves a value in LDS and, after the barrier, takes one or two from anywhere."""
    rng = writer.rng
    kind = rng.choice(("u32", "u64", "u16", "f32", "f64"))
    odd, start = rng.randrange(1, LANES, 2), rng.randrange(LANES)
    place = f"(({kind}*)lds)[(lane * {odd} + {start}) % LANES]"
    value = writer.expression(kind, 2, "s")
    if kind.startswith("f"):  # the bits of a NaN must not be seen
        value = f"bits_as<{kind}>(bits({value}))"
    reads = []
    for _ in range(rng.randrange(1, 3)):
        taken = rng.choice(("u32", "u64", "u16"))
        index = writer.expression("u32", 1, "s")
        reads.append(f"  {writer.target(taken)} = (({taken}*)lds)[{index} % LANES];")
    return [_Phase([f"  {place} = {value};"], shares=True), _Phase(reads, shares=True)]


def _atomics(writer: _Writer) -> list[_Phase]:
    """Lanes meet in a few words of LDS or of global memory, by an operation whose order does not show."""
    rng = writer.rng
    if rng.random() < 0.5:
        memory, (name, kind) = "lds", (rng.choice(_ATOMICS), rng.choice(_ATOMIC_TYPES))
    else:  # no barrier keeps workgroups apart
        memory, (name, kind) = "shared", writer.shared_operation
    value, index = writer.expression(kind, 2, "s"), writer.expression("u32", 1, "s")
    line = f"  __atomic_fetch_{name}(&(({kind}*){memory})[{index} % {MEETING}], {value}, __ATOMIC_RELAXED);"
    if rng.random() < 0.5:
        line = f"  if ({writer.expression('i32', 1, 's')} > 0){line}"
    read = f"  {writer.target('u32')} ^= lds[lane % 64];"
    return [_Phase([line], shares=True), _Phase([read], shares=True)]


def _crossing(writer: _Writer) -> list[_Phase]:
    target, value, other = (writer.target("u32") for _ in range(3))
    return [_Phase([target, value, other], across=_random_across(writer.rng))]


def program(seed: int) -> str:
    """C++ of one program: kernel ``device_<seed>`` for the GPU, function ``host_<seed>`` otherwise."""
    writer = _Writer(seed)
    uniform = writer.statements(writer.rng.randrange(2, 7), 2, "q")
    phases = _phases(writer)
    text = [f"namespace program_{seed} {{"]
    text += ["DEVICE void uniform(State& q, const u32* in, u32* table) {", *uniform, "}"]
    for number, phase in enumerate(phases):
        if not phase.across:
            inline = "__attribute__((noinline))" if phase.called else "inline"
            text += [f"DEVICE {inline} void phase_{number}({_PARAMETERS}) {{", *phase.lines, "}"]
    text += ["}  // namespace", "#ifdef __HIP__"]
    text += [_DEVICE_BEGIN.format(seed=seed), *_device_calls(phases), _DEVICE_END, "#else"]
    text += [_HOST_BEGIN.format(seed=seed), *_host_calls(phases), _HOST_END, "#endif"]
    return "\n".join(text)


def _device_calls(phases: list[_Phase]) -> list[str]:
    lines = []
    for number, phase in enumerate(phases):
        if phase.across:
            target, value, other = phase.lines
            lines.append(f"  {{ u32 value = {value}, other = {other}; {target} = {phase.across.device}; }}")
        else:
            lines.append(f"  phase_{number}(s, q, mine, table, lds, shared, lane);")
        if phase.shares:
            lines.append("  barrier();")
    return lines


def _host_calls(phases: list[_Phase]) -> list[str]:
    lines = []
    for number, phase in enumerate(phases):
        if phase.across:
            target, value, other = (name.removeprefix("s.") for name in phase.lines)
            lines.append(_HOST_ACROSS.format(target=target, value=value, other=other, across=phase.across.host))
        else:
            call = f"phase_{number}(s[i], q, mine + i * INPUTS, table[i], lds, shared, i);"
            lines.append(f"    for (u32 i = 0; i < LANES; ++i) {call}")
    return lines


_PARAMETERS = "State& s, const State& q, const u32* in, u32* table, u32* lds, u32* shared, u32 lane"

_DEVICE_BEGIN = """\
extern "C" __attribute__((global, amdgpu_flat_work_group_size(LANES, LANES)))
void device_{seed}(const u32* in, u64* out, u32* shared, Words words) {{
  using namespace program_{seed};
  __attribute__((shared, aligned(8))) static u32 lds[2 * LANES];
  u32 lane = __builtin_amdgcn_workitem_id_x(), index = __builtin_amdgcn_workgroup_id_x() * LANES + lane;
  u32 lane_id = lane % 64;
  State q, s;
  u32 table[8];
  start(q, table, words.w);
  uniform(q, in, table);
  const u32* mine = in + index * INPUTS;
  start(s, table, mine);"""
_DEVICE_END = """\
  finish(out + index * OUTPUTS, s, table);
}"""

_HOST_BEGIN = """\
extern "C" void host_{seed}(const u32* in, u64* out, u32* shared, const Words* words, u32 groups) {{
  using namespace program_{seed};
  for (u32 group = 0; group < groups; ++group) {{
    State q, s[LANES];
    u32 table[LANES][8];
    alignas(8) u32 lds[2 * LANES];
    start(q, table[0], words->w);
    uniform(q, in, table[0]);
    const u32* mine = in + group * LANES * INPUTS;
    for (u32 i = 0; i < LANES; ++i) start(s[i], table[i], mine + i * INPUTS);"""
_HOST_ACROSS = """\
    for (u32 wave = 0; wave < LANES; wave += 64) {{
      u32 value[64], other[64];
      for (u32 lane = 0; lane < 64; ++lane) value[lane] = s[wave + lane].{value}, other[lane] = s[wave + lane].{other};
      for (i32 lane = 0; lane < 64; ++lane) s[wave + lane].{target} = {across};
    }}"""
_HOST_END = """\
    for (u32 i = 0; i < LANES; ++i) finish(out + (group * LANES + i) * OUTPUTS, s[i], table[i]);
  }
}"""


def _state() -> str:
    """The type of a lane's variables, made of its words of input and turned into its words of output."""
    fields, begin, end, word = [], [], [], 0
    for kind, names in VARIABLES.items():
        fields.append(f"  {kind} {', '.join(names)};")
        for name in names:
            if kind.endswith("64"):
                begin.append(f"  s.{name} = bits_as<{kind}>((u64)w[{word + 1}] << 32 | w[{word}]);")
            elif kind.endswith("16"):
                begin.append(f"  s.{name} = bits_as<{kind}>((u16)w[{word}]);")
            else:
                begin.append(f"  s.{name} = bits_as<{kind}>(w[{word}]);")
            value = f"bits(s.{name})" if kind.startswith("f") else f"s.{name}"
            end.append(f"  out[{len(end)}] = (u64){value};")
            word += 2 if kind.endswith("64") else 1
    assert word <= INPUTS
    return "\n".join([
        f"enum {{ LANES = {LANES}, INPUTS = {INPUTS}, OUTPUTS = {OUTPUTS} }};",
        "struct Words { u32 w[INPUTS]; };",
        "struct State {", *fields, "};",
        "DEVICE inline void start(State& s, u32* table, const u32* w) {", *begin,
        "  for (u32 i = 0; i < 8; ++i) table[i] = w[INPUTS - 1 - i];", "}",
        "DEVICE inline void finish(u64* out, const State& s, const u32* table) {", *end,
        f"  for (u32 i = 0; i < 8; ++i) out[{len(end)} + i] = table[i];", "}",
    ])  # fmt: skip


OUTPUTS = sum(COUNTS.values()) + 8  # words of output a lane


def translation_unit(seeds: list[int]) -> str:
    """C++ of several programs."""
    return "\n".join(['#include "prelude.h"', _state(), *map(program, seeds)]) + "\n"
