"""The parity gate's built-in sentence pairs. They were written for it, so that a bundle holds no user's data."""

from __future__ import annotations

from itertools import product

# Punctuation, digits and letters that tokenizers differ on. (A graph that pads or masks wrongly fails on any text.)
UNUSUAL = (
    ("A man is eating soup.", "A person is having a meal."),
    ("Two children play football in the rain.", "The children are asleep indoors."),
    ("The blond-haired singer holds a microphone.", "The singer is famous."),
    ("“Stop!” she said, at 7:45.", "She did not say a word."),
    ("A dog runs.", "An animal moves quickly across a wide green field while its owner calls it back."),
    ("Mehrere Leute warten am Bahnhof.", "Des gens attendent le train à la gare."),
    ("它在下雨。", "It is raining."),
    ("An old woman with grey hair sells apples, pears & plums on the market for $3.50 a kilo.", "Fruit is for sale."),
    ("no punctuation and no capitals", "NO LOWER CASE"),
    ("?", "!"),
    ("Nobody is here.", "Somebody isn't there."),
    ("Antidisestablishmentarianism", "A long word."),
)

_WHO = ("A man in a red shirt", "Two young women", "Several children", "An old farmer", "The band", "A brown dog")
_DOES = (
    ("sits on a bench", "is resting", "runs up the stairs"),
    ("plays near the water", "is outdoors", "sleeps in bed"),
    ("waits for the evening train", "is at a station", "drives home in a car"),
    ("looks at the people dancing in the street", "watches a dance", "is all alone"),
    ("climbs a steep rock in the sunshine", "is climbing", "swims across a lake"),
)
_SO = ("", ", holding a blue umbrella", " while a crowd of tourists takes pictures")


def plain() -> list[tuple[str, str]]:
    """Some hundred plain pairs of all three relations: enough for a fraction, such as that of changed labels."""
    return [
        (f"{who} {does}{so}.", f"{who} {then}.")
        for who, (does, *follow), so in product(_WHO, _DOES, _SO)
        for then in (*follow, "will come back tomorrow", does)
    ]
