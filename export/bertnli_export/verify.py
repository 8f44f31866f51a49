"""Does a bundle compute what its checkpoint computes? Asked at every export, and of any bundle on any device later.

The gate runs sentence pairs of every length from 3 tokens to the model's most, alone and in company of very different
lengths, in batches of 1, 2, 3 and 32, then some hundred plain ones, and compares the logits with the checkpoint's own.
These pairs stay in the bundle (`parity.npz`) with the checkpoint's logits, so that `bertnli verify` needs neither
checkpoint nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bertnli.data.columns import Columns
from bertnli.evaluation.data_sets import open_set
from bertnli_export.bundle import PARITY, update_manifest
from bertnli_export.parity import Figures, Reference, _parity, compare
from bertnli_export.scorer import Scorer
from bertnli_export.scoring_setup import prepare


def verify(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    columns: Columns | None = None,
    label_names: Mapping[str, str] | None = None,
    skip_bad_rows: bool = False,
) -> dict[str, Any]:
    """Check a bundle's files, and its logits on this machine's device against the checkpoint's; accuracy on `data`.

    A bundle whose parity could not be checked where it was made has it in its manifest from then on, and scores.

    data: a labelled file, or a fetched name; columns, label_names, skip_bad_rows: as `pairs.read_labelled` has them.

    Returns `bundle`, `device`, `precision`, `pairs`, `max_logit_difference`, `label_flips`, and with data `accuracy`
    and `rows`. Raises InputError for a damaged bundle, bad data or an unusable device, RunError if the bundle does not
    compute what its checkpoint computes.
    """
    scorer = Scorer.from_setup(prepare(path, device, unverified=True))
    bundle = scorer.bundle
    reads_parse = scorer.tokenizer.settings.reads_parse
    given = (
        None if data is None else open_set(os.fspath(data), columns, label_names=label_names, prefer_parse=reads_parse)
    )
    known, precision = Reference.load(bundle.file(PARITY)), bundle.manifest.precision
    figures = compare(known, scorer.session.logits, scorer.tokenizer.pad_id)
    figures.check(precision, f"{bundle.path} on {scorer.session.description}")
    if bundle.manifest.parity is None:
        parity = _parity(figures, Figures(), known.encoded.lengths, precision, scorer.session.device)
        update_manifest(bundle.path, parity=parity)
    summary: dict[str, Any] = {
        "bundle": str(bundle.path),
        "device": scorer.session.device.kind,
        "precision": precision,
        **vars(figures),
    }
    if given is not None:
        found = given.measure(scorer, skip_bad_rows=skip_bad_rows)
        summary |= {"accuracy": found["accuracy"], "rows": found["rows"]}
    return summary
