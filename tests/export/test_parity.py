"""The parity gate: which pairs it runs, and what it refuses."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from bertnli_export import parity
from bertnli_export.bundle import Bundle
from bertnli_export.graphs.graph import torch_logits

from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import Outputs
from bertnli.evaluation.data_sets import open_set
from bertnli.model.pretrained import Pretrained
from tests.support import tiny
from tests.support.bundles import rows_file


def test_a_graph_that_sees_padding_fails_the_gate(tiny_source: Pretrained) -> None:
    model = tiny_source.build().eval()
    reference = parity.reference(partial(torch_logits, model), tiny_source.tokenizer)

    def sees_padding(ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> np.ndarray:
        return torch_logits(model, ids, np.ones_like(mask), types)

    with pytest.raises(RunError, match=r"it does not compute what its checkpoint computes.*logit.*other pairs of its"):
        parity.compare(reference, sees_padding, tiny_source.tokenizer.pad_id, tiny_source.config.outputs).check(
            "fp32", "it"
        )


def test_the_gate_fails_on_flipped_labels_and_on_what_is_no_number() -> None:
    figures = parity.Differences(Outputs(("a", "b")))
    figures.add(np.array([[1.0, 1.00001]], np.float32), np.array([[1.00001, 1.0]], np.float32))
    with pytest.raises(RunError, match="1 of 1 built-in pairs' labels differ"):
        figures.check("fp32", "it")
    figures = parity.Differences(Outputs(("a", "b")))
    figures.add(np.array([[np.nan, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32))
    with pytest.raises(RunError, match="difference of a logit is inf"):
        figures.check("fp32", "it")


def test_the_gate_covers_every_batch_size_and_length() -> None:
    tokenizer = Bundle.open(tiny.bundle()).tokenizer()
    known = parity.reference(lambda ids, mask, types: np.zeros((len(ids), 3), np.float32), tokenizer)
    shapes, mixed_batches = [], 0

    def watch(ids, mask, types):
        nonlocal mixed_batches
        shapes.append(ids.shape)
        mixed_batches += len(set(mask.sum(axis=1))) > 1
        assert types.max() == 1
        return np.zeros((len(ids), 3), np.float32)

    parity.compare(known, watch, tokenizer.pad_id, Outputs(tiny.SNLI_LABELS))
    assert {batch for batch, _ in shapes} >= {1, 2, 3, 32}
    assert {length for batch, length in shapes if batch == 1} >= {3, 4, 5, 7, 8, 9, 31, 32, 33, 47, 48}
    assert mixed_batches > 10
    assert max(length for _, length in shapes) == tokenizer.max_length
    assert len(known.encoded) > 300
    for index, length in enumerate(known.encoded.lengths):
        pair = known.encoded.ids[known.encoded.offsets[index] :][:length]
        assert pair[0] == tokenizer.cls_id
        assert pair[-1] == pair[known.encoded.first_segment[index] - 1] == tokenizer.sep_id


def test_rows_without_labels_serve_as_well(tiny_source, tmp_path) -> None:
    rows = [{"premise": row["sentence1"], "hypothesis": row["sentence2"]} for row in tiny.snli_rows(5)]
    real = parity.RealRows.read(rows_file(tmp_path, rows), tiny_source.config.outputs)
    assert real.gold.tolist() == [-1] * 5
    for unsaid in ("-", "", None, -1):
        real = parity.RealRows.read(
            rows_file(tmp_path, [{**row, "label": unsaid} for row in rows]), tiny_source.config.outputs
        )
        assert real.gold.tolist() == [-1] * 5
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"premise": "", "hypothesis": "a"}\n')
    with pytest.raises(InputError, match="no usable row"):
        parity.RealRows.read(open_set(str(empty)), tiny_source.config.outputs)


def test_labels_that_the_model_does_not_know_do_not_pass_for_none(tiny_source, tmp_path) -> None:
    """Otherwise the gate would silently skip the accuracy."""
    rows = [
        {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": number % 3}
        for number, row in enumerate(tiny.snli_rows(6))
    ]
    data = rows_file(tmp_path, rows)
    with pytest.raises(
        InputError, match=r"rows\.jsonl: the model knows none of the labels; found '0', '1', '2'; .*--label-names"
    ):
        parity.RealRows.read(data, tiny_source.config.outputs)
    told = open_set(str(data.file.path), label_names=dict(zip("012", tiny_source.config.labels, strict=True)))
    assert parity.RealRows.read(told, tiny_source.config.outputs).gold.tolist() == [0, 1, 2] * 2


def test_long_pairs_are_few_and_not_many_together():
    """A batch of 32 pairs of 8,192 tokens would need 100 GB for the scores of 12 heads."""
    lengths = parity.chosen_lengths(8192)
    assert {1023, 1024, 1025, 2048, 4096, 8192} <= set(lengths) and 2047 not in lengths
    assert parity.chosen_lengths(512) == [n for n in lengths if n <= 512]
    seen = set()
    for batch in parity._mixed_batches(np.array(lengths)):
        longest = max(lengths[pair] for pair in batch)
        assert len(batch) == 1 or len(batch) * longest**2 <= 32 * 1024**2
        seen.add((len(batch), longest))
    assert {(1, 8192), (2, 4096), (32, 1024)} <= seen
