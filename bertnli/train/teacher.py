"""What a teacher says of the pairs that a run trains on, so that a small model learns from a large one.

Hinton et al. 2015, Distilling the Knowledge in a Neural Network, section 2. The teacher reads texts, so it may have
another tokenizer, and it may be a bundle. All ranks compute its logits together, once, before the first step. They are
kept in the cache in parts, for other runs too; a run that was killed meanwhile goes on with the part that is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import cache_dir
from bertnli.common.progress import progress
from bertnli.data import unfit_rows
from bertnli.data.batches import Indices
from bertnli.data.labels import LabelTable
from bertnli.data.outputs import Outputs
from bertnli.data.pair_rows import Row
from bertnli.data.pairs import PairFile
from bertnli.evaluation.data_sets import open_set
from bertnli.evaluation.evaluate import Predictor, outputs_of, tokenizer_of
from bertnli.evaluation.metrics import softmax
from bertnli.families import folder_config
from bertnli.fetch.known_folders import is_bundle
from bertnli.fetch.resolve import resolve_model
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from bertnli.model.pretrained import Pretrained
from bertnli.run.config import RunConfig
from bertnli.run.folder import run_of
from bertnli.train.engine import ProcessGroup
from bertnli.train.inputs import TrainingData, by_source, load_run_model

PART = 1024
"""Pairs of a part. A part does not depend on the ranks; so neither do the logits."""
_CHECKSUM = hashlib.sha256().digest_size
_TOGETHER = 65_536  # pairs whose logits are exchanged at once


@dataclass(frozen=True)
class Teacher:
    """name: as the user wrote it. sha256: of its weights, of a bundle of its manifest. fingerprint: of all that its
    logits depend on, besides the texts. order: the place of each of the student's labels in its logits."""

    name: str
    predictor: Predictor
    sha256: str
    fingerprint: str
    order: tuple[int, ...]

    @property
    def inputs(self) -> str:
        """All that the training depends on. Labels in another order, or another temperature, teach something else."""
        return f"{self.fingerprint} {self.order} {self.predictor.temperature}"


@dataclass(frozen=True)
class TeacherLabels:
    """The teacher's probabilities, in the student's order of the labels. pairs: `[pairs]`, ascending; probabilities:
    `[pairs, labels]`."""

    pairs: Indices
    probabilities: NDArray[np.float32]

    def __getitem__(self, pairs: Indices) -> NDArray[np.float32]:
        return self.probabilities[np.searchsorted(self.pairs, pairs)]


def open_teacher(name: str, outputs: Outputs, device: torch.device, say: Callable[[str], None]) -> Teacher:
    """The teacher `name`, a bundle or what `bertnli eval` takes as a model, on `device`.

    outputs: of the student. Raises InputError if the teacher cannot be loaded, and if its labels, which are compared by
    name, are not the student's; RunError for a damaged checkpoint.
    """
    if is_bundle(name):
        from bertnli import Scorer  # the one way up (ARCHITECTURE.md)

        cuda = device.type == "cuda"
        scorer = Scorer(name, device=str(device) if cuda else "cpu", threads=None if cuda else torch.get_num_threads())
        predictor: Predictor = scorer
        sha256 = fingerprint = scorer.bundle.sha256
    else:
        path, arch = resolve_model(name, folder_config.parse_classifier)
        source = load_run_model(path, warn=say) if run_of(path) is not None else _load(name, path, arch)
        if not source.has_classifier:
            raise InputError(f"teacher {name}: it has no classifier", do="train it first: bertnli train RUN.yaml")
        predictor = TorchPredictor(source.build(), source.tokenizer, device.type, source.temperature)
        sha256 = source.sha256
        # The same weights may have another activation or number of heads in config.json.
        depends_on = f"{sha256} {source.tokenizer.fingerprint} {source.config}"
        fingerprint = hashlib.sha256(depends_on.encode()).hexdigest()
    theirs = outputs_of(predictor)
    table = LabelTable(theirs.names)
    order = tuple(table.index(label) for label in outputs.names)
    if theirs.problem_type != outputs.problem_type or sorted(order) != list(range(len(theirs.names))):
        raise InputError(
            f"teacher {name}",
            found=f"a model for problem_type: {theirs.problem_type}, with {', '.join(theirs.names)}",
            expected=f"the labels of the model that is trained: {', '.join(outputs.names)}",
            do="choose a teacher with these labels, or give the run its labels: labels: [one, another]",
        )
    return Teacher(name, predictor, sha256, fingerprint, order)


def _load(name: str, path: Path, arch: str | None) -> Pretrained:
    try:
        return pretrained.load(path, arch=arch)
    except InputError:
        if "labels" not in pretrained.missing_options(path):
            raise
        raise InputError(  # those of the run file are the student's, perhaps in another order
            f"teacher {name}: its config.json has no names of its labels",
            do='write them there, in the order of its outputs: "id2label": {"0": "entailment", …}',
        ) from None


