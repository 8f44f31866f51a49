"""The record of a scoring run, `_OUTPUT.run.json`: what it makes of what, how far it is, and how it ended.

With it a killed run continues from its last checkpoint, a finished output is recognised, and an error can say what
changed since the run started. It is replaced in one rename, so it is complete at any moment. It lies beside the output.
Its name begins with an underscore because programs that read a folder as a data set ignore such names.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError, RunError, first_line
from bertnli.common.files import digest, read_own, write_text
from bertnli.common.printable import shortened
from bertnli_export.label_counts import LabelCounts
from bertnli_export.output_file import partial_path

Fingerprint = Mapping[str, Mapping[str, Any]]  # part -> key -> value

_VERSION = 2
RESTART = "start over and replace it with --restart"
# What decides a finished output's content. Library versions and the device may change its last digits. They must not
# change while it is being made, and do not matter afterwards.
_CONTENT = ("bundle", "input", "options")


@dataclass
class Counts:
    """Sums over the rows scored so far."""

    rows: int = 0
    errors: int = 0
    truncated: int = 0
    labels: LabelCounts = field(default_factory=LabelCounts)

    def add(self, other: Counts) -> None:
        """The rows of `other`, which come after these."""
        self.rows += other.rows
        self.errors += other.errors
        self.truncated += other.truncated
        self.labels.add(other.labels)


@dataclass
class RunRecord:
    """The record of one run. With `output` None (for pipes, whose runs cannot be resumed) it is not written.

    fingerprint: `bundle`, `input`, `options`, `device` and `versions`: all that decides the output's bytes.
    state: `running`; `complete`, all rows are in the partial file; `finished`, the output has its final name.
    checkpoint: the writer's, which `counts` belong to. sha256: of the finished output.
    """

    output: Path | None
    fingerprint: Fingerprint
    state: str = "running"
    checkpoint: dict[str, int] | None = None
    counts: Counts = field(default_factory=Counts)
    summary: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def save(self) -> None:
        """Write it durably. Raises RunError if it cannot be written."""
        if self.output is None:
            return
        path = record_path(self.output)
        content = {"bertnli_score_record": _VERSION, **asdict(self)}
        del content["output"]  # the user may move the output together with its record
        content["checksum"] = _checksum(content)
        try:
            write_text(path, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise RunError(
                f"{path}: cannot be written ({first_line(error)})",
                do="fix this, then give the same command again, without --restart: "
                "it continues after the last checkpoint",
            ) from None

    def finish(self, summary: dict[str, Any]) -> None:
        """Note that the output has its final name. Raises as `save` does."""
        if self.output is not None:
            self.state, self.summary, self.sha256 = "finished", summary, digest(self.output)
            self.save()

    @property
    def is_published(self) -> bool:
        """Whether the output has its final name, even if the run was killed before `finish`."""
        if self.output is None or self.state == "running":
            return False
        return self.state == "finished" or (self.output.exists() and not partial_path(self.output).exists())

    def changes(self, fingerprint: Fingerprint, content_only: bool = False) -> str:
        """What differs in `fingerprint`, as text; empty if nothing."""
        changed = []
        for part in _CONTENT if content_only else fingerprint:
            before, now = self.fingerprint.get(part, {}), fingerprint[part]
            changed += [
                "{}: {} was {}, is {}".format(part, key, *_shortened(before.get(key), now.get(key)))
                for key in {**before, **now}
                if before.get(key) != now.get(key)
            ]
        return "; ".join(changed)


def record_path(output: Path) -> Path:
    final = Path(os.path.realpath(output))
    return final.with_name(f"_{final.name}.run.json")


def load(output: Path) -> RunRecord | None:
    """The record beside `output`, if there is one. Raises InputError if it is damaged."""
    path = record_path(output)
    try:
        text = read_own(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(str(path), error) from None
    return parse(text, output, str(path))


def parse(text: str, output: Path, where: str) -> RunRecord:
    """The record of `output` that is written in `text`. where: for messages. Raises InputError if it is damaged."""
    try:
        content = json.loads(text)
        if content["bertnli_score_record"] != _VERSION:
            raise ValueError("of another version")
        if content.pop("checksum") != _checksum(content):
            raise ValueError("its checksum does not fit")
        del content["bertnli_score_record"]
        counts = Counts(**content["counts"] | {"labels": LabelCounts(**content["counts"]["labels"])})
        record = RunRecord(**content | {"output": output, "counts": counts})
        if record.counts.rows != (record.checkpoint or {"rows": 0})["rows"]:
            raise ValueError("its counts are not those of its checkpoint")
        return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(where, error) from None


def _damaged(where: str, error: Exception) -> InputError:
    return InputError(f"{where}: damaged, or not bertnli's ({first_line(error)})", do="start over with --restart")


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def check_free(output: Path) -> None:
    """Raise InputError if `output` or its partial file exists; called if no record says that bertnli made them."""
    partial = partial_path(output)
    for path in (output, partial):
        # An empty partial file is that of a run which was killed before it had a record.
        if os.path.lexists(path) and not (path is partial and path.lstat().st_size == 0):
            raise InputError(f"{path}: exists, and no record says that bertnli made it", do=RESTART)


def resume(output: Path, fingerprint: Fingerprint) -> RunRecord:
    """The run to continue, or a finished one that is still valid, or a new one.

    Raises InputError if `output` was not made by bertnli or was changed, or if its run has another fingerprint.
    """
    record = load(output)
    if record is None:
        check_free(output)
        return RunRecord(output, fingerprint)
    if record.state == "running" and not record.counts.rows:
        return RunRecord(output, fingerprint)
    if record.state == "finished":
        if not output.exists():
            return RunRecord(output, fingerprint)
        if changed := record.changes(fingerprint, content_only=True):
            raise InputError(f"{output}: is the finished output of another run ({changed})", do=RESTART)
        if digest(output) != record.sha256:
            raise InputError(f"{output}: was changed after it was finished", do=RESTART)
        return record
    if changed := record.changes(fingerprint):
        raise InputError(
            f"{output}: its unfinished run cannot continue ({changed})",
            do="undo this change, or start over with --restart",
        )
    return record


def _shortened(*values: object) -> Iterator[str]:
    """Different values as text; of long ones the beginning, or what follows a beginning that they have in common."""
    texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
    differ = (at for at, signs in enumerate(zip(*texts, strict=False)) if len(set(signs)) > 1)
    common = next(differ, min(map(len, texts)))
    begin = common - 4 if common >= 12 else 0
    for text in texts:
        yield text if len(text) <= 20 else "…" * (begin > 0) + shortened(text[begin:], 12)
