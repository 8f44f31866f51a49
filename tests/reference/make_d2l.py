"""What the d2l package itself computes: models of its own classes, with random weights, and their logits.

    python tests/reference/make_d2l.py OUT tiny odd      # OUT/d2l_tiny.safetensors, … as committed beside this file
    python tests/reference/make_d2l.py OUT bert.small    # and the files in the layout of the book

Run it where torch and safetensors are, and d2l without its dependencies (`pip install --no-deps d2l==1.0.3`): it pins
old versions of what it plots, downloads and reads pictures with, and here does none of that.

Each .safetensors holds the state dict of the book's BERTClassifier (`classifier.…`), of the BERTModel it was made from
(`pretrained.…`), a batch (`ids`, `segments`, `valid_lens`) and the classifier's logits for it (`logits`; with dropout,
after `torch.manual_seed(0)`, `training_logits`); its metadata, the sizes.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import safetensors.torch
import torch
from torch import nn

for unused in ("IPython", "PIL", "matplotlib", "matplotlib_inline", "pandas", "requests", "scipy", "torchvision"):
    sys.modules[unused] = MagicMock()
sys.modules["scipy.spatial"] = MagicMock()

from d2l import torch as d2l  # noqa: E402

SIZES = {  # vocabulary, hidden, feed-forward, heads, blocks, positions
    "tiny": (30, 16, 24, 4, 2, 12),
    "odd": (23, 15, 10, 3, 3, 9),
    "bert.small": (200, 256, 512, 4, 2, 512),
    "bert.base": (200, 768, 3072, 12, 12, 512),
}
SPECIAL = ["<unk>", "<pad>", "<mask>", "<cls>", "<sep>"]


class BERTClassifier(nn.Module):
    """The book's section 16.7.3, which is not in its package: a classifier on the encoder and the `hidden` layer."""

    def __init__(self, bert: nn.Module, labels: int):
        super().__init__()
        self.encoder, self.hidden, self.output = bert.encoder, bert.hidden, nn.LazyLinear(labels)

    def forward(self, ids: torch.Tensor, segments: torch.Tensor, valid_lens: torch.Tensor) -> torch.Tensor:
        return self.output(self.hidden(self.encoder(ids, segments, valid_lens)[:, 0, :]))


def make(out: Path, name: str) -> None:
    torch.manual_seed(len(name))
    vocabulary, hidden, feed_forward, heads, blocks, positions = SIZES[name]
    bert = d2l.BERTModel(vocabulary, hidden, feed_forward, heads, blocks, dropout=0.2, max_len=positions)
    classifier = BERTClassifier(bert, labels=3)

    length = min(positions, 40)
    valid_lens = torch.tensor([length, 3, length - 2, 5, length // 2])
    ids = torch.randint(len(SPECIAL), vocabulary, (len(valid_lens), length))
    ids[:, 0] = SPECIAL.index("<cls>")
    ids[torch.arange(length) >= valid_lens[:, None]] = SPECIAL.index("<pad>")
    segments = (torch.arange(length) >= valid_lens[:, None] // 2).long()
    segments[torch.arange(length) >= valid_lens[:, None]] = 0  # as the book pads them
    batch = {"ids": ids, "segments": segments, "valid_lens": valid_lens}

    bert(ids, segments, valid_lens, torch.zeros(len(ids), 2, dtype=torch.long))  # its lazy layers take their sizes
    classifier(**batch)
    for module in classifier.modules():  # larger than fresh ones, so that the logits depend on everything
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 * module.in_features**-0.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.2)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        logits = classifier.eval()(**batch)
        torch.manual_seed(0)
        training_logits = classifier.train()(**batch)

    tensors = {f"pretrained.{key}": tensor.clone() for key, tensor in bert.state_dict().items()}
    tensors |= {f"classifier.{key}": tensor.clone() for key, tensor in classifier.state_dict().items()}
    sizes = dict(
        zip(("vocab_size", "hidden_size", "intermediate_size", "num_heads", "num_layers"), SIZES[name], strict=False)
    )
    metadata = {"sizes": json.dumps({**sizes, "max_positions": positions})}
    results = {"logits": logits, "training_logits": training_logits}
    safetensors.torch.save_file({**tensors, **batch, **results}, out / f"d2l_{name}.safetensors", metadata)

    if name.startswith("bert."):  # OUT/bert.small.torch.zip, and OUT/bert.small/ as a reader of the book leaves it
        words = json.dumps([*SPECIAL, *(f"word{number}" for number in range(vocabulary - len(SPECIAL)))])
        folder = out / name
        folder.mkdir()
        (folder / "vocab.json").write_text(words)
        torch.save(classifier.state_dict(), folder / "classifier.params")
        with zipfile.ZipFile(out / f"{name}.torch.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(f"{name}.torch/vocab.json", words)
            with archive.open(f"{name}.torch/pretrained.params", "w") as file:
                torch.save(bert.state_dict(), file)


if __name__ == "__main__":
    for size in sys.argv[2:]:
        make(Path(sys.argv[1]), size)
