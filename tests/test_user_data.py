"""What a user brings as x: arrays, frames and data sets of torch, each the same run as the tensor.

What cannot be data is refused with the line that makes it acceptable, and that line is tried.
"""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from ppl_vae import (
    InputError,
    VAEConfig,
    build,
    fit,
    log_likelihood,
    lower_bound,
    to_inference_data,
)
from ppl_vae.diagnostics import posterior_predictive_check
from ppl_vae.evaluation import active_units, reconstruction_error
from ppl_vae.inputs import in_memory
from tests.examples import pixels, tiny
from tests.test_resume import same

QUIET = {"batch_size": 10, "epochs": 2, "progress": False, "compile": "off"}


class Listed(TorchDataset):
    """A map-style data set whose items are made by `item`."""

    def __init__(self, x, item=lambda row: row):
        self.x, self.item = x, item

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.item(self.x[index])


FORMS = {
    "array": lambda x: x.numpy(),
    "read-only array": lambda x: np.frombuffer(x.numpy().tobytes(), np.float32).reshape(x.shape),
    "array of doubles": lambda x: x.double().numpy(),
    "array of half precision": lambda x: x.half().numpy(),
    "booleans": lambda x: x.numpy() > 0,
    "other byte order": lambda x: x.numpy().astype(">f4"),
    "columns first": lambda x: np.asfortranarray(x.numpy()),
    "backwards": lambda x: x.numpy()[::-1, ::-1].copy()[::-1, ::-1],
    "frame": lambda x: pd.DataFrame(x.numpy()),
    "frame of whole numbers": lambda x: pd.DataFrame(x.numpy().astype(int), columns=[*"abcdef"]),
    "frame of nullable numbers": lambda x: pd.DataFrame(x.numpy()).convert_dtypes(),
    "frame of booleans": lambda x: pd.DataFrame(x.numpy() > 0),
    "frame with one name for two columns": lambda x: pd.DataFrame(x.numpy(), columns=[*"aabbcc"]),
    "data set": Listed,
    "data set of arrays": lambda x: Listed(x.numpy()),
    "data set of pairs": lambda x: Listed(x, lambda row: (row, 3)),
    "tensors": TensorDataset,
    "subset": lambda x: Subset(TensorDataset(torch.cat([x, x])), range(len(x))),
}


@pytest.mark.parametrize("form", FORMS)
def test_fit_and_what_looks_at_x_take_it_as_they_take_the_tensor(form):
    x, expected, vae = pixels(40), tiny(), tiny()
    given = FORMS[form](x)
    fit(expected, x, validation=x[:7], **QUIET)
    history = fit(vae, given, validation=FORMS[form](x[:7]), **QUIET)
    assert same(vae, expected) and len(history.rows) == 2
    assert torch.equal(vae.encode(given), vae.encode(x))
    assert torch.equal(vae.reconstruct(given), vae.reconstruct(x))
    for measure in (lower_bound, reconstruction_error, active_units):
        assert torch.equal(measure(vae, given, seed=1), measure(vae, x, seed=1))
    found, right = (log_likelihood(vae, each, 20, seed=1).values for each in (given, x))
    assert torch.equal(found, right)


def test_draws_for_arviz_and_checks_take_a_frame():
    vae, x = tiny(), pixels(8)
    frame = pd.DataFrame(x.numpy())
    found, right = (to_inference_data(vae, each, 20, labels=range(8)) for each in (frame, x))
    assert found.equals(right) if hasattr(found, "equals") else True
    assert np.array_equal(found.posterior["z"], right.posterior["z"])
    assert np.array_equal(found.observed_data["x"], x)
    checks = [posterior_predictive_check(vae, each, num_samples=3, seed=0) for each in (frame, x)]
    assert torch.equal(checks[0]["mean"].replicated, checks[1]["mean"].replicated)


def counted(seed=0):
    """A VAE of three counts."""
    config = VAEConfig((3,), latent_size=2, hidden_sizes=(5,), likelihood="poisson")
    return build(config, seed=seed)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i1", "i2", "i8", "f4", "f8"])
