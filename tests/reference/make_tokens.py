"""Writes d2l_tokens.json beside itself: ids and segments that the d2l package's own functions give for some pairs.

Run where torch is, and d2l without its dependencies (`pip install --no-deps d2l==1.0.3`). The truncation is the
book's chapter's (Dive into Deep Learning, 16.7), which is not in the package: its loop, in words of our own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

for unused in (
    "IPython",
    "PIL",
    "matplotlib",
    "matplotlib_inline",
    "pandas",
    "requests",
    "scipy",
    "scipy.spatial",
    "torchvision",
):
    sys.modules[unused] = MagicMock()  # for plots and images; imported, not used here

from d2l import torch as d2l  # noqa: E402

PAIRS = [
    ("A man inspects the uniform of a figure in some East Asian country .", "The man is sleeping ."),
    ("An older and younger man smiling .", "Two men are smiling and laughing at the cats playing on the floor ."),
    ("A soccer game with multiple males playing .", "Some men are playing a sport ."),
    ("A blond-haired girl in a T-shirt , who is n't smiling , holds a sign .", "The girl 's sign reads `` STOP '' ."),
    ("People watching T.V.", "Mr. and Mrs. Smith are watching the U.S. Open on TV at 9:30 a.m. ."),
    ("-LRB- A man and a dog -RRB- , sitting on the floor ...", "They 're in the '60s ; it is half-dark , 50 % ."),
    ("The man paid $ 10,000 for the # 44 sign -- or did n't he ?", "A man ca n't pay ."),
    ("", "The first sentence is empty ."),
    ("The second sentence is empty .", "   "),
    (
        "  Spaces\tand \x0b\x0c other\xa0white\u2003space\u2028between\x1fthe words\x85",
        "white\u3000space \x1c\x1d\x1e .",
    ),
    ("ÉCOLE École İstanbul STRASSE straße ΟΔΟΣ ΟΔΟΣ . Σ ΑΣ'Α ǅ ﬀ", "école istanbul i̇stanbul οδος οδοσ ß"),
    ("A <sep> typed by <UNK> hand <cls> <pad> <mask>", "a<sep>b"),
    (" ".join(f"w{i}" for i in range(40)) + " the", " ".join(["a", "man"] * 20)),
    (" ".join(["the", "girl", "is"] * 9), " ".join(["the", "girl", "is"] * 9)),
]
MAX_LENS = (128, 50, 21, 20, 6, 5)


def truncate(p_tokens: list[str], h_tokens: list[str], max_len: int) -> None:
    while len(p_tokens) + len(h_tokens) > max_len - 3:
        longer = p_tokens if len(p_tokens) > len(h_tokens) else h_tokens
        longer.pop()


def main() -> None:
    sentences = [[s.lower() for s in column] for column in zip(*PAIRS, strict=True)]
    premises, hypotheses = (d2l.tokenize(column) for column in sentences)
    # The words of the premises only, so that some are unknown.
    vocab = d2l.Vocab(premises, reserved_tokens=["<pad>", "<mask>", "<cls>", "<sep>"])
    encoded = {}
    for max_len in MAX_LENS:
        encoded[max_len] = []
        for p_tokens, h_tokens in zip(premises, hypotheses, strict=True):
            p_tokens, h_tokens = p_tokens[:], h_tokens[:]
            truncate(p_tokens, h_tokens, max_len)
            tokens, segments = d2l.get_tokens_and_segments(p_tokens, h_tokens)
            encoded[max_len].append({"ids": vocab[tokens], "segments": segments})
    reference = {"vocab": vocab.idx_to_token, "pairs": PAIRS, "encoded": encoded}
    Path(__file__).with_name("d2l_tokens.json").write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    main()
