"""Data that are not in memory: a run that reads them minibatch by minibatch is that on the tensor.

Knows `fit`, data sets of torch and folders of shards; the order of many rows is lowered to few.
"""

import os
import random
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset as TorchDataset

from ppl_vae import InputError, fit
from ppl_vae.inputs import Rows
from ppl_vae.training import minibatches
from ppl_vae.training.minibatches import Minibatches, Stream
from ppl_vae.training.ranks import Ranks
from ppl_vae.training.run import Run
from tests.examples import PRIORS, pixels, tiny
from tests.test_resume import same, same_rows

QUIET = {"batch_size": 7, "progress": False, "compile": "off"}


class Listed(TorchDataset):
    """Rows of x, and a record of which were asked for in this process."""

    def __init__(self, x):
        self.x, self.asked = x, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.x[index]


class Noisy(Listed):
    """Rows with a pixel dropped at random, by each generator that such a data set may use."""

    def __getitem__(self, index):
        row = self.x[index].clone()
        row[random.randrange(2)] = 0
        row[2 + np.random.randint(2)] = 0
        row[4 + int(torch.randint(2, ()))] = 0
        return row


class InBlocks(Rows):
    """Rows that are read together."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def read(self, index):
        return self.x[torch.from_numpy(index)]


@pytest.fixture
def computed_orders(monkeypatch):
    """Orders as those of more rows than are listed, a few positions at a time."""
    monkeypatch.setattr(minibatches, "LISTED", 0)
    monkeypatch.setattr(minibatches, "COMPUTED", 16)


@pytest.mark.parametrize("tier", ["off", "record"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_data_set_is_trained_on_as_the_tensor_is(tier, workers):
    x, expected, vae = pixels(40), tiny(), tiny()
    options = {**QUIET, "compile": tier, "epochs": 3, "binarization": "dynamic"}
    right = fit(expected, x * 0.9, **options)
    found = fit(vae, Listed(x * 0.9), num_workers=workers, **options)
    assert same_rows(found, right) and same(vae, expected)


def test_a_run_without_workers_reads_each_row_once_an_epoch_and_nothing_between():
    """What it looks at before the first step comes first: a minibatch, and rows to start from."""
    data = Listed(pixels(40))
    fit(tiny(), data, epochs=2, **QUIET)
    assert len(data.asked) <= 7 + 40 + 80
    for epoch in (data.asked[-80:-40], data.asked[-40:]):
        assert sorted(epoch) == list(range(40))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_data_set_draws_is_the_same_with_any_number_of_workers(workers):
    """And leaves the generators of the run alone."""
    expected, vae = tiny(), tiny()
    right = fit(expected, Noisy(pixels(40)), epochs=2, **QUIET)
    state = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    found = fit(vae, Noisy(pixels(40)), epochs=2, num_workers=workers, **QUIET)
    assert same_rows(found, right) and same(vae, expected)
    assert random.getstate() == state[0] and np.array_equal(np.random.get_state()[1], state[1])
    assert torch.equal(torch.get_rng_state(), state[2])


def test_what_a_data_set_draws_is_new_in_each_epoch():
    stream = Stream(Noisy(torch.ones(40, 6)), 40, 0, 0, Ranks())
    first, second = (stream.read(epoch, 0) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, Stream(Noisy(torch.ones(40, 6)), 40, 0, 0, Ranks()).read(0, 0))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_run_interrupted_in_an_epoch_goes_on_to_the_bit(workers, batch, tmp_path, monkeypatch):
    expected, vae, again = tiny(), tiny(), tiny(seed=5)
    options = {**QUIET, "epochs": 3, "num_workers": workers}
    right = fit(expected, Noisy(pixels(40)), **{**options, "num_workers": 0})
    take = Run.take

    def press(self, *given):
        take(self, *given)
        if (self.state.epoch, self.state.batch) == (1, batch):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "take", press)
    with pytest.raises(KeyboardInterrupt):
        fit(vae, Noisy(pixels(40)), checkpoint=tmp_path, **options)
    monkeypatch.setattr(Run, "take", take)
    found = fit(again, Noisy(pixels(40)), checkpoint=tmp_path, resume=True, **options)
    assert same_rows(found, right) and same(again, expected)


def children():
    """Processes that this one has started and that are at work."""
    path = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    if not os.path.exists(path):
        pytest.skip("no /proc on this machine")
    with open(path) as file:
        return file.read().split()


def test_the_processes_that_read_end_with_the_run_also_where_it_fails():
    before = children()

    def fail(event):
        if event.kind == "epoch":
            assert len(children()) >= len(before) + 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(tiny(), Listed(pixels(40)), epochs=3, num_workers=2, callbacks=[fail], **QUIET)
    assert children() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_is_no_data_is_refused_in_the_words_of_the_process_that_read_it(workers):
    class Odd(Listed):
        def __getitem__(self, index):
            return "text" if self.asked else super().__getitem__(index)

    data = Odd(pixels(40))
    stream = Stream(data, 40, 0, workers, Ranks())
    with pytest.raises(InputError, match="an item of data: got str, expected a tensor"):
        stream.read(0, 0)


def test_a_process_that_reads_and_is_killed_is_named_and_the_run_resumed(tmp_path):
    expected, again = tiny(), tiny()
    right = fit(expected, Listed(pixels(40)), epochs=3, **QUIET)
    before = children()

    def kill(event):
        if event.kind == "epoch":
            (child,) = set(children()) - set(before)
            os.kill(int(child), signal.SIGKILL)

    options = {**QUIET, "epochs": 3, "num_workers": 1, "checkpoint": tmp_path}
    with pytest.raises(ConnectionError, match=r"a process that reads the data was ended.*resume"):
        fit(tiny(), Listed(pixels(40)), callbacks=[kill], **options)
    found = fit(again, Listed(pixels(40)), resume=True, **options)
    assert same_rows(found, right) and same(again, expected)


def test_an_error_in_the_code_of_a_data_set_is_its_own():
    class Broken(Listed):
        def __getitem__(self, index):
            raise ZeroDivisionError("mine")

    for workers in (0, 1):
        with pytest.raises(ZeroDivisionError, match="mine"):
            Stream(Broken(pixels(40)), 10, 0, workers, Ranks()).read(0, 0)


def test_rows_of_a_minibatch_that_are_no_data_are_refused():
    x = pixels(40)
    x[17] = torch.nan
    for data, words in ((Listed(x), "NaN"), (Listed(pixels(40) * 2), "values outside [0, 1]")):
        with pytest.raises(InputError) as error:
            fit(tiny(), data, epochs=1, **QUIET)
        assert "a minibatch of data" in str(error.value) and words in str(error.value)
    with pytest.raises(InputError, match="binarization 'dynamic'"):
        fit(
            tiny(likelihood="normal_unit"),
            Listed(pixels(40) * 2),
            epochs=1,
            binarization="dynamic",
            **QUIET,
        )


@pytest.mark.parametrize("workers", [-1, 1.5, "2"])
def test_a_number_of_workers_is_a_whole_number(workers):
    with pytest.raises(InputError, match="num_workers"):
        fit(tiny(), pixels(40), epochs=1, num_workers=workers, **QUIET)


def test_a_prior_that_starts_from_data_is_shown_rows_of_the_data_set():
    data, vae = InBlocks(torch.arange(40.0)[:, None].expand(40, 6) / 40), tiny(prior="vamp")
    fit(vae, data, epochs=1, **{**QUIET, "learning_rate": 0.0})
    rows = {tuple(row) for row in data.x.tolist()}
    assert {tuple(row) for row in vae.model.prior.pseudo_inputs.tolist()} <= rows


# --------------------------------------------------------------------------------------------------
# - Orders of many rows


@pytest.mark.parametrize("num_data", [1, 6, 7, 40, 42])
def test_minibatches_hold_each_row_once(num_data, computed_orders):
    batches = Minibatches(num_data, 7, seed=2, epoch=3)
    rows = torch.cat([batches[number] for number in range(len(batches))])
    assert sorted(rows.tolist()) == list(range(num_data))
    backwards = [batches[number] for number in reversed(range(len(batches)))]
    assert torch.equal(torch.cat(backwards[::-1]), rows)


def test_few_rows_are_in_the_order_they_always_were():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2 * 1_000_003 + 3))
    batches = Minibatches(40, 7, seed=2, epoch=3)
    assert torch.equal(torch.cat([batches[number] for number in range(6)]), order)


def test_orders_differ_between_epochs_and_seeds(computed_orders):
    orders = [Minibatches(1000, 1000, seed, epoch)[0] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (orders[first] == orders[second]).sum() < 10


def test_an_order_of_a_thousand_million_rows_takes_no_room():
    batches = Minibatches(10**9, 100, seed=0, epoch=0)
    last = len(batches) - 1
    rows = torch.cat([batches[number] for number in (0, 1, last // 2, last)])
    assert len(rows.unique()) == 400 and rows.max() < 10**9


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_in_a_computed_order_resumes_to_the_bit(
    workers, tmp_path, monkeypatch, computed_orders
):
    expected, vae, again = (tiny(PRIORS["scale_then_z"], seed=seed) for seed in (0, 0, 5))
    options = {**QUIET, "num_workers": workers}
    right = fit(expected, pixels(40), epochs=4, **QUIET)
    fit(vae, InBlocks(pixels(40)), epochs=2, checkpoint=tmp_path, **options)
    found = fit(again, InBlocks(pixels(40)), epochs=4, checkpoint=tmp_path, resume=True, **options)
    assert same_rows(found, right) and same(again, expected)
