"""Writes a page for each optimizer, an index and the common arguments, from the docstrings.

    python docs/generate.py            # writes docs/optimizers/
    python docs/generate.py --check    # names the pages that differ; exit status 1 if there are any

The Markdown is for GitHub. Its `$$` blocks and `$` spans pass through Markdown before they are
maths, which takes a backslash from each line break and may take underscores for italics. So blocks
are fences called `math`, and spans are in dollars and backticks.
"""

import functools
import os
import pathlib
import re
import sys
import textwrap
from inspect import cleandoc
from inspect import signature as signature_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "optimizers"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(ROOT))  # The pages are those of this tree, whatever is installed.

from tf_optim_ext import __main__, optimizers  # noqa: E402
from tf_optim_ext.base.optimizer import Optimizer  # noqa: E402

COMMON = "common-arguments.md"
LISTS = ("Args", "Raises")
TITLES = {"Args": "Arguments", "Reference": "References"}
SECTION = re.compile("(Args|Class attributes|Examples?|Raises|References?|Returns):")
ENTRY = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*):\s+(.*)", re.DOTALL)
SPAN = re.compile(r":math:`([^`]+)`|`([^`<]+) <(http[^>]+)>`__?|(``.+?``|`[^`]+`)", re.DOTALL)


def mathematics(text):
    r"""TeX as GitHub takes it: `\operatorname` is forbidden there, and `<` may begin a tag."""
    text = re.sub(r"\\operatorname\s*\{(\w+)\}", r"\\mathop{\\mathrm{\1}}", text)
    return re.sub(" ?([<>]) ?", lambda sign: r" \lt " if sign[1] == "<" else r" \gt ", text)


def equations(text):
    """The content of `.. math::`; as in Sphinx, a blank line begins another equation."""
    blocks = []
    for equation in re.split(r"\n\s*\n", mathematics(cleandoc(text))):
        if ("&" in equation or r"\\" in equation) and r"\begin{aligned}" not in equation:
            equation = f"\\begin{{aligned}}\n{equation}\n\\end{{aligned}}"
        blocks.append(f"```math\n{equation}\n```")
    return "\n\n".join(blocks)


def plain(text):
    """Text without code and maths: what Markdown or HTML would take for their own is escaped."""
    text = re.sub(r"<(?=[\w/!])", r"\\<", text).replace("$", r"\$")
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def file_name(cls):
    """The file of an optimizer's page: its name, or its module's where two names are equal but for
    case, as not all file systems tell such files apart."""
    namesakes = [c for c in optimizers.ALL if c.__name__.lower() == cls.__name__.lower()]
    is_first = namesakes[0] is cls
    return f"{cls.__name__ if is_first else cls.__module__.rpartition('.')[2]}.md"


def inline(text, page=None):
    """Text with maths, code and names of optimizers, which are links except on their own page."""
    names = {cls.__name__: file_name(cls) for cls in optimizers.ALL} | {"Optimizer": COMMON}
    parts, end = [], 0
    for span in SPAN.finditer(text):
        before = text[end : span.start()]
        end = span.end()
        if span[1]:
            if re.search(r"[\w-]\Z", before) or re.match(r"\w", text[end:]):
                raise ValueError(f"GitHub needs a space or punctuation around maths: {span[0]}")
            markdown = f"$`{' '.join(mathematics(span[1]).split())}`$"
        elif span[2]:
            markdown = f"[{span[2]}]({span[3]})"
        else:
            target = names.get(span[4].strip("`"))
            markdown = f"[{span[4]}]({target})" if target not in (None, page) else span[4]
        parts += [plain(before), markdown]
    return "".join([*parts, plain(text[end:])])


def chunks(text):
    """Paragraphs; an indented block, blank lines included, belongs to the line that opens it."""
    blocks, opened = [], False
    for paragraph in re.split(r"\n\s*\n", text):
        if opened and paragraph.startswith(" "):
            blocks[-1] += f"\n\n{paragraph}"
            continue
        blocks.append(paragraph)
        first = paragraph.split("\n")[0]
        opened = first.startswith(".. ") or SECTION.fullmatch(first) or paragraph.endswith("::")
    return blocks


def sections(docstring):
    """Pairs of a section's name and its text; a paragraph outside of sections has the name ""."""
    for chunk in chunks(cleandoc(docstring)):
        first, _, rest = chunk.partition("\n")
        yield (first[:-1], textwrap.dedent(rest)) if SECTION.fullmatch(first) else ("", chunk)


def body(text, page=None):
    """Paragraphs, equations and code."""
    parts = []
    for chunk in chunks(text):
        if chunk.startswith(".. math::"):
            parts.append(equations(chunk.removeprefix(".. math::")))
        elif chunk.startswith(".. "):
            raise ValueError(f"unknown directive: {chunk!r}")
        elif chunk.startswith(">>> "):
            parts.append(f"```python\n{chunk}\n```")
        else:
            prose, mark, code = chunk.partition("::\n")
            parts.append(inline(prose, page) + mark[:1])
            if mark:
                code = textwrap.dedent(code).strip("\n")
                parts.append(f"```python\n{code}\n```")
    return "\n\n".join(parts)


