"""Makes docs/from_elsewhere.md of the tables in bertnli/run/foreign_keys.py and bertnli/run/foreign_options.py.

python docs/from_elsewhere.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bertnli.run import foreign_keys
from bertnli.run.foreign_keys import Here
from bertnli.run.foreign_options import OPTIONS

PAGE = Path(__file__).with_suffix(".md")
_TABLES = (
    ("transformers: TrainingArguments", foreign_keys.TRAINING_ARGUMENTS),
    ("transformers' scripts, accelerate, Lightning", foreign_keys.SCRIPTS),
    ("sentence-transformers: CrossEncoder", foreign_keys.CROSS_ENCODER),
    ("Distillation", foreign_keys.DISTILLATION),
    ("DeepSpeed's configuration", foreign_keys.DEEPSPEED),
)
_BEGIN = """\
# Names from elsewhere

What a setting of another program is called here. A run file or a command line with one of the other names is refused,
and the error says the same as this page. VALUE stands for the value as it is, … for one of another kind. Settings that
have the same name in both, such as `learning_rate`, `weight_decay`, `max_steps` and `seed`, are not in these tables.

This page is made by `python docs/from_elsewhere.py`.
"""


def page() -> str:
    parts = [_BEGIN]
    parts += [f"## {title}\n\n" + "".join(_rows(table)) for title, table in _TABLES]
    parts[-1] += "\nAll other keys of DeepSpeed's configuration belong under `deepspeed: {…}`.\n"
    for command, options in OPTIONS.items():
        rows = "".join(f"| `{'-' if len(name) == 1 else '--'}{name}` | {do} |\n" for name, do in options.items())
        parts.append(f"## Options of `bertnli {command}`\n\n| there | here |\n| --- | --- |\n{rows}")
    parts.append(
        "Options may be written with hyphens or underscores: `--max-length` and `--max_length`. `bertnli train`,\n"
        "`bertnli launch` and `python -m bertnli.train` answer the names of the first tables; `--set` takes them.\n"
    )
    return "\n".join(parts)


def _rows(table: Mapping[str, Here]) -> Iterator[str]:
    yield "| there | in a run file | |\n| --- | --- | --- |\n"
    for name, found in table.items():
        write = f"`{found.write}`" if found.write else "no key"
        yield f"| `{name}` | {write} | {found.note} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
