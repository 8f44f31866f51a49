"""What a run starts from: weights, tokenizer, and its tokenised pairs, divided for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.batches import Indices
from bertnli.data.corpus import Corpus, prepare, split_holdout
from bertnli.data.golds import NONE_OF_THEM
from bertnli.data.labelled import RowsByLabel
from bertnli.data.outputs import Outputs
from bertnli.data.soft_labels import columns_of
from bertnli.evaluation.data_sets import open_set
from bertnli.families import folder_config
from bertnli.fetch.entry import Kind
from bertnli.fetch.resolve import check_name, resolve_model
from bertnli.model import pretrained, tensor_files
from bertnli.model.kept_layers import with_layers
from bertnli.model.pretrained import Pretrained
from bertnli.run.config import RunConfig
from bertnli.run.data_config import File, Holdout
from bertnli.run.folder import result_of, run_of, step_of
from bertnli.run.mistakes import refuse
from bertnli.run.run_file import load_run
from bertnli.train import checkpoint
from bertnli.train.losses import Loss
from bertnli.train.new_outputs import with_outputs


@dataclass(frozen=True)
class TrainingData:
    """A corpus, and the indices of its pairs for training; the evaluation pairs may be from another corpus."""

    corpus: Corpus
    train: Indices
    evaluation_corpus: Corpus
    evaluation: Indices
    sha256: Mapping[str, str]  # of the data files, by their keys in the run file
    rows_by_label: Mapping[str, RowsByLabel]  # by data file, with its key in the run file

    def rows(self, chosen: Indices, source: Pretrained) -> Iterator[dict[str, Any]]:
        """Training pairs for a user to inspect: row in the data file, label, tokens and their ids."""
        corpus = self.corpus
        for index in chosen:
            ids = corpus.ids[corpus.offsets[index] :][: corpus.lengths[index]].tolist()
            yield {
                "row": int(corpus.rows[index]),
                "label": _as_written(corpus.labels[index], source.config.outputs),
                "tokens": source.tokenizer.tokens(ids),
                "ids": ids,
            }


def check_names(config: RunConfig) -> None:
    """Raises one InputError for all names in the run file that are neither known nor paths, before any is fetched."""
    named: list[tuple[str, Kind]] = [(config.model, "model"), (config.data.train, "dataset")]
    if config.teacher is not None:
        named.append((config.teacher.model, "model"))
    if isinstance(config.data.eval, str):
        named.append((config.data.eval, "dataset"))
    mistakes = []
    for name, kind in dict.fromkeys(named):
        try:
            check_name(name, kind)
        except InputError as error:
            mistakes.append(error)
    refuse(mistakes, "run file")


def load_starting_model(config: RunConfig) -> Pretrained:
    """The weights and tokenizer that a run starts from, with the outputs of its result.

    Raises as `resolve_model`, `pretrained.load`, `with_layers` and `with_outputs` do.
    """
    path, arch = resolve_model(config.model, folder_config.parse)
    source = pretrained.load(
        path,
        arch=config.arch or arch,
        labels=config.labels,
        new_classifier=True,
        problem_type=config.problem_type,
        max_length=config.max_length,
        truncation=config.truncation,
        hypothesis_only=config.data.hypothesis_only,
    )
    if config.keep_layers is not None:
        source = with_layers(source, config.keep_layers)
    return with_outputs(source, config)


def load_data(config: RunConfig, source: Pretrained, say: Callable[[str], None]) -> TrainingData:
    """The run's pairs, tokenised and divided. Raises InputError for unusable files or sizes that do not fit."""
    outputs = source.config.outputs
    loss = Loss.of(outputs, config.loss)

    def corpus_of(name: str, file: File) -> Corpus:
        chosen = open_set(
            name,
            config.data.columns_of(file),
            label_names=config.data.label_names_of(file),
            dialect=config.data.dialect_of(file),
            prefer_parse=source.tokenizer.settings.reads_parse,
            problem_type=outputs.problem_type,
        )
        notes = chosen.file.notes
        for note in notes:  # before an error, which may be due to what they say
            say(note)
        corpus = prepare(
            chosen.file,
            source.tokenizer,
            source.config.labels,
            problem_type=outputs.problem_type,
            skip_bad_rows=config.data.skip_bad_rows,
            label_names=chosen.schema.label_names,
            soft=config.loss.soft if file == "train" else None,
        )
        loss.check_scores(corpus.labels, corpus.rows, name)
        skipped = f"{corpus.about['no_gold']:,} rows without a gold label and {corpus.about['bad']:,} bad rows skipped"
        for note in chosen.file.notes:
            if note not in notes:
                say(note)
        if cut := corpus.about["truncated"]:
            length = source.tokenizer.max_length
            say(f"{name}: {cut:,} of {len(corpus):,} pairs are longer than {length} tokens, and were cut (max_length)")
        say(f"{name}: {len(corpus):,} labelled pairs ({_described(corpus, outputs)}); {skipped}")
        if corpus.without_gold:
            counted = "they are counted under their most probable label"
            say(f"{name}: {corpus.without_gold:,} of these pairs have soft labels alone; {counted}")
        elif file == "train" and corpus.soft_labels is None and columns_of(chosen.file, source.config.labels):
            say(f"note: {name}: its columns p_… are not read; loss: {{soft: 1}} trains on these probabilities")
        return corpus

    corpus = corpus_of(config.data.train, "train")
    sha256 = {"data.train": corpus.sha256}
    train, evaluation_corpus, evaluation = np.arange(len(corpus)), corpus, np.arange(0)
    if isinstance(config.data.eval, Holdout):
        if corpus.without_gold:
            raise InputError(
                "data.eval.holdout",
                found=f"{config.data.train}, in which {corpus.without_gold:,} pairs have soft labels alone",
                expected="pairs with a gold label, to evaluate the model on",
                do="set data.eval to a file of them, or remove it",
            )
        try:
            train, evaluation = split_holdout(corpus, config.data.eval.holdout, config.seed)
        except ValueError as error:
            raise InputError(
                "data.eval.holdout",
                found=f"{config.data.eval.holdout} of {error}",
                expected="fewer, so that some pairs are left for training",
            ) from None
    elif config.data.eval is not None:
        evaluation_corpus = corpus_of(config.data.eval, "eval")
        sha256["data.eval"] = evaluation_corpus.sha256
        evaluation = np.arange(len(evaluation_corpus))
    loss.check_metric(config.metric_for_best, evaluation_corpus.labels[evaluation])
    wanted = config.data.max_train_pairs or len(train)
    if wanted > len(train):
        raise InputError(
            "data.max_train_pairs",
            found=f"{wanted} of {len(train)} pairs",
            do=f"set {len(train)} or fewer, or remove the key",
        )
    if wanted < len(train):
        train = np.random.default_rng([config.seed, 1]).choice(train, wanted, replace=False)
    held_out = evaluation if evaluation_corpus is corpus else evaluation[:0]
    of_training = _rows_by_label(corpus, outputs, train, held_out)
    rows_by_label = {f"data.train: {config.data.train}": of_training}
    if evaluation_corpus is not corpus:
        rows_by_label[f"data.eval: {config.data.eval}"] = evaluation_corpus.rows_by_label
    for label in outputs.names:
        if not of_training[label]["trained on"]:
            say(f"warning: {config.data.train}: no row to train on has the label {label}")
    if outputs.problem_type == "regression" and np.ptp(corpus.labels[train]) == 0:
        say(f"warning: {config.data.train}: all rows to train on have the score {corpus.labels[train][0, 0]:g}")
    return TrainingData(corpus, train, evaluation_corpus, evaluation, sha256, rows_by_label)