def test_under_a_likelihood_of_counts_whole_numbers_of_any_type_are_counts(kind):
    """Bytes too, in fit and outside of it: the bound is Poisson's of these numbers."""
    x = np.random.default_rng(0).integers(0, 100, (30, 3))
    expected, vae = counted(), counted()
    fit(expected, torch.from_numpy(x).float(), **QUIET)
    fit(vae, x.astype(kind), **QUIET)
    assert same(vae, expected)
    bounds = [lower_bound(vae, each, seed=0) for each in (x.astype(kind), torch.tensor(x).float())]
    assert torch.equal(*bounds)


@pytest.mark.parametrize(
    ("likelihood", "divided"),
    [
        ("bernoulli", True),
        ("continuous_bernoulli", True),
        ("normal_unit", True),
        ("normal_pixelwise", True),
        ("poisson", False),
        ("negative_binomial", False),
        ("student_t", False),
        ("log_normal", False),
        ("beta", True),
    ],
)
def test_bytes_are_grey_levels_under_a_likelihood_of_these_alone(likelihood, divided):
    x = torch.randint(1, 255, (8, 3), dtype=torch.uint8)
    vae = build(VAEConfig((3,), latent_size=2, hidden_sizes=(5,), likelihood=likelihood), seed=0)
    numbers = x / 255 if divided else x.float()
    assert torch.equal(lower_bound(vae, x, seed=0), lower_bound(vae, numbers, seed=0))


def test_a_prior_that_starts_from_data_gets_counts_as_they_are():
    x = np.full((30, 3), 200, np.uint8)
    config = VAEConfig((3,), 2, (5,), likelihood="poisson", prior="vamp")
    vae = build(config, seed=0, prior=None)
    fit(vae, x, **{**QUIET, "epochs": 1, "learning_rate": 0.0})
    assert (vae.model.prior.pseudo_inputs == 200).all()


def own_frame(column):
    return pd.DataFrame({"age": [1.0, 2.0, 3.0], "kind": column})


