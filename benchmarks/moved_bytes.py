"""Bytes that a step cannot avoid to move."""

from tf_optim_ext.rule import Program


def per_weight(program: Program) -> int:
    """What the passes of a program read and write of each weight, in float32."""
    passes = [program.accesses(stage) for stage in range(program.passes)]
    return 4 * sum(len(reads) + len(writes) for reads, writes in passes)
