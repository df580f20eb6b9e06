"""Parts of a data set: disjoint, without leaks, with every class."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import toy_domains
from hypothesis import given
from hypothesis import strategies as st

from jaxconvex.study.datasets import Dataset, read_dataset
from jaxconvex.study.splits import split, stratified_split

FRACTIONS = (0.5, 0.15, 0.35)


def made(labels, groups=None, parts=None):
    labels = np.asarray(labels)
    as_array = [None if names is None else np.asarray(names) for names in (groups, parts)]
    return Dataset(np.arange(len(labels)), {"class": labels, "other": labels[::-1]}, *as_array, {}, "Numbers.")


def counts(labels, part):
    return dict(zip(*(array.tolist() for array in np.unique(labels[part], return_counts=True)), strict=True))


@st.composite
def datasets(draw):
    """Classes of 40 to 90 points, in groups or not, with a test part that the authors fixed or not."""
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    sizes = draw(st.lists(st.integers(40, 90), min_size=2, max_size=4))
    labels = generator.permutation(np.repeat([f"class {i}" for i in range(len(sizes))], sizes))
    groups = generator.integers(0, draw(st.integers(6, 12)), len(labels)) if draw(st.booleans()) else None
    parts = None
    if draw(st.booleans()):
        test = generator.random(len(labels)) < 0.3 if groups is None else groups < 2
        parts = np.where(test, "test", "train")
    return made(labels, groups, parts)


@given(
    dataset=datasets(),
    seed=st.integers(0, 9),
    most=st.tuples(*[st.none() | st.integers(4, 60)] * 3),
    balanced=st.booleans(),
)
@pytest.mark.long
def test_what_holds_for_all_splits(dataset, seed, most, balanced):
    names = sorted(set(dataset.labelings["class"].tolist()))
    options = {"most": most, "balanced": balanced, "classes": names}
    parts = split(dataset, jax.random.key(seed), **options)
    again = split(dataset, jax.random.key(seed), **options)
    for part, same, limit in zip(parts[:3], again[:3], most, strict=True):
        np.testing.assert_array_equal(part, same)
        assert np.all(np.diff(part) > 0)
        assert limit is None or len(part) <= limit
        found = counts(dataset.labelings["class"], part)
        assert sorted(found) == names
        assert not balanced or len(set(found.values())) == 1
    assert parts.left_out == ()
    assert len(np.unique(np.concatenate(parts[:3]))) == sum(len(part) for part in parts[:3])
    if dataset.groups is not None:
        owners = [set(dataset.groups[part].tolist()) for part in parts[:3]]
        assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    if dataset.parts is not None:
        assert set(dataset.parts[parts.test]) == {"test"}
        assert set(dataset.parts[np.concatenate(parts[:2])]) == {"train"}
    if most == (None,) * 3 and not balanced:
        assert sum(len(part) for part in parts[:3]) == len(dataset.inputs)


def test_other_keys_give_other_parts():
    grouped = made(np.tile(["a", "b"], 100), np.repeat(np.arange(20), 10))
    for dataset in (made(np.tile(["a", "b"], 100)), grouped):
        first, second = (split(dataset, jax.random.key(seed)) for seed in (0, 1))
        assert first.test.tolist() != second.test.tolist()
    keys = (jax.random.key(3), jax.random.PRNGKey(3))  # of the new and of the old kind
    assert split(grouped, keys[0]).test.tolist() == split(grouped, keys[1]).test.tolist()


def test_sizes_are_as_the_fractions_say():
    parts = split(made(np.repeat(["a", "b"], [200, 100])), jax.random.key(0))
    labels = np.repeat(["a", "b"], [200, 100])
    assert [counts(labels, part) for part in parts[:3]] == [{"a": 100, "b": 50}, {"a": 30, "b": 15}, {"a": 70, "b": 35}]
    fixed = np.where(np.arange(300) % 3 == 0, "test", "train")
    parts = split(made(labels, None, fixed), jax.random.key(0), fractions=(0.6, 0.2, 0.2))
    assert [len(part) for part in parts[:3]] == [150, 50, 100]  # three to one, of what is not for testing


def test_groups_of_any_size_come_close_to_the_fractions():
    groups = np.repeat(np.arange(10), [90, 60, 42, 30, 18, 18, 15, 12, 9, 6])
    labels = np.tile(["a", "b", "c"], 100)
    parts = split(made(labels, groups), jax.random.key(0))
    for part, fraction in zip(parts[:3], FRACTIONS, strict=True):
        for count in counts(labels, part).values():
            assert abs(count / 100 - fraction) < 0.05


def test_every_class_comes_close_to_the_fractions_not_only_their_sum():
    # Each group is of one class, so that parts of the right size may well hold the wrong classes.
    groups = np.repeat(np.arange(40), 10)
    labels = np.where(groups % 2, "a", "b")
    for seed in range(5):
        parts = split(made(labels, groups), jax.random.key(seed), classes=2)
        for part, fraction in zip(parts[:3], FRACTIONS, strict=True):
            for count in counts(labels, part).values():
                assert abs(count / 200 - fraction) <= 0.05


def test_every_class_is_in_every_part_where_few_assignments_do_that():
    # The rare class is in three of twelve groups, one of which each part must get.
    groups = np.repeat(np.arange(12), 10)
    labels = np.where((groups < 3) & (np.arange(120) % 10 == 0), "rare", "common")
    for seed in range(5):
        parts = split(made(labels, groups), jax.random.key(seed), classes=["rare", "common"])
        assert [counts(labels, part)["rare"] for part in parts[:3]] == [1, 1, 1]


def test_a_number_of_classes_takes_the_largest():
    labels = np.repeat(["d", "c", "b", "a"], [50, 60, 50, 50])
    parts = split(made(labels), jax.random.key(0), classes=2)
    assert set(labels[parts.train]) == {"c", "a"} and parts.left_out == ("b", "d")


def test_classes_of_few_points_are_left_out_and_named():
    labels = np.repeat(["many", "more", "few"], [100, 100, 30])
    parts = split(made(labels), jax.random.key(0))  # few: 15 to train on
    assert parts.left_out == ("few",)
    assert all(set(labels[part]) == {"many", "more"} for part in parts[:3])
    assert split(made(labels), jax.random.key(0), fewest=10).left_out == ()
    with pytest.raises(ValueError, match="fewer than two classes have 60 points"):
        split(made(labels), jax.random.key(0), fewest=60)


def test_assignments_that_keep_more_classes_win():
    # Both classes have 20 points in each part only if groups 0 and 1 are parted.
    groups = np.repeat(np.arange(6), 50)
    labels = np.where((groups < 2) & (np.arange(300) % 2 == 0), "b", "a")
    labels[groups == 2] = np.where(np.arange(50) < 2, "b", "a")
    for seed in range(5):
        parts = split(made(labels, groups), jax.random.key(seed), fractions=(0.4, 0.2, 0.4))
        assert parts.left_out == () and 2 in groups[parts.validation]


def test_larger_classes_give_first():
    labels = np.repeat(["a", "b", "c"], [20, 200, 400])
    parts = split(made(labels), jax.random.key(0), most=(100, 10, 50), classes=3)
    assert [counts(labels, part) for part in parts[:3]] == [
        {"a": 10, "b": 45, "c": 45},
        {"a": 3, "b": 3, "c": 4},
        {"a": 7, "b": 21, "c": 22},
    ]
    balanced = split(made(labels), jax.random.key(0), most=(100, 8, 50), classes=3, balanced=True)
    assert [set(counts(labels, part).values()) for part in balanced[:3]] == [{10}, {2}, {7}]


def test_labels_may_be_numbers():
    assert split(made(np.repeat([0, 1], 100)), jax.random.key(0), classes=[0, 1]).left_out == ()


def test_shares_of_every_class_without_groups():
    labels = np.repeat([0, 1, 2], [10, 20, 100])
    first, second = stratified_split(labels, jax.random.key(0), fractions=(0.3, 0.7))
    assert counts(labels, first) == {0: 3, 1: 6, 2: 30} and counts(labels, second) == {0: 7, 1: 14, 2: 70}


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (made(["a", "b"] * 50, np.repeat([0, 1], 50)), {}, "3 groups or more.*got 2"),
        (
            made(["a", "b"] * 50, np.zeros(100), ["train"] * 60 + ["test"] * 40),
            {},
            "authors' train and test part share",
        ),
        (made(["a", "b"] * 50, np.repeat([0, 1], 50), np.repeat(["train", "test"], 50)), {}, "2 groups or more.*got 1"),
        (made(["a"] * 90 + ["b"] * 10, np.repeat(range(10), 10)), {"classes": 2}, "absent are b from"),
        (made(["a", "b"] * 50, None, np.where(np.arange(100) % 2, "train", "test")), {"classes": 2}, "a from train"),
        (made(["a", "b"] * 50), {"classes": ["a", "x"]}, "got x. There are a, b"),
        (made(["a", "b"] * 50), {"classes": 3}, "between 1 and 2"),
        (made(["a", "b"] * 50), {"most": (1, None, None), "fewest": 1}, "train part must be allowed a point of each"),
        (made(["a", "b"] * 50), {"fractions": (0.5, 0.5, 0.5)}, "add up to 1"),
    ],
)
def test_what_is_refused(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        split(dataset, jax.random.key(0), **options)


@pytest.mark.parametrize(
    ("modality", "name", "options", "sizes", "left_out"),
    [
        ("images", "fashion_mnist", {"most": (2000, 500, 1000)}, (2000, 500, 1000), 0),
        ("speech", "fsdd/recordings", {}, (1500, 500, 1000), 0),
        ("text", "banking77", {"classes": 20}, (2617, 786, 800), 57),
        ("medical", "bccd/BCCD", {"balanced": True}, None, 0),
        ("activity", "hmp", {}, None, None),
    ],
)
def test_real_data(data, modality, name, options, sizes, left_out):
    dataset = read_dataset(modality, toy_domains.real_folder(data, name))
    parts = split(dataset, jax.random.key(0), **options)
    labels = next(iter(dataset.labelings.values()))
    if sizes is not None:
        assert tuple(len(part) for part in parts[:3]) == sizes
    if left_out is not None:
        assert len(parts.left_out) == left_out
    for part in (parts.train, parts.test):
        assert min(counts(labels, part).values()) >= 20
    if dataset.groups is not None:
        assert not set(dataset.groups[parts.train]) & set(dataset.groups[parts.test])