FRAMES = {
    "categories": (
        own_frame(pd.Categorical(["a", "b", "a"])),
        "column 'kind' of x: got 2 categories, expected numbers; use frame.assign(**{'kind': "
        "frame['kind'].cat.codes}), or pd.get_dummies(frame, columns=['kind'], dtype=float)",
        [[1, 0], [2, 1], [3, 0]],
    ),
    "texts": (
        own_frame(["a", "b", "a"]),
        '.astype("category").cat.codes',
        [[1, 0], [2, 1], [3, 0]],
    ),
    "dates": (
        own_frame(pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-01"])),
        ".dt.total_seconds()",
        [[1, 0], [2, 86400], [3, 0]],
    ),
    "durations": (
        own_frame(pd.to_timedelta([1, 2, 1], "s")),
        "durations",
        [[1, 1], [2, 2], [3, 1]],
    ),
    "numbers as objects": (
        own_frame(pd.Series([1, 2.5, 1], dtype=object)),
        ".astype(float)",
        [[1, 1], [2, 2.5], [3, 1]],
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_column_that_holds_no_numbers_is_refused_with_what_makes_it_numbers(name):
    frame, words, encoded = FRAMES[name]
    with pytest.raises(InputError) as error:
        in_memory("x", frame)
    message = str(error.value)
    assert words in message and "\n" not in message
    advice = message.partition("; use ")[2].partition(", or ")[0]
    better = eval(advice, {"frame": frame, "pd": pd})
    assert in_memory("x", better).tolist() == encoded


def test_dummies_of_a_category_are_data_too():
    frame = FRAMES["categories"][0]
    better = pd.get_dummies(frame, columns=["kind"], dtype=float)
    assert in_memory("x", better).tolist() == [[1, 1, 0], [2, 0, 1], [3, 1, 0]]


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (pd.Series([1.0, 2.0]), "use x.to_frame()"),
        (pd.DataFrame({"a": [1.0, np.nan]}), "1 NaN or infinite values from row 1 on"),
        (pd.DataFrame({"a": pd.array([1, None], "Int64")}), "1 NaN or infinite values"),
        (pd.DataFrame(index=range(3)), "a frame without columns"),
        (pd.DataFrame({"a": [1j, 2]}), "a column each for real and imaginary parts"),
        (np.array([[1.0], ["a"]], object), 'np.stack(x).astype("float32")'),
        (np.array([["a"], ["b"]]), "np.unique(x, return_inverse=True)[1]"),
        (np.ones((3, 1), complex), "np.stack([x.real, x.imag], 1)"),
        (np.ones(3, [("a", float)]), "structured_to_unstructured(x)"),
        (np.array([["2020-01-01"]], "M8[D]"), 'np.timedelta64(1, "D")'),
        (np.ma.masked_array([[1.0]], [[True]]), "drop or impute"),
        (csr_matrix(np.ones((3, 1))), "use x.toarray()"),
        ([[1.0]], "got list, expected a torch.Tensor, an array or a frame"),
        (np.ones(3), "use x[:, None]"),
        (DataLoader(TensorDataset(torch.ones(3, 1))), "use loader.dataset"),
        (Listed(["a", "b"]), "an item of x: got str, expected a tensor or an array x"),
        (Listed([{"x": 1}]), "got dict"),
        (Listed([np.ones(1), np.ones(2)]), "shapes (1,) and (2,)"),
        (Listed([]), "number of rows: got 0"),
        (type("Endless", (IterableDataset,), {"__iter__": iter})(), "use map_data on their folder"),
        (type("Unsized", (TorchDataset,), {})(), "without a length"),
    ],
)
def test_what_cannot_be_data_is_refused_in_one_line_everywhere(x, words):
    vae = build(VAEConfig((1,), 2, (3,), likelihood="normal_unit"), seed=0)
    for call in (lambda: fit(vae, x, **QUIET), lambda: lower_bound(vae, x)):
        with pytest.raises(InputError) as error:
            call()
        wanted = words.replace("of x", "of data") if call.__code__.co_names[0] == "fit" else words
        assert wanted in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "event_shape", "advice"),
    [
        ((5,), (1,), "x[:, None]"),
        ((5, 4, 6, 3), (3, 4, 6), "np.moveaxis(x, -1, 1)"),
        ((5, 4, 6, 1), (1, 4, 6), "np.moveaxis(x, -1, 1)"),
        ((5, 4, 6), (1, 4, 6), "x[:, None]"),
        ((5, 1, 4, 6), (4, 6), "x[:, 0]"),
        ((5, 24), (4, 6), "x.reshape(-1, 4, 6)"),
        ((5, 4, 6), (24,), "x.reshape(-1, 24)"),
        ((3, 5), (3,), "x.T"),
    ],
)
def test_another_shape_is_refused_with_the_line_that_makes_it_this_one(shape, event_shape, advice):
    x = np.random.default_rng(0).normal(size=shape)
    vae = build(VAEConfig(event_shape, 2, (3,), likelihood="normal_unit"), seed=0)
    with pytest.raises(InputError) as error:
        lower_bound(vae, x)
    assert f"use {advice}" in str(error.value)
    assert lower_bound(vae, eval(advice)).shape == (5,)


def test_a_shape_that_nothing_makes_this_one_names_the_one_to_build_with():
    vae = build(VAEConfig((3,), 2, (3,), likelihood="normal_unit"), seed=0)
    with pytest.raises(InputError, match=r"build the VAE with event_shape=\(7,\)"):
        lower_bound(vae, np.ones((5, 7)))


def test_double_precision_of_a_frame_is_kept_where_single_would_lose_digits():
    large = 2**24 + 1
    assert in_memory("x", pd.DataFrame({"a": [large, 1]})).tolist() == [[large], [1]]
    assert in_memory("x", pd.DataFrame({"a": np.ones(2, np.float32)})).dtype == torch.float32


def test_an_array_shares_its_memory_and_is_not_written_to():
    x = pixels(40).numpy()
    assert in_memory("x", x).data_ptr() == x.ctypes.data
    before = x.copy()
    fit(tiny(), x, **QUIET)
    assert np.array_equal(x, before)


def test_a_distribution_of_ones_own_on_the_unit_interval_takes_bytes_as_grey_levels():
    def own(first, second):
        return dist.Beta(first.exp() + 1, second.exp() + 1).to_event(1)

    vae = build(VAEConfig((3,), 2, (5,)), likelihood=own, seed=0)
    x = torch.randint(1, 255, (8, 3), dtype=torch.uint8)
    assert vae.grey and torch.equal(lower_bound(vae, x, seed=0), lower_bound(vae, x / 255, seed=0))