def listing(text, page=None):
    """Entries `name: what it is`, continued by indented lines, as a list."""
    items = []
    for entry in re.split(r"\n(?=\S)", text):
        match = ENTRY.fullmatch(entry)
        if not match:
            raise ValueError(f"not of the form `name: what it is`: {entry!r}")
        names = ", ".join(f"`{name}`" for name in match[1].split(", "))
        what = textwrap.indent(inline(cleandoc(match[2]), page), "  ").strip()
        items.append(f"- {names}: {what}")
    return "\n".join(items)


def convert(docstring, page=None):
    """A docstring in Google's style as Markdown; paragraphs after a section are remarks."""
    parts, previous = [], ""
    for name, text in sections(docstring):
        if name != previous:
            parts.append(f"## {TITLES.get(name, name or 'Remarks')}")
        parts.append((listing if name in LISTS else body)(text, page))
        previous = name
    return "\n\n".join(parts)


def signature(cls):
    """The constructor's own arguments; the common ones are `**kwargs`."""
    parameters = list(map(str, signature_of(cls.__init__).parameters.values()))[1:]
    parameters = [parameter.replace("'", '"') for parameter in parameters]
    call = f"tf_optim_ext.{cls.__name__}({', '.join(parameters)})"
    if len(call) > 88:
        lines = "".join(f"    {parameter},\n" for parameter in parameters)
        call = f"tf_optim_ext.{cls.__name__}(\n{lines})"
    return f"```python\n{call}\n```"


@functools.cache
def table():
    """The table of `python -m tf_optim_ext`, without the column that depends on the machine."""
    shown = [i for i, name in enumerate(__main__.HEADER) if name != "Backend"]
    return [tuple(row[i] for i in shown) for row in [__main__.HEADER, *__main__.rows()]]


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(cls):
    header, *rows = table()
    return markdown(header, [row for row in rows if row[0].split(" (")[0] == cls.__name__])


def page(source, title, *parts):
    notice = f"<!-- Generated by docs/generate.py from the docstring of {source}: edit that. -->"
    return "\n\n".join([notice, f"# {title}", *parts]) + "\n"


def optimizer_page(cls):
    name, path = cls.__name__, f"{cls.__module__.replace('.', '/')}.py"
    text = convert(cls.__doc__, file_name(cls))
    links = f"[Common arguments]({COMMON}) · [Source](../../{path}) · [All optimizers](README.md)"
    return page(name, name, signature(cls), text, "## Facts", facts(cls), links)


def common_page():
    parts = dict(sections(Optimizer.__doc__))
    arguments = parts["Args"].split("\n**kwargs:")[0]
    text = "Every optimizer takes these; where one differs, its own page says so."
    raises = ["## Raises", listing(parts["Raises"], COMMON)]
    links = "[All optimizers](README.md)"
    return page("Optimizer", "Common arguments", text, listing(arguments, COMMON), *raises, links)


def index_page():
    rows = []
    for cls in optimizers.ALL:
        summary = inline(" ".join(next(sections(cls.__doc__))[1].split())).replace("|", r"\|")
        rows.append((f"[{cls.__name__}]({file_name(cls)})", summary))
    intro = (
        f"All of them also take the [common arguments]({COMMON}). "
        "[Gallery](../gallery.md): their paths over functions of two numbers. "
        "[Learning curves](../learning-curves.md): how they train small networks, equally tuned."
    )
    state = (
        "Slots have the shape of the weights and are float32, or float64 for float64 weights; "
        "scalar state is float64. *Passes* are those of the native step over memory: what needs "
        "norms takes two. *Sparse gradients* are explained [here](../sparse-gradients.md). "
        "`python -m tf_optim_ext` prints this table with the backend that each one has on your "
        "machine."
    )
    parts = [intro, markdown(("Optimizer", "What it is"), rows)]
    header, *rows = table()
    parts += ["## State and cost", state, markdown(header, rows)]
    return page("each optimizer", "Optimizers", *parts)


def pages():
    """A dict from the file names of the pages to their texts."""
    of_optimizers = {file_name(cls): optimizer_page(cls) for cls in optimizers.ALL}
    return {**of_optimizers, COMMON: common_page(), "README.md": index_page()}


def main(arguments=(), folder=PAGES):
    if list(arguments) not in ([], ["--check"]):
        print(__doc__)
        return 2
    wanted = pages()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    differing = sorted(n for n in {**wanted, **present} if wanted.get(n) != present.get(n))
    if arguments:
        print("".join(f"differs: {folder / name}\n" for name in differing), end="")
        return int(bool(differing))
    folder.mkdir(parents=True, exist_ok=True)
    for name in differing:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
        print(f"{'wrote' if name in wanted else 'removed'}: {folder / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
