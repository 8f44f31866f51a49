"""docs/errors.md: every error that a person can cause, with its mend, read from the code that raises it.

python docs/errors.py                                 # writes docs/errors.md again
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
_WRITTEN = (ast.Constant, ast.JoinedStr, ast.IfExp)
CODES = {"InputError": 2, "RunError": 1, "NotFetchedError": 1}

HEAD = """\
# Errors and their mends

Every error that a person can cause is one message: what is wrong (the file, the row, the key or the option); what was
found; what was expected; what to do. Exit code 2: the input, the options or the environment are wrong. Exit code 1: the
work had begun and failed. A traceback without `--debug` is a bug.

Here `<name>` stands for what a message fills in, `…` for what it puts together, and a stroke between what it says in
one case or another. Where no mend stands, the message is all there is to say.

Made from the code by `python docs/errors.py`.
"""


class Raised(NamedTuple):
    """One place that makes an error."""

    what: str
    mend: str  # what to do, else what was expected
    code: int  # exit code

    def row(self) -> str:
        mend = self.mend.replace("<", "\\<").replace("*", "\\*")
        return f"| `{self.what}` | {mend} | {self.code} |"


def page() -> str:
    """The whole of docs/errors.md: a table for each file that raises any, in the order of their names."""
    parts = [HEAD]
    for package in ("bertnli", "launch", "export"):
        for file in sorted((ROOT / package).rglob("*.py")):
            module = ast.parse(file.read_text(encoding="utf-8"))
            if rows := sorted({one.row() for one in raised(module)}):
                about = (ast.get_docstring(module) or "").split("\n\n")[0].replace("\n", " ")
                table = "\n".join(["| message | mend | exit code |", "| --- | --- | --- |", *rows])
                parts.append(f"## {file.relative_to(ROOT)}\n\n{about}\n\n{table}\n")
    return "\n".join(parts)


def raised(module: ast.Module) -> Iterator[Raised]:
    """Each `InputError(…)` and `RunError(…)` of a module's functions."""
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    around = {node: function for function in functions for node in ast.walk(function)}  # the innermost comes last
    for call, function in around.items():
        match call:
            case ast.Call(func=ast.Name(id=kind), args=[what, *_]) if kind in CODES:
                # A name may be given in the function what a constant of the module is not.
                given = _assigned(module.body) | _assigned(ast.walk(function))
                parts = {str(keyword.arg): _text(keyword.value, given) for keyword in call.keywords}
                expected = f"expected {parts['expected']}" if "expected" in parts else ""
                yield Raised(_text(what, given), parts.get("do") or expected, CODES[kind])


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """What is assigned to each plain name."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
    return found


def _text(node: ast.expr, given: dict[str, list[ast.expr]]) -> str:
    """What an expression comes to, as far as it is written in the file; alternatives with a stroke between them."""
    match node:
        case ast.Constant(value=value):
            return " ".join(str(value).split("\n"))
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, given) for part in parts)
        case ast.FormattedValue(value=value):
            return _text(value, given)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, given) + _text(right, given)
        case ast.IfExp(body=body, orelse=other):
            return " / ".join(filter(None, (_text(body, given), _text(other, given))))
        case ast.Name(id=name) if given.get(name) and all(isinstance(value, _WRITTEN) for value in given[name]):
            others = {other: values for other, values in given.items() if other != name}  # it may be given of itself
            texts = " / ".join(dict.fromkeys(_text(value, others) for value in given[name]))
            return texts if any(map(str.isalnum, texts)) else f"<{name}>"
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return f"<{name.lstrip('_')}>"
    return "…"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
