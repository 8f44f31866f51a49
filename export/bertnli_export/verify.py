"""`bertnli verify`: whether a bundle computes, on this machine's device, what its checkpoint computes.

It needs neither the checkpoint nor torch, because the bundle holds the pairs of the parity gate and their logits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.urls import is_url
from bertnli.data.columns import Columns
from bertnli.data.dialect import Dialect
from bertnli.evaluation.data_sets import open_set
from bertnli_export.manifest import MANIFEST, PARITY, update_manifest
from bertnli_export.parity import Differences, Reference, compare, to_parity
from bertnli_export.remote_bundle import local_bundle
from bertnli_export.scorer import Scorer
from bertnli_export.scoring_setup import prepare

_FIGURES = ("accuracy", "pearson", "spearman", "mse", "average_precision", "roc_auc", "micro_f1", "rows", "truncated")


def verify(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    columns: Columns | None = None,
    label_names: Mapping[str, str] | None = None,
    dialect: Dialect | None = None,
    skip_bad_rows: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compare a bundle's files with its manifest, and its logits on `device` with the checkpoint's; accuracy on `data`.

    path: a folder, or a URL (remote_bundle.py), of which every file is asked for, even if there is a copy.
    If the parity could not be checked where the bundle was made, it is written into the manifest now, and from then on
    the bundle can be used for scoring.

    data: a labelled file, or the name of a fetched one. columns, label_names, dialect, skip_bad_rows: see
    `data_sets.open_set` and `labelled.read_labelled`. `say` gets a line for each thing to know about how it is read.

    Returns `bundle`, `device`, `precision`, `pairs`, `max_logit_difference`, `max_company_difference` (batch
    invariance), `label_flips` unless the model gives a score, `score_error` unless it gives one of several labels, and
    with data `rows`, `truncated` and `accuracy`, or the figures of scores or of independent labels. Raises InputError
    for a damaged bundle, bad data or an unusable device, RunError if the bundle does not compute what its checkpoint
    computes.
    """
    url = os.fspath(path) if is_url(os.fspath(path)) else None
    setup = prepare(path if url is None else local_bundle(url, fresh=True), device, unverified=True)
    bundle, shown = setup.bundle, str(setup.bundle.place) if url is None else url
    if url is not None and bundle.manifest.parity is None:
        raise InputError(
            f"{url}: was never compared with its checkpoint, and its manifest cannot be written there",
            do=f"copy the bundle here, give bertnli verify its folder, and copy its {MANIFEST} back",
        )
    scorer = Scorer.from_setup(setup)
    reads_parse = scorer.tokenizer.settings.reads_parse
    given = None
    if data is not None:
        options: dict[str, Any] = {"label_names": label_names, "dialect": dialect, "prefer_parse": reads_parse}
        given = open_set(os.fspath(data), columns, problem_type=bundle.outputs.problem_type, **options)
    reference, precision = Reference.load(bundle.file(PARITY)), bundle.manifest.precision
    reference.check_fits(len(bundle.labels), scorer.tokenizer, str(bundle.file(PARITY)))
    differences = compare(reference, scorer.session.logits, scorer.tokenizer.pad_id, bundle.outputs)
    differences.check(precision, f"{shown} on {scorer.session.description}")
    if bundle.manifest.parity is None:
        nothing, lengths = Differences(bundle.outputs), reference.encoded.lengths
        parity = to_parity(differences, nothing, lengths, precision, scorer.session.device)
        update_manifest(bundle.path, parity=parity)
    summary: dict[str, Any] = {
        "bundle": shown,
        "device": scorer.session.device.kind,
        "precision": precision,
        **differences.summary(),
    }
    if given is not None:
        found = given.measure(scorer, skip_bad_rows=skip_bad_rows)
        for note in given.file.notes:
            say(note)
        summary |= {name: found[name] for name in _FIGURES if name in found}
    return summary
