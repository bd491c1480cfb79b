"""CUDA source of a program: kernels that update many variables in one launch.

`python -m tf_optim_ext.build --cuda AdamW` prints what is emitted for an optimizer.

A program becomes, for each pass over memory, a kernel that computes in double the scalars that its
loop needs, where the step count and the learning rate are: a row for each variable, or one for all;
the loop itself, of which a block does a chunk of a variable; and, if it reduces, a kernel that adds
up the chunks. The frame around them is `csrc/cuda_frame.h`; `csrc/cuda_launch.cc` calls them.

Sums are added up in an order that depends on the size of a variable only: by thread of a chunk of
fixed size, by chunk, and by variable.
"""

import dataclasses
import functools
import pathlib

from tf_optim_ext.codegen import expressions

SOURCES = pathlib.Path(__file__).parent.parent / "csrc"
DECLARATIONS = ("random_bits.h", "cuda_tables.h")
MATH, FRAME = "kernel_math.h", "cuda_frame.h"

# Elements of a variable that a block works on.
CHUNK = 8192
# What arguments of a kernel may take, in multiples of 8 bytes: anywhere, and since CUDA 12.1.
SMALL_TABLES, LARGE_TABLES = 4096, 32760
# Bytes of `PassHead` and `RowHead`.
PASS_HEAD, ROW_HEAD = 56, 96

# Products and sums are not fused, for the same reasons as on processors, whose results these are
# then, bit by bit, if nothing is reduced; memory is slower. Denormals are flushed likewise.
OPTIONS = (
    "--std=c++17",
    "--fmad=false",
    "--ftz=true",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--disable-warnings",  # of functions that are not used
)

FLOAT_OPERATIONS = {
    **expressions.FLOAT_OPERATIONS,
    "sqrt": "sqrtf({})",
    "absolute": "fabsf({})",
}

# What a compiler without any headers lacks; tests also use compilers that have them.
PRELUDE = """\
#ifdef __CUDACC_RTC__
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fc00000)
#else
#include <math.h>
#include <stdint.h>
#include <string.h>
#endif
#define TF_OPTIM_EXT_INLINE static __device__ __forceinline__
"""


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of the kernels of a program.

    Attributes:
        converts: whether weights, gradients or slots may be of 16 bits.
        table_bytes: what the arguments of a kernel may take.
    """

    converts: bool = False
    table_bytes: int = SMALL_TABLES

    def pass_variables(self, arrays):
        """How many variables of so many arrays one launch of a pass updates at most."""
        return (self.table_bytes - PASS_HEAD) // (8 * arrays + 8 + 3 * 4)

    def row_variables(self, numbers=0):
        """Of how many variables, with so many numbers each as state, one launch does the rest."""
        return (self.table_bytes - ROW_HEAD) // (8 * max(1, numbers) + 8 + 2 * 4)


def why_not(program):
    """Why there are no kernels for a program, or None."""
    return "the rule runs by row" if program.by_row else None


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the launcher must know of kernels: `CudaShape` in csrc/cuda_launch.h."""

    arrays: int
    hyperparameters: int
    variable_scalars: int
    optimizer_scalars: int
    uses_size: int
    scalars: int
    chunk: int
    pass_variables: int
    row_variables: int
    reductions: tuple

    def numbers(self):
        """As the library takes them."""
        return [*dataclasses.astuple(self)[:-1], *self.reductions]

    def constants(self, converts):
        """The same as constants of the source."""
        values = {
            "kArrays": self.arrays,
            "kHyperparameters": self.hyperparameters,
            "kState": self.variable_scalars + self.optimizer_scalars,
            "kReductions": sum(self.reductions),
            "kScalars": self.scalars,
            "kUsesSize": self.uses_size,
            "kChunk": self.chunk,
            "kPassVariables": self.pass_variables,
            "kRowVariables": self.row_variables,
        }
        lines = [f"constexpr int {name} = {value};" for name, value in values.items()]
        return "\n".join([f"#define CONVERTS {int(converts)}", *lines])


def shape_of(program, form):
    """The `Shape` of a program."""
    arrays = len(expressions.array_names(program))
    return Shape(
        arrays,
        len(program.hyperparameters),
        len(program.variable_scalars),
        len(program.optimizer_scalars),
        int(program.uses_size),
        _scalars(program),
        CHUNK,
        form.pass_variables(arrays),
        form.row_variables(len(program.state_scalars)),
        tuple(len(program.reductions(stage)) for stage in range(program.passes)),
    )


