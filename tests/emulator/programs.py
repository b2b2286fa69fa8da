"""Random C++ functions that mean the same wherever they are compiled: one text for the host and for gfx908.

A program's lanes each hold a `State` of variables. It is a list of phases: text that every lane runs, with a barrier
between phases on the GPU, where the host simply runs one phase for all lanes before the next. Within a phase lanes
share nothing but what phases before it left in LDS; phases of their own move values across the lanes of a wave.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.emulator.crossing import Across, random_across
from tests.emulator.operations import CONSTANTS, COUNTS, OPERATIONS, TYPES, VARIABLES

LANES = 128  # a workgroup: two waves, so that barriers matter
INPUTS = 32  # words of input a lane
MEETING = 16  # places where lanes of all workgroups meet, of up to 8 bytes

_ATOMICS = ("add", "sub", "and", "or", "xor", "min", "max")
_ATOMIC_TYPES = ("u32", "i32", "u64")


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
        trips = f"({self.expression('u32', 1, of)} & 7)"  # computed again before every trip
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
    """What every lane does."""

    lines: list[str]
    shares: bool = False  # memory with other lanes, so that a barrier has to follow
    called: bool = False  # as a function of the GPU's own, not inlined


@dataclass(frozen=True)
class _Crossing:
    """Moves values across each wave: variables of a lane."""

    target: str
    value: str
    other: str
    across: Across


def _phases(writer: _Writer) -> list[_Phase | _Crossing]:
    phases: list[_Phase | _Crossing] = [_Phase(["  lds[lane] = lane;", "  lds[LANES + lane] = ~lane;"], shares=True)]
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


def _crossing(writer: _Writer) -> list[_Crossing]:
    target, value, other = (writer.target("u32") for _ in range(3))
    return [_Crossing(target, value, other, random_across(writer.rng))]


def program(seed: int) -> str:
    """C++ of one program: kernel ``device_<seed>`` for the GPU, function ``host_<seed>`` otherwise."""
    writer = _Writer(seed)
    uniform = writer.statements(writer.rng.randrange(2, 7), 2, "q")
    phases = _phases(writer)
    text = [f"namespace program_{seed} {{"]
    text += ["DEVICE void uniform(State& q, const u32* in, u32* table) {", *uniform, "}"]
    for number, phase in enumerate(phases):
        if isinstance(phase, _Phase):
            inline = "__attribute__((noinline))" if phase.called else "inline"
            text += [f"DEVICE {inline} void phase_{number}({_PARAMETERS}) {{", *phase.lines, "}"]
    text += ["}  // namespace", "#ifdef __HIP__"]
    text += [_DEVICE_BEGIN.format(seed=seed), *_device_calls(phases), _DEVICE_END, "#else"]
    text += [_HOST_BEGIN.format(seed=seed), *_host_calls(phases), _HOST_END, "#endif"]
    return "\n".join(text)


def _device_calls(phases: list[_Phase | _Crossing]) -> list[str]:
    lines = []
    for number, phase in enumerate(phases):
        if isinstance(phase, _Crossing):
            operands = f"u32 value = {phase.value}, other = {phase.other};"
            lines.append(f"  {{ {operands} {phase.target} = {phase.across.device}; }}")
            continue
        lines.append(f"  phase_{number}(s, q, mine, table, lds, shared, lane);")
        if phase.shares:
            lines.append("  barrier();")
    return lines


def _host_calls(phases: list[_Phase | _Crossing]) -> list[str]:
    lines = []
    for number, phase in enumerate(phases):
        if isinstance(phase, _Crossing):
            variables = {name: getattr(phase, name).removeprefix("s.") for name in ("target", "value", "other")}
            lines.append(_HOST_ACROSS.format(**variables, across=phase.across.host))
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
