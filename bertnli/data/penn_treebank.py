"""Splits raw text into Penn Treebank words, as SNLI's binary parses have them; the rules become part of tokenizer.json.

The d2l book's models are trained on SNLI's parse columns: the Stanford tokenizer split the text into Penn Treebank
words ("dog ." and "is n't"), and Python's `text.lower().split()` did the rest. The rules here do both steps. Text that
is already split does not change, and raw text becomes what the Stanford tokenizer made of it: of 220,000 sentences of
SNLI only 46 differ, most of them in a quotation mark that Stanford took for an opening or a closing one by mistake.

The result of Python's `lower` and `split` is reproduced exactly for all characters in Python's Unicode tables. (The
tables of the tokenizers library are newer, so it lower-cases some letters that an older Python does not.)
"""

from __future__ import annotations

from tokenizers import Regex, normalizers, pre_tokenizers

# The regular expressions are Oniguruma's. They never backtrack over a run of unlimited length ("++" and "*+" are
# possessive, and the other repetitions are bounded). So the time is linear in the length of the text, and no text
# reaches the ten million steps after which Oniguruma gives up and the library panics.

# Python's white space (str.isspace): Unicode's white space and four separators (1C to 1F).
_WHITE_SPACE = r"[\t-\r\x1C-\x1F\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"

# The library lower-cases each character by itself. Python follows the Unicode standard (section 3.13, Final_Sigma): a
# sigma after a cased letter, and not before one, gets its final form; case-ignorable characters between do not count.
_CASED = r"[\p{Cased}&&\P{Case_Ignorable}]"
_FINAL_SIGMA = rf"{_CASED}\p{{Case_Ignorable}}*+\KΣ(?!\p{{Case_Ignorable}}*+{_CASED})"

_CLITIC = r"'(?:s|m|d|re|ve|ll)(?!\w)"
_CLIPPED = r"'(?:n'?|\d\ds)(?!\w)"  # rock 'n' roll, the '60s

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def normalizer() -> normalizers.Normalizer:
    """Makes lower case and plain spaces, and writes quotation marks, dashes and brackets as the parses do."""
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


_WORD_END = r"(?=[.,?!'`/\\-]{0,3}(?: |\z))"  # only punctuation follows in the same word

# Parts of the text between two spaces that are words of their own. At each place the first pattern that matches counts.
_WORDS = (
    r"(?<!\S)(?:https?://|www\.)\S{0,2000}[\w/]",
    r"-[lr][rsc]b-",
    r"``?|''",
    _CLIPPED,
    rf"n't(?!\w)|{_CLITIC}",
    r"(?<!\S)(?:can(?=not(?!\w))|gon(?=na(?!\w))|wan(?=na(?!\w))|got(?=ta(?!\w)))",
    # A full stop belongs to initials and abbreviations. It also belongs to the word before a comma, and before another
    # full stop that is a word of its own: Stanford adds one for the end of the sentence ("etc. .").
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
    """Splits text into words: the matches of the patterns, and the text between them and the spaces."""
    words = pre_tokenizers.Split(Regex("|".join(_WORDS)), behavior="isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.WhitespaceSplit()])