def shape_of_norms(form):
    """The `Shape` of `emit_norms`."""
    return Shape(1, 0, 0, 0, 0, 1, CHUNK, form.pass_variables(1), form.row_variables(), (1,))


def emit(program, form=Form()):
    """CUDA source of a program, complete: it includes nothing.

    Args:
        program: a `rule.Program` for which `why_not` returns None.
        form: a `Form`.
    """
    parts = []
    for stage in range(program.passes):
        parts += [_scalars_kernel(program, stage), _pass_kernel(program, stage)]
        if program.reductions(stage):
            parts.append(_totals_kernel(program, stage))
    if program.state_scalars:
        parts.append(_finish_kernel(program))
    return _complete(shape_of(program, form), form, parts)


def emit_norms(form=Form()):
    """CUDA source of sums of squares of arrays, in double: none of float32 overflows."""
    lines = [
        "const Place place = find_place(table);",
        "const Pointer p = array_of(table, place, 0);",
        "const bool aligned = (address_of(p) & 15u) == 0;",
        "__shared__ double of_threads[kThreads];",
        "FOR_EACH_THREAD {",
        "  double total = 0.0;",
        "  for (int first = kQuad * thread; first < place.size; first += kQuad * kThreads) {",
        "    const int count = place.size - first;",
        "    const Quad quad = load(p, first, aligned && count >= kQuad, count);",
        "    for (int k = 0; k < kQuad; ++k) {",
        "      const double x = static_cast<double>(quad.x[k]);",
        "      total += x * x;",
        "    }",
        "  }",
        "  of_threads[thread] = total;",
        "}",
        "combine_block<false>(of_threads);",
        "FOR_EACH_THREAD {",
        "  if (thread == 0)",
        "    table.head.partials[table.head.first_chunk + blockIdx.x] = of_threads[0];",
        "}",
    ]
    totals = ["combine_chunks<false>(rows, 0, 0);"]
    kernels = [
        _kernel("scalars0", "RowTable rows", []),
        _kernel("pass0", "PassTable table", lines, "kThreads"),
        _kernel("totals0", "RowTable rows", totals, "kThreads"),
    ]
    return _complete(shape_of_norms(form), form, kernels)


def _complete(shape, form, kernels):
    declarations, math, frame = _texts()
    parts = [PRELUDE, *declarations, "using namespace tf_optim_ext;", math]
    return "\n\n".join([*parts, shape.constants(form.converts), frame, *kernels]) + "\n"


@functools.cache
def _texts():
    texts = [(SOURCES / name).read_text() for name in (*DECLARATIONS, MATH, FRAME)]
    return texts[:-2], texts[-2], texts[-1]


def _scalars(program):
    """Length of a row of `c`: the first factor of gradients, and what a loop is handed."""
    stages = range(program.passes)
    return 1 + max(len(expressions.handed_over(program, stage)) for stage in stages)


def _reductions(program):
    return [i for stage in range(program.passes) for i in program.reductions(stage)]


def _kernel(name, table, lines, threads=None):
    bounds = f"__launch_bounds__({threads}) " if threads else ""
    head = f'extern "C" __global__ void {bounds}{name}(const __grid_constant__ {table}) {{'
    return "\n".join([head, *(f"  {line}" for line in lines), "}"])


def _row_lines(program, done):
    """The row of a variable, and the results of the first `done` reductions."""
    lines = [
        "const int64_t row = rows.head.first + blockIdx.x;",
        "const double* const h = rows.head.h + row * kWidth;",
    ]
    if done:
        values = []
        for k, i in enumerate(_reductions(program)[:done]):
            is_global = program.nodes[i].op == "global_sum"
            values.append(f"{'over_variables' if is_global else 'of_variable'}(rows, {k})")
        lines.append(f"const double r[] = {{{', '.join(values)}}};")
    return lines


def _scalars_kernel(program, stage):
    handed = expressions.handed_over(program, stage)
    done = sum(len(program.reductions(s)) for s in range(stage))
    lines = ["fill_row(rows);"] if stage == 0 else []
    lines += [*_row_lines(program, done), "float* const c = rows.head.c + row * kScalars;"]
    statements, body = expressions.scalar_body(program, handed)
    lines += statements
    for position, i in enumerate(handed, 1):
        lines.append(f"c[{position}] = static_cast<float>({body.expression(i)});")
    return _kernel(f"scalars{stage}", "RowTable rows", lines)


