"""A bundle in the layout of models on the hub, which programs other than bertnli open too.

    onnx/model.onnx             the graph in fp32
    onnx/model_quantized.onnx   the graph in int8
    config.json, tokenizer.json, tokenizer_config.json, README.md; and the bundle's own manifest.json and parity.npz

sentence-transformers' `CrossEncoder(folder, backend="onnx")`, optimum's `ORTModelForSequenceClassification` and
transformers.js look for the graphs under these names. The graphs' inputs are those that transformers' tokenizer gives:
without token types in its tokenizer_config.json they have no `token_type_ids` either, because programs that pass on
what the tokenizer gives could not run them.

Such programs divide no logits by a temperature, and cut pairs that are too long as `longest_first` does; `notes` says
where bertnli's scores differ because of that.
"""

from __future__ import annotations

from bertnli.common.errors import InputError
from bertnli.data.tokenizer import PairTokenizer
from bertnli_export.manifest import MODEL, QUANTIZED

GRAPHS = {"fp32": f"onnx/{MODEL}", "int8": f"onnx/{QUANTIZED}"}
"""The file of each precision. A bundle's manifest describes the first, and the second among its `others`."""


def check(tokenizer: PairTokenizer, precision: str) -> None:
    """Raise InputError for a model whose tokenizer transformers cannot read, and for a precision that is chosen."""
    if not tokenizer.in_transformers:
        raise InputError(
            "--layout hub",
            found="a tokenizer of d2l's, which transformers does not have",
            expected="a model that transformers can read",
            do="omit --layout",
        )
    if precision != next(iter(GRAPHS)):
        raise InputError(
            "--precision",
            found=f"{precision}, and --layout hub",
            expected=f"neither, or only --layout, which makes {' and '.join(GRAPHS)}",
            do="omit --precision; OUT is scored in fp32, OUT/onnx/model_quantized.onnx in int8",
        )


def notes(tokenizer: PairTokenizer, temperature: float) -> list[str]:
    """For the user: where the scores of other programs differ from bertnli's, and why."""
    found = [
        "on an x86 CPU without VNNI the int8 graph gives NaN in other programs, unless they set the session option "
        "session.x64quantprecision to 1"
    ]
    if temperature != 1:
        found.append(f"other programs do not divide the logits by the temperature, {temperature:g}; the labels agree")
    rule = tokenizer.settings.truncation
    if rule != "longest_first":
        found.append(f"other programs cut pairs that are too long as longest_first does, bertnli as {rule} does")
    return found
