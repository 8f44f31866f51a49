"""What a run starts from: weights, tokenizer, and its tokenised pairs, divided for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.common.files import existing_path
from bertnli.common.urls import has_secret, is_url
from bertnli.data.batches import Indices, Part, pack, source_of
from bertnli.data.corpus import Corpus, prepare, split_holdout
from bertnli.data.golds import NONE_OF_THEM
from bertnli.data.labelled import RowsByLabel
from bertnli.data.outputs import Outputs
from bertnli.data.pooled_corpus import PooledCorpus
from bertnli.data.run_keys import keys_in
from bertnli.data.soft_labels import columns_of
from bertnli.evaluation.data_sets import open_set
from bertnli.families import folder_config
from bertnli.fetch.entry import Kind
from bertnli.fetch.resolve import check_name, resolve_model
from bertnli.model import pretrained, tensor_files
from bertnli.model.kept_layers import with_layers
from bertnli.model.pretrained import Pretrained
from bertnli.run.config import RunConfig
from bertnli.run.data_config import Holdout
from bertnli.run.data_source import Source
from bertnli.run.folder import result_of, run_of, step_of
from bertnli.run.mistakes import refuse
from bertnli.run.run_file import load_run
from bertnli.train import checkpoint
from bertnli.train.losses import Loss
from bertnli.train.new_outputs import with_outputs

AnyCorpus = Corpus | PooledCorpus


@dataclass(frozen=True)
class EvaluationSet:
    """The pairs of a data set, or those held out of the training data, on which the model is measured. name: as the
    user wrote it, or the set's title if another set has the same name."""

    name: str
    corpus: AnyCorpus
    pairs: Indices


@dataclass(frozen=True)
class TrainingData:
    """A corpus, and the indices of its pairs for training; the evaluation pairs may be from other corpora.

    sources: the data sets of train, whose pairs follow one another in `train`; parts: how many of them are from each.
    evaluations: by a short name of each set. The first one decides for keep_best and early_stopping.
    """

    corpus: AnyCorpus
    train: Indices
    sources: Sequence[Source]
    parts: tuple[Part, ...]
    evaluations: Mapping[str, EvaluationSet]
    sha256: Mapping[str, str]  # of the data files, by their keys in the run file
    rows_by_label: Mapping[str, RowsByLabel]  # by data file, with its key in the run file

    @property
    def to_evaluate(self) -> int:
        """The number of pairs of all evaluation sets."""
        return sum(len(one.pairs) for one in self.evaluations.values())

    def rows(self, chosen: Indices, source: Pretrained) -> Iterator[dict[str, Any]]:
        """Training pairs for a user to inspect: row in the data file, label, tokens and their ids."""
        corpus = self.corpus
        for index in chosen:
            ids = pack(corpus, np.array([index])).input_ids.tolist()
            yield {
                **({"data": self.source_of(index)} if isinstance(corpus, PooledCorpus) else {}),
                "row": int(corpus.rows[index]),
                "label": _as_written(corpus.labels[index], source.config.outputs),
                "tokens": source.tokenizer.tokens(ids),
                "ids": ids,
            }

    def table(self) -> list[dict[str, Any]]:
        """For the summary, the report and the model card: how much of each data set an epoch has; [] for one data set
        without a weight."""
        if len(self.sources) == 1 and self.sources[0].weight == 1:
            return []
        return [
            {"data": source.title, "pairs": part.pairs, "weight": part.weight, "pairs_per_epoch": part.pairs_per_epoch}
            for source, part in zip(self.sources, self.parts, strict=True)
        ]

    def source_of(self, index: int) -> str:
        return self.sources[int(source_of(np.array([index]), _starts(self.corpus))[0])].name

    def losses_by_source(self, pairs: Indices, losses: Sequence[float]) -> dict[str, float]:
        """The mean loss of each of several data sets in a step with these `pairs`, as metrics are named: `loss/snli`.

        losses: `[sources]`, summed over the pairs of each; [] if there is only one. A data set without a pair in the
        step has no figure.
        """
        if not isinstance(self.corpus, PooledCorpus):
            return {}
        counts = np.bincount(source_of(pairs, self.corpus.starts), minlength=len(self.sources))
        found = zip(self.sources, losses, counts.tolist(), strict=True)
        return {f"loss/{source.title}": loss / count for source, loss, count in found if count}


