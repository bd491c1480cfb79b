"""Shapes of the trainable variables of well-known models.

A step's time depends on the shapes alone, so the benchmark needs no model and no download.
"""

import math
import re
from collections.abc import Sequence

Shape = tuple[int, ...]


def _dense(inputs: int, outputs: int) -> list[Shape]:
    return [(inputs, outputs), (outputs,)]


def _norm(channels: int) -> list[Shape]:
    return [(channels,)] * 2


def _convolution(size: int, inputs: int, outputs: int) -> list[Shape]:
    return [(size, size, inputs, outputs), *_norm(outputs)]


def matrices() -> list[Shape]:
    """Three large matrices: 50 million weights and next to no overhead per variable."""
    return [(4096, 4096)] * 3


def bert(width: int = 768, inner: int = 3072) -> list[Shape]:
    """BERT-base with its pooler: 199 variables, 109 million weights."""
    attention = 4 * _dense(width, width) + _norm(width)  # query, key, value, output
    block = attention + _dense(width, inner) + _dense(inner, width) + _norm(width)
    embeddings = [(rows, width) for rows in (30522, 512, 2)]  # words, positions, segments
    return embeddings + _norm(width) + 12 * block + _dense(width, width)


def resnet50() -> list[Shape]:
    """ResNet-50 as in the paper, convolutions without bias: 161 variables, 26 million weights."""
    found, channels = _convolution(7, 3, 64), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            if block == 0:
                found += _convolution(1, channels, 4 * width)
            found += _convolution(1, channels, width) + _convolution(3, width, width)
            found += _convolution(1, width, 4 * width)
            channels = 4 * width
    return found + _dense(channels, 1000)


def mlp() -> list[Shape]:
    """Five dense layers, ten small variables: what is left is the overhead of a step."""
    return _dense(784, 64) + 3 * _dense(64, 64) + _dense(64, 10)


MODELS = {model.__name__: model for model in (matrices, bert, resnet50, mlp)}


def of(model: str) -> list[Shape]:
    """Shapes of a model, or of a text such as "3*4096x4096+7".

    Raises:
        ValueError: it is neither.
    """
    if model in MODELS:
        return MODELS[model]()
    found: list[Shape] = []
    for part in model.split("+"):
        match = re.fullmatch(r"(?:([1-9]\d*)\*)?([1-9]\d*(?:x[1-9]\d*)*)", part)
        if match is None:
            raise ValueError(
                f"Shapes {model!r}; allowed are {', '.join(MODELS)}, and texts like "
                "'3*4096x4096+7': three matrices and a vector."
            )
        found += [tuple(map(int, match[2].split("x")))] * int(match[1] or 1)
    return found


def weights(shapes: Sequence[Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes)
