"""Training data and losses: an item is the same in any batch, and bad data is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffragan.fourier.grids import quarter_turn
from diffragan.microscope.imaging import projection
from diffragan.training.data import (
    ExitWaves,
    epoch_order,
    load_ahead,
    make_train_batch,
    open_exit_waves,
    scale_of,
    split,
    spread_over_structures,
)
from diffragan.training.losses import adversarial_loss, discriminator_loss, generator_loss
from weak_objects import N_PX, sentence, settings, write_store

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "s.zarr")


@pytest.fixture(scope="module")
def data(store: Path) -> ExitWaves:
    return open_exit_waves([store])


# Data.


def test_an_item_is_the_same_in_any_batch(data: ExitWaves) -> None:
    """Noise, turn and dropout belong to the item and the epoch."""
    chosen, scale = settings(), scale_of(data, np.arange(4), settings())

    def batch(items: list[int], epoch: int = 0) -> Any:
        numbers = np.array(items)
        waves = data.load(numbers)
        return make_train_batch(waves, numbers, data.optics, chosen, scale, epoch, CPU)

    together, alone, later = batch([4, 1, 7]), batch([7]), batch([7], epoch=1)
    torch.testing.assert_close(together.inputs[2:], alone.inputs)
    torch.testing.assert_close(together.target[2:], alone.target)
    assert together.dropout_seeds[2:] == alone.dropout_seeds
    assert later.dropout_seeds != alone.dropout_seeds
    assert not torch.allclose(later.inputs[:, 1], alone.inputs[:, 1])


def test_turned_waves_give_turned_projections(data: ExitWaves) -> None:
    """A quarter turn about the beam commutes with imaging, to the pixel."""
    wave = torch.from_numpy(data.load(np.array([0, 5])))
    plane = settings().projection
    for quarters in range(4):
        torch.testing.assert_close(
            projection(quarter_turn(wave, quarters), data.optics, plane),
            quarter_turn(projection(wave, data.optics, plane), quarters),
            atol=1e-5,
            rtol=0,
        )


@pytest.mark.parametrize("n", [6, 7])
def test_turns_keep_the_centre_and_add_up(n: int) -> None:
    wave = torch.arange(n * n).reshape(n, n)
    for quarters in range(4):
        turned = quarter_turn(wave, quarters)
        assert turned[n // 2, n // 2] == wave[n // 2, n // 2]
        assert torch.equal(quarter_turn(turned, 4 - quarters), wave)
    assert torch.equal(quarter_turn(quarter_turn(wave, 1), 1), quarter_turn(wave, 2))
    assert quarter_turn(wave, 1)[n // 2 - 1, n // 2] == wave[n // 2, n // 2 + 1]


def test_waves_come_in_order_across_stores(store: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "t.zarr", ("d",), per=2)
    both = open_exit_waves([store, other], cache_bytes=3 * 8 * N_PX**2)
    assert both.n == 11
    assert [s.stem for s in both.structures] == ["a", "b", "c", "d"]
    assert both.structure.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 2
    wanted = [np.array(pair) for pair in ([10, 0], [3, 9], [0, 10], [8, 8])]
    for items, waves in load_ahead(both, wanted):
        for item, wave in zip(items, waves, strict=True):
            own = both.stores[0] if item < 9 else both.stores[1]
            local = item if item < 9 else item - 9
            np.testing.assert_array_equal(wave, own.exit_wave([int(local)])[0])
    assert len(both._cache) == 3


def test_no_structure_is_both_trained_and_validated_on(data: ExitWaves) -> None:
    for held in ((), ("b",), ("a", "c")):
        for seed in range(4):
            chosen = settings(train__validation_structures=held, seed=seed)
            train, validation = split(data, chosen)
            assert not set(data.structure[train]) & set(data.structure[validation])
            assert sorted([*train, *validation]) == list(range(data.n))


def test_validation_shows_every_structure_equally(data: ExitWaves) -> None:
    shown = spread_over_structures(data, np.arange(data.n), 6)
    assert np.bincount(data.structure[shown]).tolist() == [2, 2, 2]


def test_an_epoch_is_a_permutation_of_whole_batches() -> None:
    items = np.arange(10, 21)
    first, again, other = (epoch_order(items, 1, epoch, 3) for epoch in (0, 0, 1))
    assert first.shape == (3, 3)
    assert len(set(first.flatten())) == 9
    assert set(first.flatten()) <= set(items)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# Bad data.


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"box": 80.0}, "box"),
        ({"energy_ev": 300e3}, "energy"),
        ({"n_px": 72}, "pixels"),
        ({"centre_to_exit_A": 30.0}, "plane"),
    ],
)
def test_stores_that_differ_are_both_named(
    store: Path, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    other = write_store(tmp_path / "other.zarr", ("d",), per=1, **changes)
    sentence(lambda: open_exit_waves([store, other]), "s.zarr", "other.zarr", word)


def test_one_name_for_two_structures_is_refused(store: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other.zarr", ("a",), per=1, version_of_a="older")
    sentence(lambda: open_exit_waves([store, other]), "'a'", "s.zarr", "other.zarr")


def test_data_that_cannot_be_trained_on_is_refused(
    data: ExitWaves, store: Path, tmp_path: Path
) -> None:
    sentence(lambda: open_exit_waves([]), "store")
    sentence(lambda: open_exit_waves([tmp_path / "no.zarr"]), "no.zarr")
    unknown = settings(train__validation_structures=("x",))
    sentence(lambda: split(data, unknown), "'x'", "a, b, c")
    everything = settings(train__validation_structures=("a", "b", "c"))
    sentence(lambda: split(data, everything), "structures")
    alone = open_exit_waves([write_store(tmp_path / "one.zarr", ("a",))])
    sentence(lambda: split(alone, settings(train__validation_structures=())), "structures")
    sentence(lambda: epoch_order(np.arange(3), 0, 0, 4), "3 items", "batch_size")
    poisoned = open_exit_waves([write_store(tmp_path / "nan.zarr", nan=1)])
    sentence(lambda: poisoned.load(np.array([0, 1])), "nan.zarr", "not finite")


# Losses.


def test_an_undecided_discriminator_costs_ln_2() -> None:
    logits = torch.zeros(2, 1, 4, 4)
    assert float(adversarial_loss(logits, True)) == pytest.approx(math.log(2))
    assert float(adversarial_loss(logits, False)) == pytest.approx(math.log(2))
    # Twice ln 2, halved.
    half = discriminator_loss(logits, logits, settings().train)
    assert float(half) == pytest.approx(math.log(2))


def test_loss_is_cross_entropy_of_probabilities() -> None:
    logits = torch.tensor([[-1.5, 0.3, 2.0]])
    p = torch.sigmoid(logits)
    assert float(adversarial_loss(logits, True)) == pytest.approx(float(-p.log().mean()))
    assert float(adversarial_loss(logits, False)) == pytest.approx(float(-(1 - p).log().mean()))


def test_generator_pays_100_for_each_unit_of_l1() -> None:
    output, target = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.25)
    loss, l1 = generator_loss(torch.zeros(1, 1, 2, 2), output, target, settings().train)
    assert float(l1) == pytest.approx(0.25)
    assert float(loss) == pytest.approx(25 + math.log(2))