def teacher_labels(
    teacher: Teacher, config: RunConfig, data: TrainingData, group: ProcessGroup, say: Callable[[str], None]
) -> TeacherLabels:
    """What the teacher says of the pairs trained on, at `teacher.temperature`; every rank calls it and gets all.

    A temperature that the teacher was calibrated with counts too: the probabilities are those that `score` gives, made
    softer. Raises RunError if a logit is not finite, or if the cache cannot be written; InputError for a pair that the
    teacher cannot read.
    """
    assert config.teacher is not None
    pairs = np.sort(data.train)
    cache = _Parts.of(teacher, data, pairs)
    parts = [pairs[start : start + PART] for start in range(0, len(pairs), PART)]
    logits = np.zeros((len(pairs), len(teacher.order)), np.float32)
    missing = []
    mine = range(group.rank, len(parts), group.world)
    for number in mine:
        if (found := cache.read(number, len(parts[number]))) is None:
            missing.append(number)
        else:
            logits[number * PART :][: len(found)] = found
    to_do = sum(len(parts[number]) for number in missing)
    say(f"teacher {teacher.name}: {len(pairs):,} pairs to read" + ("" if to_do else ", all of them are in the cache"))
    texts = _texts(teacher, data, np.concatenate([pairs[:0], *(parts[one] for one in missing)]))
    done = 0
    with progress("pair for the teacher", to_do, quiet=group.rank != 0 or not to_do) as show:
        for number in missing:
            part = list(islice(texts, len(parts[number])))
            found = teacher.predictor.logits(*zip(*part, strict=True))
            if not np.isfinite(found).all():
                raise RunError(
                    f"teacher {teacher.name}: its logits are not finite numbers", do="choose another teacher"
                )
            cache.write(number, found)
            logits[number * PART :][: len(found)] = found
            show(done := done + len(part), "")
    if group.world > 1:
        for start in range(0, len(pairs), _TOGETHER):
            block = logits[start : start + _TOGETHER]  # 0 for the pairs of other ranks
            block[:] = np.asarray(group.sum(block.ravel().tolist())).reshape(block.shape)
        if group.local_rank == 0:  # the hosts may have caches of their own
            for number, pairs_of_part in enumerate(parts):
                if cache.read(number, len(pairs_of_part)) is None:
                    cache.write(number, logits[number * PART :][: len(pairs_of_part)])
    temperature = config.teacher.temperature * teacher.predictor.temperature
    return TeacherLabels(pairs, softmax(logits[:, teacher.order], temperature).astype(np.float32))


def _texts(teacher: Teacher, data: TrainingData, pairs: Indices) -> Iterator[tuple[str, str]]:
    """Premise and hypothesis of these pairs, which ascend, from their own files, as the teacher reads them."""
    tokenizer = tokenizer_of(teacher.predictor)
    for source, its_pairs in zip(data.sources, by_source(data.corpus, pairs), strict=True):
        if not len(its_pairs):
            continue
        file = open_set(
            source.name,
            source.columns,
            dialect=source.dialect,
            prefer_parse=tokenizer is not None and tokenizer.settings.reads_parse,
        ).file
        for row in unfit_rows.marked(_chosen(file, data.corpus.rows[its_pairs]), tokenizer):
            if row.error is not None or row.premise is None or row.hypothesis is None:
                raise InputError(f"teacher {teacher.name}: {file.name}: row {row.number}: {row.error}")
            yield row.premise, row.hypothesis
        file.check_unchanged()


def _chosen(file: PairFile, rows: NDArray[np.int64]) -> Iterator[Row]:
    numbers = iter(rows)
    wanted = next(numbers, None)
    for row in file.rows():
        if row.number == wanted:
            yield row
            if (wanted := next(numbers, None)) is None:
                return


@dataclass(frozen=True)
class _Parts:
    """The parts of a teacher's logits on disk, a file each. It begins with its checksum, so a part that was damaged
    since is computed again."""

    folder: Path
    labels: int

    @classmethod
    def of(cls, teacher: Teacher, data: TrainingData, pairs: Indices) -> _Parts:
        rows = hashlib.sha256(np.ascontiguousarray(pairs, np.int64).data).hexdigest()
        depends_on = {"teacher": teacher.fingerprint, "corpus": data.corpus.key, "pairs": rows, "part": PART}
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]
        return cls(cache_dir() / "teachers" / key, len(teacher.order))

    def read(self, number: int, pairs: int) -> NDArray[np.float32] | None:
        """The logits of a part, `[pairs, labels]`; None if they are not there."""
        try:
            content = (self.folder / f"{number:06d}").read_bytes()
        except FileNotFoundError:
            return None
        checksum, values = content[:_CHECKSUM], content[_CHECKSUM:]
        if hashlib.sha256(values).digest() != checksum or len(values) != 4 * pairs * self.labels:
            return None
        return np.frombuffer(values, np.float32).reshape(pairs, self.labels)

    def write(self, number: int, logits: NDArray[np.float32]) -> None:
        values = np.ascontiguousarray(logits, np.float32).tobytes()
        final = self.folder / f"{number:06d}"
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(hashlib.sha256(values).digest() + values)
            partial.replace(final)
        except OSError as error:
            raise RunError(
                f"{final}: cannot be written: {error.strerror}",
                do="make room, or set BERTNLI_CACHE to a folder on another disk; the same command goes on from here",
            ) from None
