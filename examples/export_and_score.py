"""Export a trained model to an ONNX bundle and score pairs with it, from Python.

    python examples/export_and_score.py runs/own/model bundle

Exporting needs the extra `export`; scoring needs the plain install.
"""

import sys
from pathlib import Path

from bertnli_export.build import export_bundle

from bertnli import Scorer
from bertnli.model import pretrained

model, bundle = map(Path, sys.argv[1:])
summary = export_bundle(pretrained.load(model), bundle)  # raises an error, and leaves nothing, if the logits differ
print(f"{summary['bundle']}: {summary['precision']}, {summary['fused_attention']} fused attention operators")

scorer = Scorer(bundle, device="cpu")  # the default, `auto`, takes a GPU if there is one
pairs = [("A man is playing a guitar.", "A person makes music."), ("Two dogs run on a beach.", "The dogs sleep.")]
for pair, score in zip(pairs, scorer.score(pairs), strict=True):
    print(*pair, score.label, f"{score.probabilities[score.label]:.3f}", sep="\t")
