"""Global batches depend on seed and step alone; their shares cover them once, evenly, without padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.data.batches import Part, Stream, assign_to_ranks, batches_by_length, pack
from bertnli.data.encoded import Encoded


def encoded(lengths: np.ndarray) -> Encoded:
    first = np.maximum(2, lengths // 2).astype(np.int32)
    return Encoded(np.arange(lengths.sum(), dtype=np.int32), lengths.astype(np.int32), first, lengths > 99)


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 2**62))
def test_an_epoch_holds_every_pair_once(pairs, batch, seed):
    stream = Stream(pairs, batch, seed)
    steps = -(-pairs // batch)
    for epoch in (0, 3):
        seen = np.concatenate([stream.step(epoch * steps + number) for number in range(steps)])
        assert sorted(seen) == list(range(pairs))


def test_order_depends_on_seed_and_epoch_and_on_nothing_asked_before():
    stream = Stream(1000, 32, 7)
    later = stream.step(40).copy()
    stream.step(0)
    assert (stream.step(40) == later).all()
    assert (Stream(1000, 32, 8).step(40) != later).any()
    assert (stream.step(0) != stream.step(32)).any()  # step 32 opens the second epoch


@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.floats(0.05, 4)), min_size=1, max_size=4),
    batch=st.integers(1, 64),
    seed=st.integers(0, 2**62),
)
def test_an_epoch_has_each_part_as_often_as_its_weight_says(sizes, batch, seed):
    parts = tuple(Part(*size) for size in sizes)
    stream = Stream(sum(part.pairs for part in parts), batch, seed, parts)
    steps = -(-stream.pairs_per_epoch // batch)
    start = 0
    seen = np.concatenate([stream.step(2 * steps + number) for number in range(steps)])
    for part in parts:
        count = np.bincount(seen[(seen >= start) & (seen < start + part.pairs)] - start, minlength=part.pairs)
        assert count.sum() == part.pairs_per_epoch == max(1, int(part.pairs * part.weight + 0.5))
        assert count.max() - count.min() <= 1  # none a second time more than another
        start += part.pairs


def test_what_a_weight_leaves_out_is_drawn_anew_in_each_epoch():
    stream = Stream(1100, 600, 3, (Part(1000, 0.5), Part(100)))
    assert stream.pairs_per_epoch == 600  # a step is an epoch
    first, second = (set(stream.step(epoch)[stream.step(epoch) < 1000]) for epoch in (0, 1))
    assert len(first) == len(second) == 500 and 150 < len(first & second) < 350
    assert set(stream.step(0)) == set(Stream(1100, 600, 3, (Part(1000, 0.5), Part(100))).step(0))
    ones = Stream(1100, 600, 3, (Part(1000), Part(100)))
    assert all((ones.step(number) == Stream(1100, 600, 3).step(number)).all() for number in range(4))


@given(
    lengths=st.lists(st.integers(5, 128), min_size=1, max_size=200),
    world=st.integers(1, 9),
    max_tokens=st.integers(1, 4096),
    seed=st.integers(0, 99),
)
def test_shares_cover_the_step_once(lengths, world, max_tokens, seed):
    of = np.array(lengths)
    step = np.random.default_rng(seed).permutation(len(of))
    shares = [assign_to_ranks(step, of, world).micro_batches(rank, max_tokens) for rank in range(world)]
    assert sorted(np.concatenate([part for parts in shares for part in parts])) == list(range(len(of)))
    assert len({len(parts) for parts in shares}) == 1  # collectives meet
    for parts in shares:
        for part in parts:
            assert (np.diff(of[part]) >= 0).all()  # sorted, so that equal lengths are neighbours


def test_ranks_and_micro_batches_are_even_on_snli_lengths():
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.gamma(8, 28 / 8, 10_000).astype(int), 8, 80)
    for world in (2, 4, 8):
        for number in range(20):
            step = Stream(len(lengths), 256, 1).step(number)
            shares = [assign_to_ranks(step, lengths, world).micro_batches(rank, 1024) for rank in range(world)]
            tokens = np.array([sum(lengths[part].sum() for part in parts) for parts in shares])
            assert tokens.max() / tokens.mean() < 1.05
            assert max(lengths[part].sum() for parts in shares for part in parts) < 1024 + 80
            assert assign_to_ranks(step, lengths, world).imbalance == pytest.approx(tokens.max() / tokens.mean() - 1)


def test_imbalance_is_what_the_busiest_rank_has_too_much():
    lengths = np.array([10, 20, 30, 40])
    assert assign_to_ranks(np.arange(4), lengths, 1).imbalance == 0
    assert assign_to_ranks(np.arange(4), lengths, 2).imbalance == 0  # 40 + 10, 30 + 20
    assert assign_to_ranks(np.arange(3), lengths, 2).imbalance == 0
    assert assign_to_ranks(np.arange(4), lengths, 4).imbalance == pytest.approx(0.6)  # 40 of a mean of 25


def test_a_step_with_fewer_pairs_than_ranks_leaves_some_empty():
    shares = [assign_to_ranks(np.array([4]), np.full(5, 30), 3).micro_batches(rank, 1024) for rank in range(3)]
    assert [[len(part) for part in parts] for parts in shares] == [[1], [0], [0]]


@given(st.lists(st.integers(5, 60), min_size=1, max_size=40), st.randoms())
def test_pack_is_the_pairs_end_to_end(lengths, random):
    pairs = encoded(np.array(lengths))
    indices = np.array(random.sample(range(len(lengths)), random.randint(1, len(lengths))))
    batch = pack(pairs, indices)
    parts = np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])
    types = np.split(batch.token_type_ids, np.cumsum(batch.lengths)[:-1])
    for index, ids, segment in zip(indices, parts, types, strict=True):
        assert (ids == pairs.ids[pairs.offsets[index] : pairs.offsets[index + 1]]).all()
        assert (segment == (np.arange(len(ids)) >= pairs.first_segment[index])).all()


@given(st.lists(st.integers(5, 128), max_size=100), st.integers(1, 500))
def test_by_length_covers_all_once(lengths, max_tokens):
    of = np.array(lengths, dtype=int)
    batches = batches_by_length(of, max_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(of)))
    assert all(len(batch) for batch in batches)
    assert (np.diff(of[np.concatenate(batches)]) >= 0).all() if batches else True