def check_names(config: RunConfig) -> None:
    """Raises one InputError for all names in the run file that are neither known nor paths, before any is fetched."""
    mistakes = []
    named: list[tuple[str, Kind]] = [(config.model, "model")]
    if config.teacher is not None:
        named.append((config.teacher.model, "model"))
    for source in (*config.data.sources("train"), *config.data.sources("eval")):
        there = existing_path(source.name.partition("#")[0]) is not None
        if source.of == "path" and not there and not is_url(source.name):
            mistakes.append(InputError(f"{source.key}.path: {source.name}", found="no such file", do="fix the path"))
        elif source.of == "name" and there:
            found = "a file or folder of that name here"
            mistakes.append(
                InputError(f"{source.key}.name: {source.name}", found=found, do="call it path:, or move it")
            )
        else:
            named.append((source.name, "dataset"))
    for name, kind in dict.fromkeys(named):
        try:
            if has_secret(name):  # the run's folder keeps the run file
                raise InputError(
                    f"{kind} {name!r}: a URL with a user, a password or a query",
                    expected="credentials in the environment",
                    do="remove them from the run file, or fetch the file first and give its path",
                )
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
    sources = config.data.sources("train")

    def corpus_of(given: Source, soft: float | None = None) -> Corpus:
        with keys_in(given.section):
            return read(given, soft)

    def read(given: Source, soft: float | None) -> Corpus:
        name = given.name
        chosen = open_set(
            name,
            given.columns,
            label_names=given.label_names,
            dialect=given.dialect,
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
            soft=soft,
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
        elif soft is None and given in sources and columns_of(chosen.file, source.config.labels):
            say(f"note: {name}: its columns p_… are not read; loss: {{soft: 1}} trains on these probabilities")
        return corpus

    corpora = [corpus_of(one, config.loss.soft) for one in sources]
    corpus = corpora[0] if len(corpora) == 1 else PooledCorpus(corpora)
    train, held_out = np.arange(len(corpus)), np.arange(0)
    evaluations: dict[str, EvaluationSet] = {}
    others = [(one, corpus_of(one)) for one in config.data.sources("eval")]
    if isinstance(config.data.eval, Holdout):
        if corpus.without_gold:
            raise InputError(
                "data.eval.holdout",
                found=f"{corpus.without_gold:,} pairs of data.train with soft labels alone",
                expected="pairs with a gold label, to evaluate the model on",
                do="set data.eval to a file of them, or remove it",
            )
        try:
            train, held_out = split_holdout(corpus, config.data.eval.holdout, config.seed)
        except ValueError as error:
            raise InputError(
                "data.eval.holdout",
                found=f"{config.data.eval.holdout} of {error}",
                expected="fewer, so that some pairs are left for training",
            ) from None
        name = f"held out of {', '.join(one.name for one in sources)}"
        evaluations[name] = EvaluationSet(name, corpus, held_out)
    names = [one.name for one, _ in others]
    for one, its_corpus in others:
        name = one.title if names.count(one.name) > 1 else one.name
        evaluations[one.title] = EvaluationSet(name, its_corpus, np.arange(len(its_corpus)))
        if any(_same_rows(its_corpus, trained) for trained in corpora):
            say(f"warning: {one.key}: {one.name} is in data.train, too: it says nothing about pairs not trained on")
    for deciding in list(evaluations.values())[:1]:
        loss.check_metric(config.metric_for_best, deciding.corpus.labels[deciding.pairs])
    each = _chosen(config, sources, by_source(corpus, train))
    parts = tuple(Part(len(chosen), one.weight) for one, chosen in zip(sources, each, strict=True))
    for one, part in zip(sources, parts, strict=True):
        if one.weight != 1:
            say(f"{one.name}: weight {one.weight:g}: an epoch has {part.pairs_per_epoch:,} of {part.pairs:,} pairs")
    train = np.concatenate(each)
    rows_by_label = {}
    uses = zip(sources, corpora, each, by_source(corpus, held_out), _starts(corpus), strict=True)
    for one, its_corpus, chosen, held, start in uses:
        rows_by_label[f"{one.key}: {one.name}"] = _rows_by_label(its_corpus, outputs, chosen - start, held - start)
    for one, its_corpus in others:
        rows_by_label[f"{one.key}: {one.name}"] = its_corpus.rows_by_label
    trained_on = ", ".join(one.name for one in sources)
    for label, pairs in zip(outputs.names, _counted(corpus.labels[train], outputs), strict=False):
        if not pairs:
            say(f"warning: {trained_on}: no row to train on has the label {label}")
    if outputs.problem_type == "regression" and np.ptp(corpus.labels[train]) == 0:
        say(f"warning: {trained_on}: all rows to train on have the score {corpus.labels[train][0, 0]:g}")
    sha256 = {one.key: its_corpus.sha256 for one, its_corpus in (*zip(sources, corpora, strict=True), *others)}
    return TrainingData(corpus, train, sources, parts, evaluations, sha256, rows_by_label)


def _same_rows(one: Corpus, other: Corpus) -> bool:
    """Whether both are of the same file, and of the same member if it is an archive."""
    return one.sha256 == other.sha256 and np.array_equal(one.premises, other.premises)


def _starts(corpus: AnyCorpus) -> Indices:
    """The index of each data set's first pair."""
    return corpus.starts if isinstance(corpus, PooledCorpus) else np.zeros(1, np.int64)


def by_source(corpus: AnyCorpus, pairs: Indices) -> list[Indices]:
    """`pairs` apart by the data set that they are from, in their order."""
    starts = _starts(corpus)
    source = source_of(pairs, starts)
    return [pairs[source == number] for number in range(len(starts))]


def _chosen(config: RunConfig, sources: Sequence[Source], each: Sequence[Indices]) -> list[Indices]:
    """Of the pairs of each source those to train on, by max_pairs and data.max_train_pairs."""
    each = [
        _some(pairs, one.max_pairs, f"{one.key}.max_pairs", [config.seed, 1, number])
        for number, (one, pairs) in enumerate(zip(sources, each, strict=True))
    ]
    if config.data.max_train_pairs is None:
        return each
    together = np.concatenate(each)
    source = np.repeat(np.arange(len(each)), [len(pairs) for pairs in each])
    # The order of what is drawn is kept within a source: a run of one source then trains as it always did.
    places = _some(np.arange(len(together)), config.data.max_train_pairs, "data.max_train_pairs", [config.seed, 1])
    found = [together[places[source[places] == number]] for number in range(len(each))]
    for one, pairs in zip(sources, found, strict=True):
        if not len(pairs):
            do = f"set more than {config.data.max_train_pairs}, or remove that source"
            raise InputError("data.max_train_pairs", found=f"no pair of {one.name} among those drawn", do=do)
    return found


def _some(pairs: Indices, wanted: int | None, key: str, seed: Sequence[int]) -> Indices:
    """`wanted` of the pairs, drawn by the seed; all of them, in their order, if that is as many or None. key: of the
    run file, for messages."""
    if wanted is not None and wanted > len(pairs):
        raise InputError(
            key, found=f"{wanted} of {len(pairs)} pairs", do=f"set {len(pairs)} or fewer, or remove the key"
        )
    if wanted in (None, len(pairs)):
        return pairs
    return np.random.default_rng(seed).choice(pairs, wanted, replace=False)


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
