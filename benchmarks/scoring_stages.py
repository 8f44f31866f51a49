"""Where the time of scoring a file goes: each stage alone, one after the other, on the same rows.

In a real run the stages overlap (bertnli_export/stages.py), so a file takes little more than its slowest stage. Without
overlap it would take their sum.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peer import stopwatch


def seconds_by_stage(scorer: Any, rows: Path) -> dict[str, float]:
    """The stages of a `Scorer` on a labelled file without bad rows: read, tokenise, pad, copy (only to a GPU), model,
    write."""
    from bertnli_export.codec import Codec
    from bertnli_export.scorer import CHUNK, Submitted, padded_batches
    from bertnli_export.writer import open_writer

    from bertnli.data.pairs import PairFile

    device, outputs = scorer.session.device, scorer.bundle.outputs
    file = PairFile(str(rows), prefer_parse=scorer.tokenizer.settings.reads_parse)
    found = {}
    with tempfile.TemporaryDirectory() as folder, open_writer(f"{folder}/out.jsonl", file, outputs) as writer:
        codec = Codec(file, outputs, writer.encoder)
        with stopwatch() as seconds:
            tasks = [codec.parse(chunk) for chunk in file.raw_chunks(CHUNK[device.kind])]
        found["read"] = seconds()
        with stopwatch() as seconds:
            texts = [task.texts for task in tasks]
            encoded = [scorer.tokenizer.encode(part.premises, part.hypotheses) for part in texts]
        found["tokenise"] = seconds()
        with stopwatch() as seconds:
            batches = [list(padded_batches(part, scorer.tokenizer.pad_id, device)) for part in encoded]
        found["pad"] = seconds()
        if device.kind == "cuda":
            with stopwatch() as seconds:
                _copy(array for part in batches for _, inputs in part for array in inputs)
            found["copy"] = seconds()
        scorer.session.submit(batches[0][0][1]).result()  # buffers and kernels are there
        with stopwatch() as seconds:
            begun = [
                Submitted(
                    part.truncated, part.unfit, [(places, scorer.session.submit(inputs)) for places, inputs in cut]
                )
                for part, cut in zip(encoded, batches, strict=True)
            ]
            judged = [scorer.collect(part) for part in begun]
        found["model"] = seconds()
        with stopwatch() as seconds:
            for task, part in zip(tasks, judged, strict=True):
                writer.append(codec.encode(task, part).data, len(task.chunk.rows))
            writer.finish()
        found["write"] = seconds()
    return found


def _copy(arrays: Iterable[Any]) -> None:
    import onnxruntime as ort

    for array in arrays:
        ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
