import random
from itertools import chain, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from service.budget import KEYS, Held, Ledger, Window

DAY = "2026-01-31"


def held(key: int, label: str = "cat", day: str = DAY, nbytes: int = 10, kind: str = "rejected", time: str = "120000") -> Held:
    return Held("tiny", day, kind, label, time, key, nbytes)


def filled(ledger: Ledger, coming: list[Held]) -> set[Held]:
    """What a ledger ends with when these come one by one."""
    for entry in coming:
        if (going := ledger.room(entry)) is not None:
            ledger.drop(going)
            ledger.add(entry)
    return {entry for labels in ledger.shelves.values() for entries in labels.values() for entry in entries}


def sizes(entries: set[Held]) -> dict[str, int]:
    return {name: entry.nbytes // 2 for entry in entries for name in entry.names}


def test_a_window_holds_a_fair_sample_of_all_that_came_not_the_first() -> None:
    rng = random.Random(0)
    chosen = np.zeros(500, int)
    for _ in range(400):
        window = Window[int](50, 10**9)
        for place in range(500):
            if window.takes(key := rng.getrandbits(64)):
                window.add(key, place, 1)
        chosen[window.items()] += 1
        assert len(window.items()) == 50
    # By tenths of the order of arrival.
    assert chisquare(chosen.reshape(10, 50).sum(axis=1)).pvalue > 0.001


@given(st.lists(st.tuples(st.integers(0, KEYS - 1), st.integers(1, 60)), unique_by=lambda pair: pair[0]))
def test_a_window_is_bounded_in_number_and_bytes_and_counts_what_it_leaves_out(coming: list[tuple[int, int]]) -> None:
    window = Window[int](5, 100)
    for key, nbytes in coming:
        if window.takes(key):
            window.add(key, key, nbytes)
    found = window.items()
    assert len(found) <= 5
    assert window.nbytes == sum(nbytes for key, nbytes in coming if key in found) <= 100
    assert len(found) + window.left_out == len(coming)
    assert found == sorted(found)


keys = st.lists(st.tuples(st.integers(0, KEYS - 1), st.sampled_from(["cat", "dog", "bird"])), unique_by=lambda pair: pair[0], max_size=40)


@given(keys, st.randoms(use_true_random=False))
def test_what_a_day_keeps_depends_on_keys_alone_not_on_their_order(coming: list[tuple[int, str]], shuffler: random.Random) -> None:
    entries = [held(key, label) for key, label in coming]
    kept = filled(Ledger(4, 9, 10**6), entries)
    shuffler.shuffle(entries)
    assert filled(Ledger(4, 9, 10**6), entries) == kept
    best = [sorted((entry for entry in entries if entry.label == label), key=lambda entry: entry.key)[:4] for label in ("cat", "dog", "bird")]
    assert kept == set(sorted(chain.from_iterable(best), key=lambda entry: entry.key)[:9])


@given(keys)
def test_two_servers_that_share_a_place_end_with_what_one_would_have_kept(coming: list[tuple[int, str]]) -> None:
    entries = [held(key, label) for key, label in coming]
    first, second = (filled(Ledger(4, 9, 10**6), half) for half in (entries[::2], entries[1::2]))
    together = Ledger(4, 9, 10**6)
    together.read(sizes(first | second).items())
    together.drop(together.excess())
    assert filled(together, []) == filled(Ledger(4, 9, 10**6), entries)


def test_kinds_models_and_days_have_budgets_of_their_own() -> None:
    ledger = Ledger(1, 1, 10**6)
    entries = [held(5), held(6, kind="control"), held(7, day="2026-02-01"), Held("other", DAY, "rejected", "cat", "120000", 8, 10)]
    assert filled(ledger, entries) == set(entries)
    assert ledger.room(held(9, label="dog")) is None


@given(st.lists(st.tuples(st.integers(0, KEYS - 1), st.sampled_from([1, 2, 3]), st.integers(2, 300)), unique_by=lambda entry: entry[0]))
def test_bytes_are_never_more_than_allowed_and_old_days_go_first(coming: list[tuple[int, int, int]]) -> None:
    ledger = Ledger(100, 100, 500)
    kept: set[Held] = set()
    for key, day, nbytes in coming:
        new = held(key, day=f"2026-01-0{day}", nbytes=nbytes)
        before, kept = kept, filled(ledger, [new])
        assert ledger.nbytes == sum(entry.nbytes for entry in kept) <= 500
        gone = sorted(before - kept, key=lambda entry: (entry.day, -entry.key))
        stayed = before & kept
        # Whoever went stood behind everyone who stayed.
        assert all((a.day, -a.key) < (b.day, -b.key) for a in gone for b in stayed)
        assert all(a.day <= b.day for a, b in pairwise(gone))


def test_a_picture_larger_than_all_that_is_allowed_drives_nothing_out() -> None:
    ledger = Ledger(10, 10, 100)
    filled(ledger, [held(5), held(6)])
    assert ledger.room(held(1, nbytes=101)) is None
    assert ledger.nbytes == 20


def test_a_smaller_budget_than_before_is_kept_at_once() -> None:
    entries = {held(key, label) for key in range(10) for label in ("cat", "dog")}
    ledger = Ledger(3, 100, 10**6)
    ledger.read(sizes(entries).items())
    assert {entry.key for entry in entries - set(ledger.excess())} == {0, 1, 2}


def test_files_that_are_not_ours_are_neither_counted_nor_removed() -> None:
    ledger = Ledger(1, 1, 1)
    files = {"notes.txt": 10**9, f"tiny/{DAY}/rejected/cat/holiday.png": 10**9, f"tiny/{DAY}/other/cat/120000-{5:016x}.png": 5}
    ledger.read(files.items())
    assert (ledger.nbytes, ledger.excess(), ledger.before("2030-01-01", "000000")) == (0, [], [])


def test_what_a_killed_process_left_half_written_goes_first() -> None:
    ledger = Ledger(2, 2, 10**6)
    partial = f"tiny/{DAY}/rejected/cat/.partial-0a1b2c3d"
    ledger.read((sizes({held(5), held(6)}) | {partial: 7}).items())
    assert ledger.nbytes == 27
    assert [entry.names for entry in ledger.excess()] == [[partial]]


def test_age_is_told_by_the_name_to_the_second() -> None:
    ledger = Ledger(10, 10, 10**6)
    old, young, yesterday = held(1, time="115959"), held(2), held(3, day="2026-01-30", time="235959")
    filled(ledger, [old, young, yesterday])
    assert set(ledger.before(DAY, "120000")) == {old, yesterday}
