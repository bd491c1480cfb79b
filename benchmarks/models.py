"""Shapes of the trainable variables of well-known models.

A step's time depends on the shapes alone, so the benchmark needs no model and no download.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence

Shape = tuple[int, ...]


def matrices() -> Iterator[Shape]:
    """Three large matrices: 50 million weights and next to no overhead per variable."""
    for _ in range(3):
        yield 4096, 4096


def bert() -> Iterator[Shape]:
    """BERT-base with its pooler: 199 variables, 109 million weights."""
    width, inner = 768, 3072
    for rows in (30522, 512, 2):  # words, positions, segments
        yield rows, width
    yield from _norm(width)
    for _ in range(12):
        for _ in range(4):  # query, key, value, output
            yield from _dense(width, width)
        yield from _norm(width)
        yield from _dense(width, inner)
        yield from _dense(inner, width)
        yield from _norm(width)
    yield from _dense(width, width)


def resnet50() -> Iterator[Shape]:
    """ResNet-50 as in the paper, convolutions without bias: 161 variables, 26 million weights."""
    yield from _convolution(7, 3, 64)
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            if block == 0:
                yield from _convolution(1, channels, 4 * width)
            yield from _convolution(1, channels, width)
            yield from _convolution(3, width, width)
            yield from _convolution(1, width, 4 * width)
            channels = 4 * width
    yield from _dense(channels, 1000)


def mlp() -> Iterator[Shape]:
    """Five dense layers, ten small variables: what is left is the overhead of a step."""
    for inputs, outputs in ((784, 64), (64, 64), (64, 64), (64, 64), (64, 10)):
        yield from _dense(inputs, outputs)


def _dense(inputs: int, outputs: int) -> Iterator[Shape]:
    yield inputs, outputs
    yield (outputs,)


def _norm(channels: int) -> Iterator[Shape]:
    yield (channels,)
    yield (channels,)


def _convolution(size: int, inputs: int, outputs: int) -> Iterator[Shape]:
    yield size, size, inputs, outputs
    yield from _norm(outputs)


MODELS: dict[str, Callable[[], Iterator[Shape]]] = {
    "matrices": matrices,
    "bert": bert,
    "resnet50": resnet50,
    "mlp": mlp,
}


def of(model: str) -> list[Shape]:
    """Shapes of a model, or of a text such as "3*4096x4096+7".

    Raises:
        ValueError: it is neither.
    """
    if model in MODELS:
        return list(MODELS[model]())
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