def _described(corpus: Corpus, outputs: Outputs) -> str:
    """The labels of a corpus, in words."""
    if outputs.problem_type == "regression":
        scores = corpus.labels
        return f"scores from {scores.min():g} to {scores.max():g}, mean {scores.mean():.4g}"
    names = [name for name in (*outputs.names, NONE_OF_THEM) if name in corpus.rows_by_label]
    return ", ".join(f"{corpus.rows_by_label[name]['used']:,} {name}" for name in names)


def _as_written(label: Any, outputs: Outputs) -> Any:
    """A pair's label in a corpus, as a user would write it."""
    if outputs.problem_type == "single_label_classification":
        return outputs.names[label]
    if outputs.problem_type == "regression":
        return float(label[0])
    return [name for name, has in zip(outputs.names, label, strict=True) if has]


def _rows_by_label(corpus: Corpus, outputs: Outputs, train: Indices, held_out: Indices) -> RowsByLabel:
    """The rows of the training file by label: how many are trained on, held out for evaluation, and left out."""
    uses = [_counted(corpus.labels[chosen], outputs) for chosen in (train, held_out)]
    used = dict(zip((*outputs.names, NONE_OF_THEM), zip(*uses, strict=True), strict=False))
    found = {}
    for label, rows in corpus.rows_by_label.items():
        trained, held = used.get(label, (0, 0))
        found[label] = {"trained on": trained, "held out": held, "left out": sum(rows.values()) - trained - held}
    return found


def _counted(labels: NDArray[Any], outputs: Outputs) -> list[int]:
    """The number of rows of each label."""
    if outputs.problem_type == "single_label_classification":
        return np.bincount(labels, minlength=len(outputs.names)).tolist()
    if outputs.problem_type == "regression":
        return [len(labels)]
    has = labels > 0
    return [*has.sum(axis=0).tolist(), int((~has.any(axis=1)).sum())]


def load_run_model(path: Path, warn: Callable[[str], None]) -> Pretrained:
    """The model of the run or checkpoint at `path`. For a run: its model/, or before that its newest good checkpoint.

    A checkpoint contains the weights alone; sizes, labels and tokenizer are those of the model that the run started
    from. `warn` is called with a line for each damaged checkpoint. Raises InputError if `path` is neither, if there is
    no checkpoint yet, or if the starting model no longer exists; RunError if the checkpoint at `path` is damaged.
    """
    run = run_of(path)
    if run is None:
        raise InputError(f"{path}: not a run", expected="a folder with run.yaml, or a checkpoint in one")
    if (result := result_of(path)) is not None:
        return pretrained.load(result)
    if path == run.path:
        found = checkpoint.newest(run.checkpoints, warn)
        if found is None:
            raise InputError(
                f"{path}: a run without a checkpoint yet",
                do="wait for the first one (checkpoint.every_steps), or give a model folder",
            )
    else:
        step = step_of(path)
        assert step is not None  # or `run_of` would not have taken the path for a checkpoint's
        found = checkpoint.read(run.checkpoints, step)
    source = load_starting_model(load_run(run.run_file))
    prefix = "weight/"
    weights = {name[len(prefix) :]: tensor for name, tensor in found.state.items() if name.startswith(prefix)}
    tensor_files.check_finite(weights, str(path))
    return replace(source, state=weights, sha256=found.sha256, temperature=1.0, revision=None)
