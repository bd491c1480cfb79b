"""Loops of kernels ask for memory ahead, which no result shows."""

import subprocess

import compiled
import pytest

import tf_optim_ext
from tf_optim_ext import build
from tf_optim_ext.codegen import cpp

pytestmark = pytest.mark.once


@pytest.mark.parametrize("optimizer", [tf_optim_ext.AdamW, tf_optim_ext.Lamb])
def test_compilers_keep_it(optimizer, tmp_path):
    """They may drop a prefetch without a word."""
    program = optimizer()._program()
    source = tmp_path / "kernels.cc"
    source.write_text(cpp.emit([(optimizer.__name__, program)]))
    commands, _ = build.compile_commands(compiled.find_compiler(), source, tmp_path, None)
    command = ["-S" if argument == "-c" else argument for argument in commands[-1]]
    subprocess.run(command, check=True, capture_output=True)
    code = (tmp_path / command[-1]).read_text()
    arrays = sum(len(set().union(*program.accesses(p))) for p in range(program.passes))
    assert source.read_text().count("__builtin_prefetch") == arrays
    assert code.count("prefetch") + code.count("prfm") >= arrays
