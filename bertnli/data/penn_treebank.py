"""Raw text to the words of SNLI's binary parses, as parts of a `tokenizer.json`.

d2l's models know SNLI as its parse columns have it: split by the Stanford tokenizer into Penn Treebank words
("dog ." and "is n't"), then by Python, `text.lower().split()`. The rules here do both. Text that is already split
stays as it is, word for word, and raw text becomes what Stanford made of it: on 220,000 sentences of SNLI all but
46, most of those with a quotation mark that Stanford took for the other side's.

Python's `lower` and `split` are met exactly, for all characters that Python's own Unicode tables know: the library's
are newer, and it lower-cases some letters that an older Python leaves alone.
"""

from __future__ import annotations

from tokenizers import Regex, normalizers, pre_tokenizers

# Patterns are Oniguruma's. None goes back over a run of any length ("++" and "*+" do not, the other repetitions are
# bounded): so time grows with the length of the text and no faster, and no text reaches the ten million steps after
# which Oniguruma gives up and the library panics.

# Python's white space (str.isspace): Unicode's and four separators (1C to 1F).
_WHITE_SPACE = r"[\t-\r\x1C-\x1F\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"

# The library lower-cases character by character; Python, by the Unicode standard (section 3.13, Final_Sigma), gives a
# sigma its final form after a cased letter and not before one, with any case-ignorable characters between.
_CASED = r"[\p{Cased}&&\P{Case_Ignorable}]"
_FINAL_SIGMA = rf"{_CASED}\p{{Case_Ignorable}}*+\KΣ(?!\p{{Case_Ignorable}}*+{_CASED})"

_CLITIC = r"'(?:s|m|d|re|ve|ll)(?!\w)"
_CLIPPED = r"'(?:n'?|\d\ds)(?!\w)"  # rock 'n' roll, the '60s

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def normalizer() -> normalizers.Normalizer:
    """Lower case; plain spaces; quotation marks, dashes and brackets as the parses write them."""
    replacements: list[tuple[str | Regex, str]] = [
        (Regex("[–—]"), " -- "),
        ("…", "..."),
        (Regex("[‘’]"), "'"),
        (Regex(rf"(?<!\S)(?!{_CLITIC}|{_CLIPPED})'(?=\w)"), " ` "),
        (Regex("[“”]|''"), '"'),
        (Regex(r'(?<![^ (\[{])"(?=\S)'), " `` "),
        ('"', " '' "),
        *((bracket, f" {name} ") for bracket, name in _BRACKETS.items()),
    ]
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(_WHITE_SPACE), " "),
            normalizers.Replace(Regex(_FINAL_SIGMA), "ς"),
            normalizers.Lowercase(),
            *(normalizers.Replace(pattern, content) for pattern, content in replacements),
        ]
    )


_WORD_END = r"(?=[.,?!'`/\\-]{0,3}(?: |\z))"  # nothing but punctuation after it

# What is a word of its own inside text between spaces; at each place the first pattern that fits.
_WORDS = (
    r"(?<!\S)(?:https?://|www\.)\S{0,2000}[\w/]",
    r"-[lr][rsc]b-",
    r"``?|''",
    _CLIPPED,
    rf"n't(?!\w)|{_CLITIC}",
    r"(?<!\S)(?:can(?=not(?!\w))|gon(?=na(?!\w))|wan(?=na(?!\w))|got(?=ta(?!\w)))",
    # A full stop stays with initials and abbreviations. It also does before a comma, and before another full stop that
    # stands apart: then it is the word's own, and Stanford has written one for the sentence ("etc. .").
    rf"(?<!\S)(?:(?:[a-z]\.){{1,8}}|(?:mr|mrs|ms|dr|st|mt|ft|jr|sr|etc|corp|inc|ltd)\.){_WORD_END}",
    r"\.\.\.",
    rf"\.(?!,| ++[.,](?: |\z)){_WORD_END}",
    r",(?!\d)|(?<!\d),",  # but 10,000
    r":(?!\d)",  # but 4:06
    r"(?<=:\d\d)[ap]m(?!\w)",
    r"[?!]+|[;%$#]",
    r"'(?!\w)",
    r"--+|(?<!\S)[-&/\\]|[-&/\\](?!\w)",  # but blond-haired, r&b, his/her
)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Words: what the patterns take out, and what is left between them and the spaces."""
    words = pre_tokenizers.Split(Regex("|".join(_WORDS)), behavior="isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.WhitespaceSplit()])
