"""C++ source of the native kernels, written from traced rules when the package is built.

`python -m tf_optim_ext.build --source AdamW` prints what is emitted for an optimizer.

A program becomes one function per pass over memory, with one loop over the elements that the
compiler vectorises, and one function per pass that computes, in double, the scalars the loop needs.
The driver around them (formats, threads, order of reductions) is `csrc/driver.h`.
"""

import pathlib
import re

from tf_optim_ext.codegen import expressions
from tf_optim_ext.rule import Program

# Of a strip of elements, and of the lanes in the end.
REDUCTIONS = {
    "reduce_sum": ("add_strip", "sum_of_lanes"),
    "reduce_max": ("max_strip", "max_of_lanes"),
    "global_sum": ("add_strip", "sum_of_lanes"),
}


def _limit(name):
    """A constant of the frame that kernels run in."""
    header = pathlib.Path(__file__).parent.parent / "csrc" / "kernel.h"
    return int(re.findall(rf"constexpr int {name} = (\d+);", header.read_text())[0])


MAX_ARRAYS, MAX_SCALARS = _limit("kMaxArrays"), _limit("kMaxScalars")
MAX_STATE, MAX_REDUCTIONS = _limit("kMaxState"), _limit("kMaxReductions")
# The arrays of a variable do not overlap; a compiler gives up comparing the addresses of many.
INDEPENDENT = "#pragma GCC ivdep"
COMBINE = {"reduce_sum": "kSum", "reduce_max": "kMax", "global_sum": "kGlobalSum"}


def kernel_name(program):
    return f"rule_{program.fingerprint}"


def _scalars_function(program, stage):
    handed = expressions.handed_over(program, stage)
    lines, body = expressions.scalar_body(program, handed)
    for position, i in enumerate(handed):
        lines.append(f"c[{position}] = static_cast<float>({body.expression(i)});")
    signature = f"static void scalars{stage}(const double* h, const double* r, float* c)"
    return _function(signature, ["(void)h, (void)r, (void)c;", *lines])


def _finish_function(program):
    outputs = program.scalar_outputs
    lines, body = expressions.scalar_body(program, list(outputs.values()))
    for position, name in enumerate(program.state_scalars):
        before = f"h[{program.scalars.index(name)}]"
        value = body.expression(outputs[name]) if name in outputs else before
        lines.append(f"state[{position}] = {value};")
    signature = "static void finish(const double* h, const double* r, double* state)"
    return _function(signature, ["(void)h, (void)r;", *lines])


def _load_lines(program, stage, handed):
    reads, writes = program.accesses(stage)
    lines = []
    for position, name in enumerate(expressions.array_names(program)):
        if name in reads or name in writes:
            const = "" if name in writes else "const "
            lines.append(f"{const}float* __restrict p_{name} = a[{position}];")
    for position, i in enumerate(handed):
        name = expressions.local_name(program, position, i)
        if program.nodes[i].is_condition:
            lines.append(f"const bool {name} = c[{position}] != 0.0f;")
        else:
            lines.append(f"const float {name} = c[{position}];")
    return lines


def _pass_function(program, stage):
    handed = expressions.handed_over(program, stage)
    head = ["(void)c, (void)r;", *_load_lines(program, stage, handed)]
    arrays, body = expressions.loop_body(program, stage, handed)
    loads = [f"const float v_{name} = p_{name}[i];" for name in arrays]
    signature = (
        f"static void pass{stage}(const int64_t n, float* const* a, const float* c, double* r)"
    )
    stores = []
    if stage == program.passes - 1:
        stores = [f"p_{name}[i] = {body.expression(i)};" for name, i in program.outputs.items()]
    reductions = program.reductions(stage)
    if not reductions:
        return _function(
            signature,
            [*head, *_blocks(program, stage, "0", "n", [*loads, *body.statements, *stores])],
        )
    lines = [*head]
    lines += [f"double lanes{k}[kLanes] = {{}};" for k in range(len(reductions))]
    lines.append("for (int64_t begin = 0; begin < n; begin += kStrip) {")
    lines.append("  const int64_t m = n - begin < kStrip ? n - begin : kStrip;")
    lines += [f"  float x{k}[kStrip];" for k in range(len(reductions))]
    terms = [
        f"x{k}[i - begin] = {body.expression(program.nodes[i].args[0])};"
        for k, i in enumerate(reductions)
    ]
    inner = [*loads, *body.statements, *terms, *stores]
    lines += [f"  {line}" for line in _blocks(program, stage, "begin", "begin + m", inner)]
    functions = [REDUCTIONS[program.nodes[i].op] for i in reductions]
    lines += [f"  {of_strip}(lanes{k}, x{k}, m);" for k, (of_strip, _) in enumerate(functions)]
    lines.append("}")
    lines += [f"r[{k}] = {of_lanes}(lanes{k});" for k, (_, of_lanes) in enumerate(functions)]
    return _function(signature, lines)


