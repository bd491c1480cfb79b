"""C++ source of the native kernels, written from traced rules when the package is built.

`python -m tf_optim_ext.build --source AdamW` prints what is emitted for an optimizer.

A program becomes one function per pass over memory, with one loop over the elements that the
compiler vectorises, and one function per pass that computes, in double, the scalars the loop needs.
The driver around them (formats, threads, order of reductions) is `csrc/driver.h`.
"""

from tf_optim_ext.rule import Program, language

FLOAT_OPERATIONS = {
    "add": "({} + {})",
    "subtract": "({} - {})",
    "multiply": "({} * {})",
    "divide": "({} / {})",
    "power": "power({}, {})",
    "negative": "(-{})",
    "sqrt": "__builtin_sqrtf({})",
    "cbrt": "cube_root({})",
    "absolute": "__builtin_fabsf({})",
    "sign": "sign({})",
    "exp": "exponential({})",
    "log": "logarithm({})",
    "minimum": "minimum({}, {})",
    "maximum": "maximum({}, {})",
    "less": "({} < {})",
    "less_equal": "({} <= {})",
    "greater": "({} > {})",
    "greater_equal": "({} >= {})",
    "equal": "({} == {})",
    "not_equal": "({} != {})",
    "where": "({} ? {} : {})",
}
DOUBLE_OPERATIONS = {
    **FLOAT_OPERATIONS,
    "power": "pow({}, {})",
    "sqrt": "sqrt({})",
    "cbrt": "cbrt({})",
    "absolute": "fabs({})",
    "exp": "exp({})",
    "log": "log({})",
}
# Of a strip of elements, and of the lanes in the end.
REDUCTIONS = {
    "reduce_sum": ("add_strip", "sum_of_lanes"),
    "reduce_max": ("max_strip", "max_of_lanes"),
    "global_sum": ("add_strip", "sum_of_lanes"),
}
# kMaxArrays, kMaxScalars, kMaxState and kMaxReductions in csrc/kernel.h.
MAX_ARRAYS, MAX_SCALARS, MAX_STATE, MAX_REDUCTIONS = 16, 64, 16, 8
# The arrays of a variable do not overlap; a compiler gives up comparing the addresses of many.
INDEPENDENT = "#pragma GCC ivdep"
COMBINE = {"reduce_sum": "kSum", "reduce_max": "kMax", "global_sum": "kGlobalSum"}


def kernel_name(program):
    return f"rule_{program.fingerprint}"


def _literal(value, suffix):
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    return repr(value) + suffix if value >= 0 else f"({value!r}{suffix})"


class _Body:
    """The statements of one function: shared nodes get a name, others are written in place."""

    def __init__(self, program, ctype, operations, leaves):
        self._program = program
        self._ctype = ctype
        self._operations = operations
        self._names = dict(leaves)
        self.statements = []

    def write(self, indices, shared):
        for i in indices:
            if i not in self._names and i in shared:
                node = self._program.nodes[i]
                text = self._inline(i)
                self._names[i] = f"t{i}"
                ctype = "bool" if node.is_condition else self._ctype
                self.statements.append(f"const {ctype} t{i} = {text};")

    def expression(self, i):
        return self._names[i] if i in self._names else self._inline(i)

    def _inline(self, i):
        nodes = self._program.nodes
        node = nodes[i]
        if node.op == "constant":
            return _literal(node.data, "f" if self._ctype == "float" else "")
        operation = self._operations[node.op]
        if node.op in ("minimum", "maximum") and node.tensor:
            # A scalar bound takes fewer instructions.
            if not nodes[node.args[0]].tensor:
                operation = f"{node.op}_of({{1}}, {{0}})"
            elif not nodes[node.args[1]].tensor:
                operation = f"{node.op}_of({{0}}, {{1}})"
        return operation.format(*(self.expression(a) for a in node.args))


def _shared(program, indices, roots):
    """The nodes among `indices` that are used more than once or that a `where` chooses from.

    Compilers turn a choice between two names into vector instructions, between expressions not
    always.
    """
    uses = list(roots)
    for i in indices:
        node = program.nodes[i]
        uses.extend(node.args * (2 if node.op == "where" else 1))
    return {i for i in indices if uses.count(i) > 1 and program.nodes[i].op != "constant"}