def _finish_kernel(program):
    outputs = program.scalar_outputs
    lines = _row_lines(program, len(_reductions(program)))
    statements, body = expressions.scalar_body(program, list(outputs.values()))
    lines += statements
    for position, name in enumerate(program.state_scalars):
        if name in outputs:
            # Of the numbers for all variables, every row would write the same.
            condition = "if (row == 0) " if name in program.optimizer_scalars else ""
            value = body.expression(outputs[name])
            lines.append(f"{condition}*rows.state[blockIdx.x][{position}] = {value};")
    return _kernel("finish", "RowTable rows", lines)


def _is_max(program, i):
    return str(program.nodes[i].op == "reduce_max").lower()


def _totals_kernel(program, stage):
    done = sum(len(program.reductions(s)) for s in range(stage))
    lines = [
        f"combine_chunks<{_is_max(program, i)}>(rows, {k}, {done + k});"
        for k, i in enumerate(program.reductions(stage))
    ]
    return _kernel(f"totals{stage}", "RowTable rows", lines, "kThreads")


def _pass_kernel(program, stage):
    handed = expressions.handed_over(program, stage)
    inputs, body = expressions.loop_body(program, stage, handed, FLOAT_OPERATIONS)
    reads, writes = program.accesses(stage)
    reductions = program.reductions(stage)
    outputs = program.outputs if writes else {}
    used = [
        (position, name)
        for position, name in enumerate(expressions.array_names(program))
        if name in reads or name in writes
    ]
    lines = [
        "const Place place = find_place(table);",
        "const float* const __restrict__ c = row_of_scalars(table, place);",
    ]
    for position, i in enumerate(handed):
        name = expressions.local_name(program, position, i)
        kind, test = ("bool", " != 0.0f") if program.nodes[i].is_condition else ("float", "")
        lines.append(f"const {kind} {name} = c[{position + 1}]{test};")
    if "g" in reads:
        lines.append("const float first_factor = c[0];")
    lines += [f"const Pointer p_{name} = array_of(table, place, {k});" for k, name in used]
    addresses = " | ".join(f"address_of(p_{name})" for _, name in used)
    lines.append(f"const bool aligned = (({addresses}) & 15u) == 0;")
    if reductions:
        lines.append(f"__shared__ double of_threads[{len(reductions)}][kThreads];")
    lines.append("FOR_EACH_THREAD {")
    lines += [f"  double total{k} = 0.0;" for k in range(len(reductions))]
    lines += [
        "  for (int first = kQuad * thread; first < place.size; first += kQuad * kThreads) {",
        "    const int count = place.size - first;",
        "    const bool whole = aligned && count >= kQuad;",
    ]
    for name in inputs:
        function = "load_once" if name == "g" else "load"
        lines.append(f"    const Quad in_{name} = {function}(p_{name}, first, whole, count);")
    lines += [f"    Quad out_{name};" for name in outputs]
    lines += [f"    float x{k}[kQuad];" for k in range(len(reductions))]
    lines += ["#pragma unroll", "    for (int k = 0; k < kQuad; ++k) {"]
    for name in inputs:
        factor = " * first_factor" if name == "g" else ""
        lines.append(f"      const float v_{name} = in_{name}.x[k]{factor};")
    lines += [f"      {statement}" for statement in body.statements]
    lines += [f"      out_{name}.x[k] = {body.expression(i)};" for name, i in outputs.items()]
    for k, i in enumerate(reductions):
        term = body.expression(program.nodes[i].args[0])
        lines.append(f"      x{k}[k] = k < count ? {term} : 0.0f;")
    lines.append("    }")
    for name in outputs:
        arguments = f"p_{name}, first, whole, count, out_{name}"
        weights = f"store_weights(table, place, {arguments});"
        lines.append(f"    {weights if name == 'w' else f'store({arguments});'}")
    for k, i in enumerate(reductions):
        is_max = _is_max(program, i)
        lines.append(f"    total{k} = combined<{is_max}>(total{k}, combined<{is_max}>(x{k}));")
    lines.append("  }")
    lines += [f"  of_threads[{k}][thread] = total{k};" for k in range(len(reductions))]
    lines.append("}")
    for k, i in enumerate(reductions):
        lines.append(f"combine_block<{_is_max(program, i)}>(of_threads[{k}]);")
    if reductions:
        lines += ["FOR_EACH_THREAD {", "  if (thread == 0) {"]
        lines.append("    const int64_t chunk = table.head.first_chunk + blockIdx.x;")
        for k in range(len(reductions)):
            target = f"table.head.partials[{k} * table.head.chunks + chunk]"
            lines.append(f"    {target} = of_threads[{k}][0];")
        lines += ["  }", "}"]
    return _kernel(f"pass{stage}", "PassTable table", lines, "kThreads")