def _blocks(program, stage, begin, end, lines):
    """A loop over elements, in blocks, each of which prefetches memory ahead of itself."""
    reads, writes = program.accesses(stage)
    fetched = [name for name in expressions.array_names(program) if name in reads or name in writes]
    return [
        f"for (int64_t block = {begin}; block < {end}; block += kFetched) {{",
        "  // Beyond n may be what is not needed: other rows of a table.",
        "  const int64_t ahead = block + kAhead;",
        "  for (int64_t i = ahead; i < ahead + kFetched && ahead + kFetched <= n; i += kLine) {",
        *(f"    __builtin_prefetch(p_{name} + i);" for name in fetched),
        "  }",
        f"  const int64_t stop = {end} - block < kFetched ? {end} : block + kFetched;",
        INDEPENDENT,
        "  for (int64_t i = block; i < stop; ++i) {",
        *(f"    {line}" for line in lines),
        "  }",
        "}",
    ]


def _function(signature, lines):
    return "\n".join([f"{signature} {{", *(f"  {line}" for line in lines), "}"])


def _mask(program, names):
    return sum(1 << i for i, name in enumerate(expressions.array_names(program)) if name in names)


def _check_limits(program, title):
    scalars = max(len(expressions.handed_over(program, stage)) for stage in range(program.passes))
    reductions = sum(len(program.reductions(stage)) for stage in range(program.passes))
    for count, limit, what in (
        (len(program.slots), MAX_ARRAYS - 2, "slots"),
        (scalars, MAX_SCALARS, "scalars in one pass"),
        (len(program.state_scalars), MAX_STATE, "scalars as state"),
        (reductions, MAX_REDUCTIONS, "reductions"),
    ):
        if count > limit:
            raise ValueError(f"{title} has {count} {what}; a native kernel has at most {limit}.")


def emit_program(program, title):
    """C++ source of one program: a namespace with its functions and a `Kernel kernel`."""
    parts, rows = [], []
    for stage in range(program.passes):
        parts += [_scalars_function(program, stage), _pass_function(program, stage)]
        reads, writes = program.accesses(stage)
        combine = ", ".join(COMBINE[program.nodes[i].op] for i in program.reductions(stage))
        rows.append(
            f"    {{scalars{stage}, pass{stage}, {_mask(program, reads):#x}, "
            f"{_mask(program, writes):#x}, {len(program.reductions(stage))}, {{{combine}}}}},"
        )
    _check_limits(program, title)
    name = kernel_name(program)
    table = "\n".join(["static const Pass passes[] = {", *rows, "};"])
    if program.state_scalars:
        parts.append(_finish_function(program))
    kernel = (
        f'static const Kernel kernel = {{"{name}", {len(program.slots)}, '
        f"{len(program.hyperparameters)}, {len(program.variable_scalars)}, "
        f"{len(program.optimizer_scalars)}, {str(program.uses_size).lower()}, "
        f"{str(program.by_row).lower()}, {program.passes}, passes, "
        f"{'finish' if program.state_scalars else 'nullptr'}}};"
    )
    arrays = ", ".join(expressions.array_names(program))
    scalars = ", ".join(program.scalars)
    comment = f"// {title}\n// arrays: {arrays}\n// scalars: {scalars}"
    return "\n\n".join(
        [f"{comment}\nnamespace {name} {{", *parts, table, kernel, f"}}  // namespace {name}"]
    )


def emit(programs):
    """C++ source of all kernels.

    Args:
        programs: list of pairs of a title, for the reader, and a `Program`.

    Returns:
        The text of a source file, to be compiled once per instruction set.
    """
    titles: dict[str, list[str]] = {}
    unique: dict[str, Program] = {}
    for title, program in programs:
        titles.setdefault(program.fingerprint, []).append(title)
        unique[program.fingerprint] = program
    parts = [
        "// Generated from the rules in Python by tf_optim_ext/codegen/cpp.py.",
        '#include "kernel_frame.h"\n\nnamespace tf_optim_ext {\nnamespace TF_OPTIM_EXT_ISA {',
    ]
    parts += [emit_program(p, ", ".join(titles[key])) for key, p in unique.items()]
    pointers = "\n".join(f"    &{kernel_name(p)}::kernel," for p in unique.values())
    parts.append(f"static const Kernel* const kernels[] = {{\n{pointers}\n}};")
    parts.append(
        f"extern const Table table = {{{len(unique)}, kernels, load, store, store_randomly, "
        "sum_of_squares, sum_of_squares_of_doubles, stream};\n\n"
        "}  // namespace TF_OPTIM_EXT_ISA\n}  // namespace tf_optim_ext"
    )
    return "\n\n".join(parts) + "\n"