def _handed_over(program, stage):
    """Scalars that the loop of a pass needs, in the order in which it takes them."""
    handed = []
    for i in program.needed(program.roots(stage)):
        for arg in program.nodes[i].args:
            node = program.nodes[arg]
            if not node.tensor and node.op != "constant" and arg not in handed:
                handed.append(arg)
    return handed


def _scalars_function(program, stage):
    handed = _handed_over(program, stage)
    lines, body = _scalar_body(program, handed)
    for position, i in enumerate(handed):
        lines.append(f"c[{position}] = static_cast<float>({body.expression(i)});")
    signature = f"static void scalars{stage}(const double* h, const double* r, float* c)"
    return _function(signature, ["(void)h, (void)r, (void)c;", *lines])


def _finish_function(program):
    outputs = program.scalar_outputs
    lines, body = _scalar_body(program, list(outputs.values()))
    for position, name in enumerate(program.state_scalars):
        before = f"h[{program.scalars.index(name)}]"
        value = body.expression(outputs[name]) if name in outputs else before
        lines.append(f"state[{position}] = {value};")
    signature = "static void finish(const double* h, const double* r, double* state)"
    return _function(signature, ["(void)h, (void)r;", *lines])


def _scalar_body(program, roots):
    """Statements that compute scalars, in double."""
    cone = program.cone(roots, lambda i: not program.nodes[i].tensor)
    leaves, lines = {}, []
    reductions = [i for s in range(program.passes) for i in program.reductions(s)]
    for i in cone:
        node = program.nodes[i]
        if node.op == "scalar":
            leaves[i] = f"h_{node.data}"
            lines.append(f"const double {leaves[i]} = h[{program.scalars.index(node.data)}];")
        elif node.op in language.REDUCTIONS:
            leaves[i] = f"r[{reductions.index(i)}]"
    body = _Body(program, "double", DOUBLE_OPERATIONS, leaves)
    body.write(cone, _shared(program, cone, roots))
    return lines + body.statements, body


def _array_names(program):
    return ("w", "g", *program.slots)


def _load_lines(program, stage, handed):
    reads, writes = program.accesses(stage)
    lines = []
    for position, name in enumerate(_array_names(program)):
        if name in reads or name in writes:
            const = "" if name in writes else "const "
            lines.append(f"{const}float* __restrict p_{name} = a[{position}];")
    for position, i in enumerate(handed):
        if program.nodes[i].is_condition:
            lines.append(f"const bool {_local_name(program, position, i)} = c[{position}] != 0.0f;")
        else:
            lines.append(f"const float {_local_name(program, position, i)} = c[{position}];")
    return lines


def _local_name(program, position, i):
    node = program.nodes[i]
    return f"h_{node.data}" if node.op == "scalar" else f"c{position}"


def _loop_body(program, stage, handed):
    needed = program.needed(program.roots(stage))
    leaves = {i: _local_name(program, position, i) for position, i in enumerate(handed)}
    loads = []
    for i in needed:
        if program.nodes[i].op == "input":
            name = program.nodes[i].data
            leaves[i] = f"v_{name}"  # a slot may be called `i` or `double`
            loads.append(f"const float v_{name} = p_{name}[i];")
    body = _Body(program, "float", FLOAT_OPERATIONS, leaves)
    body.write(needed, _shared(program, needed, program.roots(stage)))
    return loads, body


def _pass_function(program, stage):
    handed = _handed_over(program, stage)
    head = ["(void)c, (void)r;", *_load_lines(program, stage, handed)]
    loads, body = _loop_body(program, stage, handed)
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
    fetched = [name for name in _array_names(program) if name in reads or name in writes]
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
    return sum(1 << i for i, name in enumerate(_array_names(program)) if name in names)


def _check_limits(program, title):
    scalars = max(len(_handed_over(program, stage)) for stage in range(program.passes))
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
    arrays = ", ".join(_array_names(program))
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
