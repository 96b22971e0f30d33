"""The published record of the studies: every number from its rows, every verdict from its rule.

Knows the rows in `studies/results` and the two tables that quote them, README.md and
studies/README.md; must not run a study. Verdicts are computed here a second time, from rows and
scipy alone.
"""

import csv
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from scipy.stats import combine_pvalues, ttest_1samp

from ppl_vae.study.cells import Script, read_script
from ppl_vae.study.results import EARLIER, Results, answer_md, read_results

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
NAMES = sorted(path.stem for path in STUDIES.glob("*.py"))
ANSWERED = [name for name in NAMES if (STUDIES / "results" / name / "rows.csv").exists()]
NUMBER = re.compile(
    r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?: ± \d+(?:\.\d+)?(?:e[+-]?\d+)?)?%?"
)

Row = dict[str, Any]
Values = Sequence[float]


class Entry(NamedTuple):
    """A line of a table of findings."""

    question: str
    found: str
    verdicts: dict[str, str]
    figure: str


def entries(path: Path, folder: str) -> dict[str, Entry]:
    """The lines of a table by study; `folder` is how the file names the studies' folder."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        link = re.search(rf"\]\({re.escape(folder)}(\w+)\.py\)", cells[0])
        if line.startswith("|") and link:
            question, told, verdicts, figure = cells
            pairs = [part.rsplit(": ", 1) for part in verdicts.split("; ")]
            found[link[1]] = Entry(question, told, {claim: word for claim, word in pairs}, figure)
    return found


TABLE = entries(STUDIES / "README.md", "")
HEADLINES = entries(ROOT / "README.md", "studies/")


def numbers(text: str) -> set[str]:
    """The numbers of a text, each with its ± where it has one, links left out."""
    return set(NUMBER.findall(re.sub(r"\]\([^)]*\)|<[^>]*>", "", text)))


@pytest.fixture(scope="module", autouse=True)
def studies_on_the_path() -> Iterator[None]:
    """Scripts import their neighbours as they do when they are run, and leave no trace."""
    before = set(sys.modules)
    folders = {path.name for path in STUDIES.iterdir() if (path / "__init__.py").exists()}
    sys.path.insert(0, str(STUDIES))
    yield
    sys.path.remove(str(STUDIES))
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {*NAMES, *folders}:
            del sys.modules[name]


def published(name: str) -> tuple[Script, Results]:
    """A study's script and its committed rows."""
    module: ModuleType = importlib.import_module(name)
    script = read_script(module)
    return script, read_results(script, STUDIES / "results" / name)


