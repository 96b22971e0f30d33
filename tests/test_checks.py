"""The voice of refusals: one line, what was got, what was expected, what to try.

Knows `checks.py` alone.
"""

import math

import pytest
import torch
from torch.distributions import constraints

from ppl_vae import checks
from ppl_vae.checks import InputError


def said(check, *arguments, **options):
    with pytest.raises(InputError) as error:
        check(*arguments, **options)
    return str(error.value)


def test_a_refusal_is_one_line_and_a_value_error():
    text = said(checks.refuse, "epochs", "a\nb   c", "an integer", "try 3")
    assert text == "epochs: got a b c, expected an integer; try 3"
    assert issubclass(InputError, ValueError)
    assert said(checks.refuse, "x", 3, "4") == "x: got 3, expected 4"


def test_a_near_name_is_suggested_and_a_far_one_is_not():
    assert checks.choice("prior", "laplace", ["laplace"]) == "laplace"
    assert said(checks.choice, "prior", "laplac", ["laplace", "normal"]).endswith(
        "; did you mean 'laplace'?"
    )
    assert (
        said(checks.choice, "prior", "xyz", ["laplace"])
        == "prior: got 'xyz', expected one of laplace"
    )
    assert "got None" in said(checks.choice, "prior", None, ["laplace"])


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, None, math.nan])
def test_an_integer_is_an_integer_of_at_least_the_minimum(value):
    assert said(checks.integer, "n", value) == f"n: got {value!r}, expected an integer >= 1"
    assert checks.integer("n", 0, 0) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True, None, -0.1, 2.1])
def test_a_number_is_finite_and_inside_its_bounds(value):
    assert (
        said(checks.number, "p", value, 0.0, maximum=2.0)
        == f"p: got {value!r}, expected a finite number >= 0 and at most 2"
    )


@pytest.mark.parametrize("value", [-1, 2**32, 10**30, 0.0, True])
def test_a_seed_is_one_that_every_generator_takes(value):
    assert said(checks.seed, value).startswith(f"seed: got {value!r}, expected an integer")
    assert checks.seed(0) == 0 and checks.seed(2**32 - 1) == 2**32 - 1


@pytest.mark.parametrize("value", ["maybe", 1, None])
def test_a_truth_value_is_true_or_false(value):
    assert said(checks.truth, "b", value) == f"b: got {value!r}, expected True or False"
    assert checks.truth("b", False) is False


def test_an_exclusive_bound():
    assert said(checks.number, "s", 0, 0.0, True) == "s: got 0, expected a finite number > 0"
    assert checks.number("s", 1, 0.0, True) == 1.0 and isinstance(checks.number("s", 1), float)


@pytest.mark.parametrize("value", ["500", 3.0, [3, 0], [3, "4"], {3}, None, b"x"])
def test_sizes_are_positive_integers(value):
    assert "hidden_sizes" in said(checks.sizes, "hidden_sizes", value)


def test_numbers_beyond_those_of_a_machine_are_refused_in_short_words():
    assert checks.integer("n", 2**63 - 1) == 2**63 - 1
    for value in (2**63, 10**40, 10**5000):
        assert said(checks.integer, "n", value).startswith("n: got about 2^")
    assert "a finite number" in said(checks.number, "x", 10**400)


def test_a_path_holds_no_nul():
    assert "NUL" in said(checks.path, "p", "a\0b")
    assert checks.path("p", "a").name == "a"


def test_a_tensor_without_values_is_no_data():
    x = torch.empty(3, 2, device="meta")
    assert "x's device: got meta" in said(checks.data, "x", x, (2,))


def test_a_single_size_is_a_tuple_of_one():
    assert (
        checks.sizes("s", 3) == (3,)
        and checks.sizes("s", [3, 4]) == (3, 4)
        and checks.sizes("s", ()) == ()
    )


def test_options_are_a_mapping_of_known_names():
    checks.options("o", {"a": 1}, ["a"])
    checks.options("o", {"anything": 1}, None)
    assert (
        said(checks.options, "o", {"alpa": 1}, ["alpha"])
        == "o: got 'alpa', expected one of alpha; did you mean 'alpha'?"
    )
    assert "expected no option" in said(checks.options, "o", {"a": 1}, [])
    for value in ("abc", ["a"], {1: 2}, None):
        assert "a mapping from names to values" in said(checks.options, "o", value, None)


class TestData:
    def test_good_data_come_back_as_they_are(self):
        for x in (
            torch.rand(3, 2, 2),
            torch.zeros(3, 2, 2, dtype=torch.uint8),
            torch.rand(3, 2, 2).double(),
        ):
            assert checks.data("x", x, (2, 2)) is x

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (
                torch.rand(3, 4),
                "x's shape: got (3, 4), expected (N, 2, 2); use x.reshape(-1, 2, 2)",
            ),
            (torch.rand(2, 2), "or x[None] for a single datum"),
            (torch.rand(0, 2, 2), "x's number of rows: got 0, expected at least 1"),
            (
                torch.ones(3, 2, 2).int(),
                "x's dtype: got torch.int32, expected floating point, or uint8 pixels; use "
                "x.float()",
            ),
            ([[1.0]], "x: got list, expected a torch.Tensor"),
        ],
    )
    def test_bad_data_say_what_to_do(self, x, message):
        assert message in said(checks.data, "x", x, (2, 2))

    def test_the_first_bad_row_is_named_in_blocks_too(self):
        x = torch.zeros(9, 1_000_000)
        x[6, 5] = math.nan
        x[7, 0] = math.inf
        assert "values from row 6 on" in said(checks.finite, "x", x)
        x[6:8] = 2.0
        message = said(checks.inside, "x", x, constraints.unit_interval, "likelihood 'bernoulli'")
        assert message.startswith(
            "x for likelihood 'bernoulli': got values outside [0, 1] from row 6 on, expected"
        )

    def test_bytes_and_unbounded_supports_need_no_look(self):
        x = torch.full((2, 3), 7.0)
        assert checks.inside("x", x, constraints.real, "n") is x
        assert (
            checks.inside("x", x.to(torch.uint8), constraints.unit_interval, "n").dtype
            == torch.uint8
        )