def rows_of(name: str) -> list[Row]:
    """The committed rows, numbers as numbers."""
    with open(STUDIES / "results" / name / "rows.csv", encoding="utf-8", newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text or None


# What follows states each verdict's rule anew. A rule takes a study's rows; a mean over seeds is
# above (below) a value where the whole of Student's 95 % interval is.

Rule = Callable[[list[Row]], str]


def word(values: Sequence[float], side: str, at: float = 0.0) -> str:
    """ "confirmed" where the interval of the mean lies on the predicted side of `at`, "refuted"
    where it lies on the other, "not shown" where it holds `at`.
    """
    if len(values) < 2:
        return "no verdict"
    if max(values) == min(values):
        low = high = values[0]
    else:
        low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    if low <= at <= high:
        return "not shown"
    return "confirmed" if (low > at) == (side == "above") else "refuted"


def by_seed(rows: list[Row], value: str, **where: Any) -> dict[Any, float]:
    """The mean of `value` by seed over the rows with these entries."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        if all(row[column] == entry for column, entry in where.items()) and row[value] is not None:
            found.setdefault(row["seed"], []).append(row[value])
    return {seed: math.fsum(values) / len(values) for seed, values in found.items()}


def mean(value: str, side: str, at: float = 0.0, **where: Any) -> Rule:
    """That the mean of a column is on that side of `at`."""
    return lambda rows: word(list(by_seed(rows, value, **where).values()), side, at)


def apart(rows: list[Row], axis: str, first: Any, second: Any, value: str, **where: Any) -> Values:
    """A column at one level of an axis less that at another, for each seed that has both."""
    one, other = (by_seed(rows, value, **where, **{axis: level}) for level in (first, second))
    return [one[seed] - other[seed] for seed in one.keys() & other.keys()]


def gain(
    axis: str,
    better: Any,
    base: Any,
    value: str,
    side: str = "above",
    at: float = 0.0,
    **where: Any,
) -> Rule:
    """That the mean of a column at one level of an axis is above (below) that at another, by at
    least `at`.
    """
    return lambda rows: word(apart(rows, axis, better, base, value, **where), side, at)


def near(values: Callable[[list[Row]], Values], at: float, margin: float) -> Rule:
    """That the mean of some values, one a seed, is within `margin` of `at`."""

    def rule(rows: list[Row]) -> str:
        found = values(rows)
        words = {word(found, "above", at - margin), word(found, "below", at + margin)}
        return next((said for said in ("refuted", "not shown") if said in words), words.pop())

    return rule


def level(value: str, **where: Any) -> Callable[[list[Row]], Values]:
    """The values of a column, one a seed."""
    return lambda rows: list(by_seed(rows, value, **where).values())


def every(rules: Sequence[Rule]) -> Rule:
    """One word for several claims: theirs, if they have one in common."""

    def rule(rows: list[Row]) -> str:
        words = {each(rows) for each in rules}
        return words.pop() if len(words) == 1 else f"differs: {sorted(words)}"

    return rule


def counted(holds: Callable[[Row], bool], chosen: Callable[[Row], bool] = bool) -> Rule:
    """A claim on every run: one run against it refutes it."""

    def rule(rows: list[Row]) -> str:
        return "confirmed" if all(holds(row) for row in rows if chosen(row)) else "refuted"

    return rule


def columns(name: str, compute: Callable[[Row], Any], rule: Rule) -> Rule:
    """A rule on a column that is computed from others."""
    return lambda rows: rule([{**row, name: compute(row)} for row in rows])


def combined_p(rows: list[Row], column: str) -> float:
    """Fisher's combination of the seeds' p-values for two latents with a learned scale."""
    where = {"objective": "learned scale", "latent_size": 2.0, "l2": 0.0}
    return float(combine_pvalues(list(by_seed(rows, column, **where).values()), "fisher").pvalue)


def square(rows: list[Row]) -> str:
    """That codes are Gaussian and draws are uniform: refuted where a test rejects either."""
    ends = ("p_gaussian", "p_uniform")
    return "refuted" if min(combined_p(rows, end) for end in ends) < 0.05 else "not shown"


def threshold(rows: list[Row]) -> str:
    """That both latents die above the predicted weight and at none below it."""
    collapsed = [
        (row["kl_1"] < 0.05) == (row["kl_weight"] > row["predicted_collapse"]) for row in rows
    ]
    return "confirmed" if all(collapsed) else "refuted"


def gradient_ratio(row: Row) -> float:
    return row["gradient_variance_A"] / row["gradient_variance_B"]


def any_refutes(rules: Sequence[Rule]) -> Rule:
    """A claim that each of several rules can refute and all together confirm."""

    def rule(rows: list[Row]) -> str:
        words = [each(rows) for each in rules]
        if "refuted" in words:
            return "refuted"
        return "confirmed" if set(words) == {"confirmed"} else "not shown"

    return rule


def price_of_a_nat(rows: list[Row]) -> str:
    """That reconstruction gained over KL gained, from one constraint to the next, lies between the
    two multipliers, in every run.
    """
    learned = sorted(
        (row for row in rows if row["weighting"] == "learned"),
        key=lambda row: (row["seed"], row["constraint"]),
    )
    for low, high in pairwise(learned):
        if low["seed"] == high["seed"]:
            price = (high["reconstruction"] - low["reconstruction"]) / (high["kl"] - low["kl"])
            if not high["weight"] < price < low["weight"]:
                return "refuted"
    return "confirmed"


def to_be_run(rows: list[Row]) -> str:
    return "to be run anew"


def open_question(rows: list[Row]) -> str:
    return "open"


def bfloat16_cost(rows: list[Row]) -> str:
    """That products in bfloat16 change the bound at all, in either direction."""
    said = gain("precision", "bfloat16", "float32", "validation_bound")(rows)
    return "not shown" if said == "not shown" else "confirmed"


def bayes(method: str, base: str, data: str, side: str = "above") -> Rule:
    """A gain in held-out log p at 300 data and the usual width."""
    where = {"data": data, "num_train": 300.0, "hidden": None}
    return gain("method", method, base, "log_p", side, **where)


def lowered(level: str) -> Rule:
    """That noise lowered from that level is ahead of no noise in log p(x)."""

    def named(row: Row) -> str:
        quiet = row["corruption"] == "none"
        return "none" if quiet else f"{row['schedule']} from {row['level']:g}"

    return columns("noise", named, gain("noise", f"lowered from {level}", "none", "log_p"))


FREY_SPLITS = {"budget": "epochs", "batch_size": 100.0}
FREY_SIZES = (2.0, 5.0, 10.0, 20.0)
CONSTRAINTS = (5.0, 10.0, 20.0, 30.0)
# Held-out bounds at 1e7 samples, by number of latents.
REPORT_B = {3.0: -142.46, 5.0: -127.86, 10.0: -111.63, 20.0: -106.49, 200.0: -106.74}
PAPER = {3.0: -138.0, 5.0: -124.1, 10.0: -108.5, 20.0: -104.8, 200.0: -103.9}
HALF_OF_THE_GAP = {10.0: 6.15 / 2, 20.0: 5.87 / 2, 200.0: 5.01 / 2}
LONG_STEP = "B, step 0.02"
MNIST = {"data": "mnist"}
POINT = "point, weight decay"
SYSTEMS = [(name, "diagonal") for name in ("full_normal", "iaf", "implicit", "two layers")]
SYSTEMS += [
    (f"{name}, 5 draws", "diagonal, 5 draws") for name in ("mixture", "iwae", "implicit, iwae")
]
SYSTEMS += [("ladder", "one layer, wide")]
NOISE = {"corruption": "salt_and_pepper"}
RULES: dict[str, dict[str, Rule]] = {
    "activations": {
        "ReLU ahead of tanh": gain("activation", "relu", "tanh", "validation_bound"),
        "sigmoid behind tanh": gain(
            "activation", "sigmoid", "tanh", "validation_bound", side="below"
        ),
    },
    "anomaly_detection": {
        "log p(x) finds noise": mean("log_p", "above", 0.5, kind="noise"),
        "finds faces": mean("log_p", "above", 0.5, kind="faces"),
        "finds blank images": mean("log_p", "above", 0.5, kind="blank"),
        "the ratio finds blank images": mean("ratio", "above", 0.5, kind="blank"),
    },
    "binary_codes": {
        "narrow Gaussian pairs give binary codes": mean(
            "binary", "above", 0.95, prior="binary_mixture", width=0.02
        ),
        "sparse Beta": to_be_run,
        "relaxed Bernoulli": to_be_run,
        "what a bit costs": open_question,
    },
    "calibrated_decoder": {
        "shared scale denser than unit": gain("decoder", "shared", "unit", "log_p"),
        "per pixel denser than shared": gain("decoder", "per pixel", "shared", "log_p"),
        "shared and optimal differ": gain("decoder", "shared", "optimal", "log_p", side="below"),
        "per pixel has the worst samples": gain(
            "decoder", "per pixel", "shared", "recall", side="below"
        ),
    },
    "constrained_kl": {
        "KL in training within 2 % of the constraint": any_refutes(
            [
                near(level("training_kl", constraint=c, weighting="learned"), c, 0.02 * c)
                for c in CONSTRAINTS
            ]
        ),
        "held out within 5 %": any_refutes(
            [near(level("kl", constraint=c, weighting="learned"), c, 0.05 * c) for c in CONSTRAINTS]
        ),
        "the multiplier is above 1 at 5 and 10 nats and below 1 at 30": any_refutes(
            [
                mean("weight", side, 1.0, constraint=c)
                for c, side in ((5.0, "above"), (10.0, "above"), (30.0, "below"))
            ]
        ),
        "it is the price of a nat": price_of_a_nat,
        "as good as the weight known beforehand, to half a nat": any_refutes(
            [
                near(
                    partial(
                        apart,
                        axis="weighting",
                        first="learned",
                        second="fixed",
                        value="lagrangian",
                        constraint=c,
                    ),
                    0.0,
                    0.5,
                )
                for c in CONSTRAINTS
            ]
        ),
    },
    "encoder_depth": {
        "fan-in weights help a fourth layer": gain(
            "init", "fan_in", "normal_0.01", "validation_bound", depth=4.0
        ),
        "they help over all depths": gain("init", "fan_in", "normal_0.01", "validation_bound"),
        "a second layer helps": gain("depth", 2.0, 1.0, "validation_bound", init="fan_in"),
    },
    "estimators": {
        "B ahead without a prior": gain("estimator", "B", "A", "bound", weight_prior="none"),
        "B ahead at the report's prior": gain(
            "estimator", "B", "A", "bound", weight_prior="each minibatch"
        ),
        "A's gradient always the noisier": columns(
            "ratio",
            gradient_ratio,
            any_refutes([mean("ratio", "above", 1.0, estimator=name) for name in "AB"]),
        ),
    },
    "exact_weight_posterior": {
        "one point behind it, 20 data": mean(
            "less_than_exact", "below", method="point, MAP", num_train=20.0
        ),
        "80 data": mean("less_than_exact", "below", method="point, MAP", num_train=80.0),
        "stochastic-gradient chains": to_be_run,
    },
    "frey_bounds": {
        "20 latents fall by over 100 nats on the film's end": mean(
            "fall", "above", 100.0, latent_size=20.0, split="ordered"
        ),
        "no size does on frames in between": any_refutes(
            [
                mean("fall", "below", 100.0, latent_size=size, split="shuffled")
                for size in FREY_SIZES
            ]
        ),
        "at 20 latents these are over 100 nats above the film's end": gain(
            "split", "shuffled", "ordered", "test_bound", at=100.0, latent_size=20.0
        ),
        "two latents within 50 nats of the report in training": near(
            level("training_bound", latent_size=2.0, split="ordered"), 768.9, 50.0
        ),
    },
    "full_bayes": {
        "SWAG ahead of a point, digits": bayes("SWAG", POINT, "digits"),
        "MNIST": bayes("SWAG", POINT, "binarized_mnist"),
        "mean-field N(0, I) behind a point": every(
            [
                bayes(f"mean-field N(0, I){rest}", POINT, "digits", side="below")
                for rest in (", all weights", ", decoder", " from MAP")
            ]
        ),
        "SWAG at five points ahead of five points, digits": bayes(
            "SWAG, ensemble of 5", "ensemble of 5", "digits"
        ),
        "the same, MNIST": bayes("SWAG, ensemble of 5", "ensemble of 5", "binarized_mnist"),
        "stochastic-gradient chains": to_be_run,
        "any of it after longer training": open_question,
    },
    "inference_gaps": {
        "the encoder's part is the larger": columns(
            "less",
            lambda row: row["amortisation"] - row["approximation"],
            mean("less", "above", posterior="diagonal_normal"),
        ),
        "a flow narrows the family's part": gain(
            "posterior", "diagonal_normal", "iaf", "approximation"
        ),
    },
    "kl_weight": {"a sharp threshold at the predicted weight": threshold},
    "kl_weight_scaling": {
        "the latents kept are those predicted": counted(
            lambda row: row["active"] == row["predicted"]
        ),
        "their KL is above the predicted at the smallest weight": columns(
            "apart",
            lambda row: row["kl_1"] - row["predicted_kl_1"],
            mean("apart", "above", report_weight=1e-8),
        ),
    },
    "latent_priors": {
        "each of three priors ahead of N(0, I) at both sizes": every(
            [
                gain("prior", prior, "standard_normal", "log_p", latent_size=size)
                for prior in ("vamp", "gaussian_mixture", "flow")
                for size in (10.0, 40.0)
            ]
        ),
    },
    "latent_size": {
        "more samples that are no digit": gain("latent_size", 50.0, 10.0, "not_a_digit"),
        "sharper samples": gain("latent_size", 50.0, 2.0, "sharpness"),
    },
    "manifold": {
        "the centre is always a 3": counted(
            lambda row: row["centre_class"] == 3, lambda row: row["data"] == "mnist"
        ),
        "a direction follows the profile": mean("asymmetry_explained", "above", data="frey_faces"),
    },
    "marginal_likelihood": {
        "AEVB ahead of wake-sleep at N = 1000": gain(
            "method", "AEVB", "wake-sleep", "importance", num_data=1000.0
        ),
        "of Monte Carlo EM at N = 1000": gain(
            "method", "AEVB", "MCEM", "importance", num_data=1000.0
        ),
        "of either at N = 50000": every(
            [
                gain("method", "AEVB", rival, "importance", num_data=50000.0)
                for rival in ("wake-sleep", "MCEM")
            ]
        ),
    },
    "mnist_bounds": {
        "B within a nat of the report's": any_refutes(
            [
                near(level("bound", method="B", latent_size=size), at, 1.0)
                for size, at in REPORT_B.items()
            ]
        ),
        "B ahead of A without a weight prior": every(
            [gain("method", "B", "A", "bound", latent_size=size) for size in REPORT_B]
        ),
        "by less than half of the report's gap": any_refutes(
            [
                gain("method", "B", "A", "bound", side="below", at=half, latent_size=size)
                for size, half in HALF_OF_THE_GAP.items()
            ]
        ),
        "a step of 0.02 ahead of 0.01": every(
            [gain("method", LONG_STEP, "B", "bound", latent_size=size) for size in REPORT_B]
        ),
        "and within a nat of the paper's": any_refutes(
            [
                near(level("bound", method=LONG_STEP, latent_size=size), at, 1.0)
                for size, at in PAPER.items()
            ]
        ),
        "ahead of wake-sleep": every(
            [
                gain("method", LONG_STEP, "wake-sleep, step 0.02", "bound", latent_size=size)
                for size in REPORT_B
            ]
        ),
        "200 latents less than a nat behind 20": gain(
            "latent_size", 200.0, 20.0, "bound", at=-1.0, method="B"
        ),
    },
    "nvae_hierarchy": {
        "balancing keeps every layer in use": counted(
            lambda row: row["layers_in_use"] == 4,
            lambda row: row["system"] == "balanced warm-up",
        ),
        "a plain warm-up loses a layer": counted(
            lambda row: row["layers_in_use"] < 4, lambda row: row["system"] == "plain warm-up"
        ),
        "no warm-up loses more": gain(
            "system", "no warm-up", "plain warm-up", "layers_in_use", side="below"
        ),
        "balancing raises the bound": gain("system", "balanced warm-up", "plain warm-up", "bound"),
        "above one layer's": gain("system", "balanced warm-up", "one layer", "bound"),
    },
    "published": {
        recipe: near(level("obtained", recipe=recipe), at, margin)
        for recipe, at, margin in (
            ("linear VAE", 0.0, 0.005),
            ("Pyro's example", -102.0, 2.0),
            ("replication, 5e7 samples", -101.53, 1.0),
            ("unit variance", -740.5, 2.0),
            ("shared scale", 896.1, 50.0),
        )
    },
    "pca_and_autoencoders": {
        "linear autoencoder within 2 degrees": mean(
            "angle_degrees", "below", 2.0, method="linear AE"
        ),
        "linear VAE within 2 degrees": mean("angle_degrees", "below", 2.0, method="linear VAE"),
        "the VAE's codes are the better": every(
            [gain("method", "VAE", "AE", value) for value in ("neighbours", "logistic")]
        ),
    },
    "posteriors_and_hierarchies": {
        "any of eight richer systems ahead, by annealing": every(
            [gain("system", better, base, "annealed") for better, base in SYSTEMS]
        ),
    },
    "probabilistic_pca": {
        "the VAE is ahead at every size": every(
            [mean("over_pca", "above", latent_size=size) for size in (2.0, 5.0, 10.0, 20.0)]
        ),
        "most at the fewest latents": any_refutes(
            [gain("latent_size", 2.0, size, "over_pca") for size in (5.0, 10.0, 20.0)]
        ),
    },
    "reconstruction": {
        "the VAE is better at 2": gain(
            "method", "AE", "VAE", "squared_error", penalty="none", latent_size=2.0, **MNIST
        ),
        "at 10 and 20": every(
            [
                gain(
                    "method",
                    "AE",
                    "VAE",
                    "squared_error",
                    penalty="none",
                    latent_size=size,
                    **MNIST,
                )
                for size in (10.0, 20.0)
            ]
        ),
        "at 10 and 20 with the penalty": every(
            [
                gain(
                    "method",
                    "AE",
                    "VAE",
                    "squared_error",
                    penalty="each minibatch",
                    latent_size=size,
                    **MNIST,
                )
                for size in (10.0, 20.0)
            ]
        ),
    },
    "reduced_precision": {"a cost": bfloat16_cost},
    "samples_and_batch_size": {
        "two draws ahead of one, in the film's order": gain(
            "num_particles", 2.0, 1.0, "test_bound", split="ordered", **FREY_SPLITS
        ),
        "on shuffled frames": gain(
            "num_particles", 2.0, 1.0, "test_bound", split="shuffled", **FREY_SPLITS
        ),
        "shuffled frames are the easier": gain(
            "split", "shuffled", "ordered", "test_bound", budget="epochs"
        ),
    },
    "scheduled_denoising": {
        "lowered noise ahead of constant noise": every(
            [
                gain("schedule", "lowered", "constant", "log_p", level=level, **NOISE)
                for level in (0.05, 0.15)
            ]
        ),
        "constant noise ahead of none": every(
            [gain("level", level, 0.0, "log_p", schedule="constant") for level in (0.05, 0.15)]
        ),
        "lowered noise ahead of none, at 0.05": lowered("0.05"),
        "at 0.15": lowered("0.15"),
    },
    "training_speed": {"speed": lambda rows: "no verdict"},
    "uniform_square": {"a learned scale reaches both ends": square},
}


def test_tables_quote_every_study_with_results_once_and_its_figure() -> None:
    assert sorted(TABLE) == ANSWERED
    for name, entry in TABLE.items():
        figure = f"results/{name}/figure.png"
        assert figure in entry.figure and f"results/{name}/answer.md" in entry.found
        assert (STUDIES / figure).exists()


def test_studies_without_results_are_named_above_the_table() -> None:
    text = (STUDIES / "README.md").read_text(encoding="utf-8").partition("| question |")[0]
    running = text.partition("- Running, without results yet")[2].partition("\n\n")[0]
    named = re.findall(r"\[(\w+)\]\((\w+)\.py\)", running)
    assert all(shown == linked for shown, linked in named)
    assert sorted(name for name, _ in named) == sorted(set(NAMES) - set(ANSWERED))


def test_the_readme_repeats_five_lines_of_the_studies_table() -> None:
    assert len(HEADLINES) == 5
    for name, entry in HEADLINES.items():
        own = [text.replace("studies/", "") for text in (entry.question, entry.found, entry.figure)]
        assert own == [TABLE[name].question, TABLE[name].found, TABLE[name].figure]
        assert entry.verdicts == TABLE[name].verdicts


@pytest.mark.parametrize("name", ANSWERED)
class TestStudy:
    def test_answer_is_that_of_its_rows_and_numbers_are_the_answer_s(self, name: str) -> None:
        script, results = published(name)
        committed = (STUDIES / "results" / name / "answer.md").read_text(encoding="utf-8")
        again = answer_md(script, results, EARLIER if EARLIER in committed else "")
        assert committed == again, f"python studies/{name}.py --answer"
        missing = numbers(TABLE[name].found) - numbers(again)
        assert not missing, f"in studies/README.md and not in the answer: {sorted(missing)}"

    def test_verdicts_follow_from_the_rows(self, name: str) -> None:
        rows = rows_of(name)
        assert TABLE[name].verdicts == {claim: rule(rows) for claim, rule in RULES[name].items()}

    def test_what_is_to_be_run_anew_is_said_in_answer_and_table(self, name: str) -> None:
        provenance = json.loads((STUDIES / "results" / name / "provenance.json").read_text())
        noted = any(note.startswith("To be run anew") for note in provenance["notes"])
        assert noted == (to_be_run in RULES[name].values())
