"""The study engine: cells named by what they depend on, run anywhere, never lost or doubled; means
with their errors.

Knows studies made of plain arithmetic; must not train anything.
"""

import csv
import importlib
import json
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from ppl_vae.checks import InputError
from ppl_vae.study import (
    Interval,
    cache,
    cells,
    interval,
    mean_and_standard_error,
    mean_at,
    paired_difference,
    plus_minus,
    sources,
    table,
    verdict,
)
from ppl_vae.study.plan import expected_seconds, that_fit
from ppl_vae.study.sources import source_behind

HEAD = '''
"""Does it run?

Prediction: yes. How to read the figure: a dot a cell.
"""

import os, random, signal, time
from pathlib import Path
import numpy as np
import torch
from ppl_vae import study

HERE, MAIN = Path(os.environ["STUDY_LOG"]), int(os.environ["STUDY_PID"])
GRID = {"size": [3, 1, 2], "kind": ["a", "b"]}

def log(*cell):
    with (HERE / "log").open("a") as file:
        file.write(f"{cell}\\n")

def scaled(size):
    return 10 * size
'''
TAIL = """
def draw(rows):
    from matplotlib import pyplot
    figure, axes = pyplot.subplots()
    axes.plot([row["size"] for row in rows], [row["value"] for row in rows], "o")
    return figure

def answer(rows):
    return f"Yes, {len(rows)} times."

if __name__ == "__main__":
    study.main()
"""
PLAIN = """
def run(seed, size, kind):
    log(size, kind, seed)
    noise = torch.rand(()) + np.random.rand() + random.random()
    return {"value": scaled(size) + seed, "noise": noise,
            "threads": torch.get_num_threads(), "outside": os.getpid() != MAIN, "curve": np.ones(2)}
"""
DEADLY = """
def run(seed, size, kind):
    log(size, kind, seed)
    tries = HERE.joinpath("log").read_text().splitlines().count(str((size, kind, seed)))
    if (size, kind, seed) == (1, "b", 0) and tries <= {deaths}:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {{"value": scaled(size) + seed}}
"""


class Study:
    """A study's script in a folder of its own, run as a user runs it."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.path = folder / "studies" / "toy.py"
        self.results = folder / "studies" / "results" / "toy"
        self.path.parent.mkdir()
        monkeypatch.setenv("STUDY_LOG", str(folder))
        monkeypatch.setenv("STUDY_PID", str(os.getpid()))
        self.script(PLAIN)

    def script(self, run: str, tail: str = TAIL, head: str = HEAD) -> None:
        self.path.write_text(head.lstrip() + run + tail)

    def __call__(self, *options: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of the script in this process (its
        workers are reused).
        """
        self.monkeypatch.setattr(sys, "argv", [str(self.path), *options])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(self.path), run_name="__main__")
        return (int(stop.value.code or 0), *self.capsys.readouterr())

    def ran(self) -> Counter[str]:
        """How often each cell was run since the last time this was asked."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return Counter(lines)

    def csv(self) -> list[str]:
        return (self.results / "rows.csv").read_text().splitlines()


@pytest.fixture
def study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Study:
    return Study(tmp_path, monkeypatch, capsys)


class TestMeans:
    def test_the_standard_error_is_that_of_the_closed_form(self) -> None:
        assert mean_and_standard_error([1, 2, 3, 4]) == (2.5, pytest.approx(math.sqrt(5 / 3 / 4)))

    def test_one_value_has_no_known_error_and_none_is_refused(self) -> None:
        mean, error = mean_and_standard_error([7.0])
        assert mean == 7 and math.isnan(error)
        with pytest.raises(InputError, match="no values"):
            mean_and_standard_error([])

    def test_the_error_covers_the_truth_as_often_as_it_should(self) -> None:
        """The interval of the mean of n normals holds the true mean in 95 % of 2000 cases.

        Two standard errors would hold it in 70 % at n = 2. Fails for 1 seed in 10000 for each n if
        the coverage is right (4 standard deviations of a binomial, 0.0195).
        """
        for n in (2, 3, 20):
            draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, n))
            outside = [interval(values).excludes(3.0) for values in draws]
            assert np.mean(outside) == pytest.approx(0.05, abs=0.0195), n

    @pytest.mark.parametrize(
        ("mean", "error", "text"),
        [
            (-98.4321, 0.314, "-98.43 ± 0.31"),
            (1234.5, 27.0, "1234 ± 27"),
            (0.5, math.nan, "0.5"),
            (3.0, 0.0, "3"),
            (0.18, 2e-17, "0.18"),
            (1.5e-9, 2e-10, "1.5000e-09 ± 2.0e-10"),
        ],
    )
    def test_plus_minus(self, mean: float, error: float, text: str) -> None:
        assert plus_minus(mean, error) == text


class TestInterval:
    def test_half_its_width_is_student_s_quantile_times_the_standard_error(self) -> None:
        for n, quantile in ((2, 12.7062), (3, 4.30265), (5, 2.77645), (20, 2.09302)):
            assert Interval(1.0, 0.5, n).half_width == pytest.approx(0.5 * quantile, rel=1e-5)

    def test_its_p_value_is_one_twentieth_where_it_just_reaches_nought(self) -> None:
        for n in (2, 3, 10):
            half_width = Interval(0.0, 1.0, n).half_width
            assert Interval(half_width, 1.0, n).p_value == pytest.approx(0.05)
        # With one degree of freedom Student's distribution is Cauchy's: P(|t| > 1) = 1/2.
        assert Interval(1.0, 1.0, 2).p_value == pytest.approx(0.5)

    def test_a_verdict_needs_the_interval_to_exclude_nought(self) -> None:
        # Three standard errors above 0, which two seeds do not carry and twenty do.
        assert verdict(Interval(3.0, 1.0, 2)) == "not shown"
        assert verdict(Interval(3.0, 1.0, 20)) == "confirmed"
        assert verdict(Interval(3.0, 1.0, 20), "below") == "refuted"
        assert verdict(Interval(-3.0, 1.0, 20), "below") == "confirmed"
        assert verdict(Interval(3.0, 1.0, 20), "above", value=2.0) == "not shown"
        with pytest.raises(InputError, match="'above' or 'below'"):
            verdict(Interval(3.0, 1.0, 20), "over")

    def test_one_seed_says_nothing(self) -> None:
        one = interval([7.0])
        assert math.isnan(one.half_width) and math.isnan(one.p_value) and str(one) == "7"
        assert verdict(one) == verdict(one, "below") == "no verdict"
        assert not one.above() and not one.below() and not one.excludes()

    def test_equal_values_exclude_every_other(self) -> None:
        same = interval([2.0, 2.0])
        assert same.p_value == 0.0 and same.excludes(1.9) and not same.excludes(2.0)

    def test_an_error_over_data_does_not_shrink_with_seeds(self) -> None:
        both = Interval(1.0, 0.3, 5).with_data_error(0.4)
        assert both == Interval(1.0, pytest.approx(0.5), 5, "seeds and data")

    def test_it_unpacks_as_plus_minus_takes_it(self) -> None:
        found = Interval(2.5, 0.5, 2)
        assert str(found) == plus_minus(*found) == "2.5 ± 6.4"


class TestMeanAt:
    rows = tuple(
        {"seed": s, "a": a, "b": b, "v": 10 * s + a + 4 * b}
        for s in (0, 1)
        for a in (0, 1)
        for b in (0, 1)
    )

    def test_values_of_one_seed_are_averaged_before_the_error_is_taken(self) -> None:
        # at a = 1 the seeds' means are 3 and 13: their standard error is 5, not that of four values
        assert mean_at(self.rows, "v", a=1) == Interval(8.0, pytest.approx(5.0), 2)
        assert mean_at(self.rows, "v", a=1, b=0) == Interval(6.0, pytest.approx(5.0), 2)

    def test_no_row_at_the_levels_is_an_error(self) -> None:
        with pytest.raises(InputError, match="no row with 'v'"):
            mean_at(self.rows, "v", a=2)


class TestPairedDifference:
    ROWS = tuple(
        {
            "kind": kind,
            "size": size,
            "seed": seed,
            "value": 1000 * seed + size + (kind == "b") * step,
        }
        for seed, step in enumerate([1.0, 2.0, 3.0])
        for kind in "ab"
        for size in (1, 2)
    )

    def test_what_a_pair_shares_cancels(self) -> None:
        rows = [row for row in self.ROWS if row["size"] == 1]
        found = paired_difference(rows, "kind", "b", "a", "value")
        assert found == Interval(2.0, pytest.approx(math.sqrt(1 / 3)), 3)
        assert paired_difference(rows, "kind", "a", "b", "value").mean == -2.0

    def test_two_pairs_of_one_seed_are_not_two_seeds(self) -> None:
        expected = Interval(2.0, pytest.approx(math.sqrt(1 / 3)), 3)
        assert paired_difference(self.ROWS, "kind", "b", "a", "value", ["size"]) == expected
        assert paired_difference(self.ROWS, "kind", "b", "a", "value", ["size", "seed"]) == expected

    def test_an_ambiguous_pair_and_no_pair_are_refused(self) -> None:
        with pytest.raises(InputError, match="two values of 'value' at seed=0"):
            paired_difference(self.ROWS, "kind", "b", "a", "value")
        with pytest.raises(InputError, match="no pair with kind='b' and kind='c'"):
            paired_difference(self.ROWS, "kind", "b", "c", "value", ["size"])

    def test_a_row_without_its_partner_counts_for_nothing(self) -> None:
        rows = [row for row in self.ROWS if row["size"] == 1][:-1]
        found = paired_difference(rows, "kind", "b", "a", "value")
        assert found == Interval(1.5, pytest.approx(0.5), 2)


class TestTable:
    def test_a_line_holds_mean_error_and_number_of_seeds(self) -> None:
        rows = [
            {"size": size, "seed": seed, "value": size + seed} for size in (2, 1) for seed in (0, 1)
        ]
        rows.append({"size": 3, "seed": 0, "value": None})
        assert table(rows, ["size"], "value").splitlines() == [
            "| size | value | seeds |",
            "| --- | --- | --- |",
            "| 2 | 2.5 ± 6.4 | 2 |",
            "| 1 | 1.5 ± 6.4 | 2 |",
            "| 3 | – | 1 |",
        ]

    def test_one_seed_counted_twice_and_an_unknown_column_are_refused(self) -> None:
        rows = [{"size": 1, "epoch": epoch, "seed": 0, "value": epoch} for epoch in (0, 1)]
        with pytest.raises(InputError, match="two values of 'value' at seed=0"):
            table(rows, ["size"], "value")
        with pytest.raises(InputError, match="did you mean 'epoch'"):
            table(rows, ["epochs"], "value")


class TestCells:
    @staticmethod
    def script(
        grid: object, source: str = "", run: Callable = lambda seed, a, b=0: {}
    ) -> cells.Script:
        return cells.Script(Path("toy.py"), "?", grid, run, run, None, None, cells.SEEDS, source)

    def settings(
        self, grid: object, scale: str = "laptop", seeds: int = 1, **kwargs
    ) -> list[tuple]:
        found = cells.cells_of(self.script(grid), scale, seeds, **kwargs)
        return [(*cell.settings.values(), cell.seed) for cell in found]

    def test_cells_stand_in_the_grid_s_order_seeds_innermost(self) -> None:
        assert self.settings({"a": [2, 1]}, seeds=2) == [(2, 0), (2, 1), (1, 0), (1, 1)]
        assert self.settings({"a": [2, 1], "b": ["x", None]}) == [
            (2, "x", 0),
            (2, None, 0),
            (1, "x", 0),
            (1, None, 0),
        ]

    def test_a_union_of_products_counts_a_shared_cell_once(self) -> None:
        assert self.settings([{"a": [1, 2]}, {"a": [2, 3]}]) == [(1, 0), (2, 0), (3, 0)]

    def test_each_scale_may_have_its_grid(self) -> None:
        grid = {"smoke": {"a": [1]}, "laptop": {"a": [1, 2]}}
        assert self.settings(grid, "smoke") == [(1, 0)] and self.settings(grid) == [(1, 0), (2, 0)]
        with pytest.raises(InputError, match="one of smoke, laptop"):
            self.settings(grid, "paper")

    def test_only_keeps_the_cells_that_match_every_filter(self) -> None:
        grid = {"a": [1, 2, 3], "b": ["x", "y"]}
        assert self.settings(grid, seeds=2, only=["a=3,1", "b=y", "seed=1"]) == [
            (1, "y", 1),
            (3, "y", 1),
        ]
        assert self.settings({"a": ["p, q", "q"]}, only=["a=p, q"]) == [("p, q", 0)]

    @pytest.mark.parametrize(
        ("grid", "message"),
        [
            ({"a": [(1, 2)]}, "name a compound setting by a string"),
            ({"a": []}, r"GRID\['a'\]"),
            ({"a": 3}, r"GRID\['a'\]"),
            ({"a": [1], "seed": [1]}, "an axis 'seed'"),
            ({"a": [1], "scratch": [1]}, "an axis 'scratch'"),
            ({"c": [1]}, "those that run takes"),
            ({"b": [1]}, "those that run takes"),
        ],
    )
    def test_a_grid_that_run_cannot_take_is_refused(self, grid: object, message: str) -> None:
        with pytest.raises(InputError, match=message):
            self.settings(grid)

    def test_a_key_depends_on_everything_that_rows_depend_on(self) -> None:
        def key(a: object = 1, seed: int = 0, scale: str = "laptop", source: str = "") -> str:
            return cells.cells_of(self.script({"a": [a]}, source), scale, seed + 1)[seed].key

        keys = [
            key(),
            key(a=2),
            key(a="1"),
            key(a=1.0),
            key(seed=1),
            key(scale="paper"),
            key(source="run"),
        ]
        assert len(set(keys)) == len(keys)

    def test_only_what_run_reaches_is_behind_it(self) -> None:
        script = """
            "Question."
            import math as m
            WIDTH = 3
            GRID = {"a": [1]}
            def deep(x): return m.pi * WIDTH * x
            def helper(x): return deep(x)
            def run(seed, a): return {"v": helper(a)}
            def paint(rows): ...
            def draw(rows): return paint(rows)
            """
        text = textwrap.dedent(script)
        behind = source_behind("run", text)
        for change in (
            ("Question", "Prediction"),
            ("[1]", "[1, 2]"),
            ("...", "pass"),
            ("def run", "# why\ndef run"),
        ):
            assert source_behind("run", text.replace(*change)) == behind
        for change in (
            ("= 3", "= 4"),
            ("m.pi", "m.e"),
            ("math as m", "cmath as m"),
            ("return deep", "return -deep"),
            ("GRID =", "m.pi = 3\nGRID ="),
            ("GRID =", "m.seed(3)\nGRID ="),
        ):
            assert source_behind("run", text.replace(*change)) != behind


class TestFingerprint:
    """Which changes of which file make cells run again."""

    SCRIPT = """
        import first
        from painting import paint
        def run(seed): return {"v": first.value(seed), "prior": "parts/ring.py:Ring"}
        def draw(rows): return paint(rows)
        """
    FILES = MappingProxyType(
        {
            "first/__init__.py": "from first.second import deep\ndef value(s): return deep(s)\n",
            "first/second.py": "from . import third\ndef deep(seed): return third.N * seed\n",
            "first/third.py": "N = 3\n",
            "painting.py": "def paint(rows): return 1\n",
            "parts/ring.py": "class Ring: ...\n",
            "unused.py": "N = 1\n",
        }
    )

    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        path = tmp_path / "toy.py"
        path.write_text(textwrap.dedent(self.SCRIPT))
        for name, text in self.FILES.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        return path

    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("first/__init__.py", True),
            ("first/second.py", True),
            ("first/third.py", True),
            ("parts/ring.py", True),
            ("painting.py", False),
            ("unused.py", False),
        ],
    )
    def test_what_run_imports_counts_wherever_it_stands(
        self, script: Path, name: str, changes: bool
    ) -> None:
        before = sources.fingerprint(script)
        with (script.parent / name).open("a") as file:
            file.write("MORE = 1\n")
        assert (sources.fingerprint(script) != before) == changes

    def test_comments_docstrings_and_layout_change_nothing(self, script: Path) -> None:
        before = sources.fingerprint(script)
        second = script.parent / "first" / "second.py"
        second.write_text(
            '"""Deep."""\n\n# why\nfrom . import (\n    third,\n)\n\n\n'
            'def deep(\n    seed,\n):\n    """Deep."""\n    return (third.N * seed)\n'
        )
        assert sources.fingerprint(script) == before

    def test_the_package_s_own_source_counts(
        self, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert {"vae.py", "training/loop.py", "study/sources.py"} <= set(sources.package_source())
        package = tmp_path / "package"
        package.mkdir()
        monkeypatch.setattr(sources, "PACKAGE", package)
        found = []
        for text in ("N = 3\n", "N = 3  # why\n", "N = 4\n"):
            (package / "any.py").write_text(text)
            sources.package_source.cache_clear()
            found.append(sources.fingerprint(script))
        sources.package_source.cache_clear()
        assert found[0] == found[1] != found[2]


class TestPlan:
    CELLS = tuple(cells.Cell({"a": a}, 0, "laptop", str(a)) for a in range(4))

    def test_a_cell_takes_what_cells_of_its_settings_took_else_what_all_took(self) -> None:
        times = [({"a": 0}, 2.0), ({"a": 0}, 4.0), ({"a": 1}, 9.0)]
        assert [expected_seconds(cell, times) for cell in self.CELLS[:3]] == [3.0, 9.0, 5.0]
        assert math.isnan(expected_seconds(self.CELLS[0], []))

    def test_the_cheapest_cells_that_fit_are_chosen(self) -> None:
        seconds = [40.0, 10.0, 30.0, 20.0]
        for budget, at_a_time, chosen in (
            (9, 1, []),
            (60, 1, [1, 3, 2]),
            (59, 1, [1, 3]),
            # Two workers: 10 and 30 on the one, 20 and 40 on the other.
            (40, 2, [1, 3, 2]),
            (60, 2, [1, 3, 2, 0]),
        ):
            found = that_fit(self.CELLS, seconds, budget, at_a_time)
            assert [int(cell.key) for cell in found] == chosen


class TestCache:
    CELL = cells.Cell({"a": 1}, 0, "laptop", "0" * 64)

    def test_rows_come_back_as_they_went(self, tmp_path: Path) -> None:
        kept, rows = cache.Cache(tmp_path), [{"a": 1, "seed": 0, "v": 0.1, "w": [math.inf, None]}]
        entry = cache.Entry(rows, 2.5, 1.5, {"commit": "abc"})
        kept.save(self.CELL, entry)
        assert kept.load(self.CELL) == entry
        assert list(kept.times("laptop")) == [({"a": 1}, 2.5)] and not list(kept.times("paper"))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"{}",
            b'{"rows": 3, "cpu_seconds": 1}',
            b'{"rows": "ab", "cpu_seconds": 1}',
            b'{"rows": [1, 2], "cpu_seconds": 1}',
            b'{"rows": [{"a": 1, "seed": 0}], "cpu_seconds": true}',
            b'{"rows": [{"a": 2, "seed": 0}], "cpu_seconds": 1}',
            b"[" * 200_000,
            b"\x80\x04.",
        ],
    )
    def test_what_cannot_be_read_is_not_there(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / f"{self.CELL.key}.json").write_bytes(content)
        assert cache.Cache(tmp_path).load(self.CELL) is None

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        cache.write(tmp_path / "rows", b"old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            cache.write(tmp_path / "rows", b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["rows"] and (
            tmp_path / "rows"
        ).read_bytes() == b"old"


class TestCommand:
    def test_results_hold_every_cell_in_order_and_say_how_they_were_made(
        self, study: Study
    ) -> None:
        status, _, error = study("--seeds", "2", "--jobs", "2")
        assert status == 0 and "100%" in error
        with open(study.results / "rows.csv", newline="") as file:
            columns, *rows = csv.reader(file)
        measured = ["size", "kind", "seed", "value", "noise", "threads", "outside"]
        assert columns == [*measured, "commit", "torch_version", "processor"]
        assert [row[:4] for row in rows] == [
            [str(size), kind, str(seed), str(10 * size + seed)]
            for size in (3, 1, 2)
            for kind in "ab"
            for seed in (0, 1)
        ]
        assert {tuple(row[5:7]) for row in rows} == {("1", "True")}, (
            "each cell on one thread of another process"
        )
        assert (study.results / "figure.png").read_bytes()[:4] == b"\x89PNG"
        answer = (study.results / "answer.md").read_text()
        for part in (
            "# toy: Does it run?\n\nPrediction: yes.",
            "Yes, 12 times.",
            "| 3 | a | 30.5 ± 6.4 |",
            "Every ± is half the width of Student's 95 % interval for a mean over 2 seeds.",
            "Seeds: 2. A final verdict asks for 5, so the verdicts here are provisional.",
            "`python studies/toy.py --scale laptop --seeds 2`. Scale: laptop. Seeds: 2. Cells: "
            "12. CPU seconds: ",
        ):
            assert part in answer

    def test_the_number_of_workers_changes_nothing(self, study: Study) -> None:
        study("--jobs", "1", "--cache", str(study.folder / "one"))
        one = study.csv()
        study("--jobs", "2", "--cache", str(study.folder / "two"))
        assert study.csv() == one and len(study.ran()) == 18

    def test_without_workers_the_rows_are_the_same(self, study: Study) -> None:
        study("--jobs", "1", "--cache", str(study.folder / "workers"))
        outside = study.csv()
        command = [
            sys.executable,
            str(study.path),
            "--backend",
            "sequential",
            "--cache",
            str(study.folder / "here"),
        ]
        study.monkeypatch.setenv("STUDY_PID", "0")  # every process is another than the test's
        subprocess.run(command, check=True, capture_output=True)
        assert study.csv() == outside and len(study.ran()) == 18

    def test_only_what_rows_depend_on_makes_cells_run_again(self, study: Study) -> None:
        study()
        assert study.ran().total() == 18
        study.script("# why\n" + PLAIN, TAIL.replace("Yes", "Indeed"))
        study()
        assert study.ran().total() == 0 and "Indeed" in (study.results / "answer.md").read_text()
        study("--seeds", "4")
        assert study.ran().total() == 6
        study.script(PLAIN, head=HEAD.replace("10 * size", "20 * size"))
        study("--seeds", "1")
        assert study.ran().total() == 6 and study.csv()[1].startswith("3,a,0,60")

    def test_redraw_and_list_compute_nothing(self, study: Study) -> None:
        assert study("--redraw")[0] == 2
        study("--only", "size=1", "--seeds", "1")
        study.ran()
        out = study("--list", "--seeds", "1")[1].splitlines()
        assert out[1:4] == [
            "-       size=3 kind=b seed=0",
            "cached  size=1 kind=a seed=0",
            "cached  size=1 kind=b seed=0",
        ]
        status, _, error = study("--redraw", "--seeds", "1")
        assert status == 0 and "2 rows, 4 of 6 cells missing" in error and study.ran().total() == 0
        assert "**4 of 6 cells are missing.**" in (study.results / "answer.md").read_text()

    @pytest.mark.parametrize("options", [["--scale", "smoke"], ["--only", "size=1"]])
    def test_a_part_of_the_study_leaves_its_results_alone(
        self, study: Study, options: list[str]
    ) -> None:
        assert study(*options)[0] == 0
        assert not study.results.exists()
        assert len(list(study.path.parent.glob(".cache/toy/results-*/answer.md"))) == 1

    def test_scale_reaches_a_run_that_asks_for_it(self, study: Study) -> None:
        study.script('def run(seed, size, kind, scale):\n    return {"value": 1, "at": scale}\n')
        study("--seeds", "1", "--scale", "paper")
        assert study.csv()[1].startswith("3,a,0,1,paper,")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--scale", "big"], "one of smoke, laptop, paper"),
            (["--seeds", "0"], "--seeds: got 0, expected an integer >= 1"),
            (["--seeds", "few"], "--seeds"),
            (["--jobs", "-1"], "--jobs: got -1"),
            (["--backend", "dusk"], "did you mean 'dask'"),
            (["--only", "size"], "axis=value"),
            (["--only", "sizes=1"], "did you mean 'size'"),
            (["--only", "size=7"], "expected one of 1, 2, 3"),
            (["--scheduler", "tcp://127.0.0.1:1"], "--backend dask beside it"),
            pytest.param(
                ["--scheduler", "nowhere", "--backend", "dask"],
                "the address of a running dask scheduler",
                marks=pytest.mark.skipif(
                    not find_spec("distributed"), reason="the extra dask is not installed"
                ),
            ),
            (["--cache", "/dev/null/x"], "a folder that can be written"),
            (["--hours", "-1"], "--hours: got -1"),
            (["--hours", "nan"], "--hours: got nan"),
            (["--seed", "3"], "unrecognized arguments"),
        ],
    )
    def test_a_bad_value_is_one_line_and_status_2(
        self, study: Study, options: list[str], message: str
    ) -> None:
        status, _, error = study(*options)
        assert status == 2 and message in error and error.count("\n") == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (('"""Does it run?', 'x = """'), "a module without __doc__"),
            (("GRID =", "GIRD ="), "a module without GRID"),
            (("import os", 'SEEDS = {"labtop": 3}\nimport os'), "did you mean 'laptop'"),
        ],
    )
    def test_a_script_that_lacks_a_part_is_refused(
        self, study: Study, change: tuple[str, str], message: str
    ) -> None:
        study.script(PLAIN, head=HEAD.replace(*change))
        status, _, error = study()
        assert status == 2 and message in error and error.count("\n") == 1

    @pytest.mark.parametrize(("backend", "module"), [("ray", "ray"), ("dask", "distributed")])
    def test_a_missing_extra_is_named(
        self, study: Study, monkeypatch: pytest.MonkeyPatch, backend: str, module: str
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        status, _, error = study("--backend", backend)
        assert status == 2 and f"pip install 'ppl-vae[{backend}]'" in error


class TestOrigin:
    def test_rows_say_which_commit_torch_and_processor_made_them(self, study: Study) -> None:
        def git(*arguments: str) -> str:
            who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
            command = ["git", "-C", str(study.folder), *who, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return done.stdout.strip()

        def origins() -> list[tuple[str, str, str]]:
            study("--seeds", "1")
            with open(study.results / "rows.csv", newline="") as file:
                rows = list(csv.DictReader(file))
            return [(row["commit"], row["torch_version"], row["processor"]) for row in rows]

        (study.folder / ".gitignore").write_text(".cache/\n")
        git("init", "-q")
        git("add", "-A")
        git("commit", "-q", "-m", "a study")
        commit = git("rev-parse", "--short=12", "HEAD")
        ((first, torch_version, processor),) = set(origins())
        assert first == commit and torch_version == torch.__version__ and processor
        # Six rows stay, and those of a changed axis are made by a checkout that is not the commit.
        study.script(PLAIN, head=HEAD.replace("[3, 1, 2]", "[3, 1, 4]"))
        assert Counter(origin[0] for origin in origins()) == {commit: 4, f"{commit}-dirty": 2}
        answer = (study.results / "answer.md").read_text()
        assert f"Commit: {commit} (4 rows), {commit}-dirty (2 rows)." in answer


class TestAnswer:
    def test_figure_and_answer_come_again_from_the_rows_alone(self, study: Study) -> None:
        """Also after the code has changed, without the cache, and with what stands in no table."""
        head = HEAD.replace('["a", "b"]', '["a", None, "2"]')
        tail = TAIL.replace(
            'f"Yes, {len(rows)} times."',
            'repr([(r["kind"], r["curve"], r["outside"], r.get("odd")) for r in rows])',
        )
        run = PLAIN.replace(
            "    return {", '    odd = {} if kind else {"odd": 0.1}\n    return {**odd, '
        )
        study.script(run, tail, head)
        assert study("--seeds", "1")[0] == 0
        study.ran()
        before = (study.results / "answer.md").read_text()
        assert (
            "('2', [1.0, 1.0], True, None)" in before and "(None, [1.0, 1.0], True, 0.1)" in before
        )
        shutil.rmtree(study.path.parent / ".cache")
        (study.results / "answer.md").unlink()
        (study.results / "figure.png").unlink()
        study.script(run.replace("np.ones(2)", "np.zeros(2)"), tail, head)
        status, _, error = study("--answer")
        assert status == 0 and "answered again" in error and not study.ran()
        assert (study.results / "answer.md").read_text() == before
        assert (study.results / "figure.png").read_bytes()[:4] == b"\x89PNG"

    def test_a_figure_whose_arrays_are_not_kept_is_left_as_it_was(self, study: Study) -> None:
        study.script(PLAIN, TAIL.replace("figure, axes =", 'rows[0]["curve"]; figure, axes ='))
        assert study("--seeds", "1")[0] == 0
        (study.results / "arrays.json.gz").unlink()
        (study.results / "figure.png").write_bytes(b"old")
        status, _, error = study("--answer")
        assert status == 0 and "the figure is left as it was (KeyError: 'curve')" in error
        assert (study.results / "figure.png").read_bytes() == b"old"
        assert "The figure is the one drawn when" in (study.results / "answer.md").read_text()

    def test_without_results_it_is_refused(self, study: Study) -> None:
        status, _, error = study("--answer")
        assert status == 2 and "results in" in error and error.count("\n") == 1


class TestHours:
    SLOW = """
def run(seed, size, kind):
    log(size, kind, seed)
    time.sleep(size / 5)
    return {"value": size}
"""

    def test_as_many_cells_run_as_fit_and_the_others_are_listed(self, study: Study) -> None:
        study.script(self.SLOW)
        options = ("--only", "kind=a", "--jobs", "1", "--backend", "sequential")
        # Nothing is known yet of any time: with none left, nothing runs.
        status, _, error = study(*options, "--seeds", "1", "--hours", "0")
        assert status == 0 and not study.ran()
        assert "3 of 3 cells do not fit into 0 hours:" in error and "size=3 kind=a seed=0" in error
        study(*options, "--seeds", "1")
        assert study.ran().total() == 3
        # 0.2 s and 0.4 s of the three missing cells fit into 1 s, 0.6 s more does not.
        status, _, error = study(*options, "--seeds", "2", "--hours", str(1 / 3600))
        assert list(study.ran()) == ["(1, 'a', 1)", "(2, 'a', 1)"]
        assert "1 of 6 cells do not fit" in error and "  size=3 kind=a seed=1\n" in error
        assert study(*options, "--seeds", "2", "--hours", "1")[0] == 0
        assert list(study.ran()) == ["(3, 'a', 1)"]

    def test_results_that_are_whole_are_not_replaced_by_what_fits(self, study: Study) -> None:
        study.script(self.SLOW)
        options = ("--seeds", "1", "--jobs", "1", "--backend", "sequential")
        study(*options, "--hours", "0.0001")
        assert study.ran() and not study.results.exists()
        assert study(*options, "--hours", "1")[0] == 0
        assert study.results.exists()

    def test_without_any_known_time_the_first_cell_tells(self, study: Study) -> None:
        study.script(self.SLOW)
        options = ("--seeds", "1", "--jobs", "1", "--backend", "sequential")
        # The first cell takes 0.6 s, so that one more like it does not fit into 1 s.
        study(*options, "--hours", str(1 / 3600))
        assert list(study.ran()) == ["(3, 'a', 0)"]


TRAINING = """
from ppl_vae import VAEConfig, build, fit, lower_bound

def run(seed, size, kind, scratch):
    log("resumed" if (scratch / "checkpoint.safetensors").exists() else "started")
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(seed))
    vae = build(VAEConfig((6,), 2, (8,)), seed=seed)
    how = {"batch_size": 10, "epochs": EPOCHS, "compile": "off", "seed": seed, "progress": False}
    history = fit(vae, x, validation=x, checkpoint=scratch, resume=True, **how)
    bounds = [row["validation_lower_bound"] for row in history.rows]
    return {"bounds": bounds, "last": lower_bound(vae, x).sum().item(), "noise": torch.rand(())}
"""


class TestScratch:
    def test_a_cell_killed_on_the_way_ends_with_the_rows_of_one_never_killed(
        self, study: Study
    ) -> None:
        study.script(TRAINING.replace("EPOCHS", "60"))
        options = (
            "--seeds",
            "1",
            "--only",
            "size=1",
            "--only",
            "kind=a",
            "--backend",
            "sequential",
        )
        command = [sys.executable, str(study.path), *options]
        scratch = study.path.parent / ".cache" / "toy" / "scratch"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        while not list(scratch.glob("*/checkpoint.safetensors")):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert not list(scratch.parent.glob("*.json")), "the cell was not done when it was killed"
        assert study(*options, "--results", str(study.folder / "killed"))[0] == 0
        assert list(study.ran()) == ["('started',)", "('resumed',)"]
        assert not list(scratch.iterdir()), "a cell that is done keeps nothing more"
        whole = ("--results", str(study.folder / "whole"), "--cache", str(study.folder / "other"))
        assert study(*options, *whole)[0] == 0
        assert list(study.ran()) == ["('started',)"]
        for name in ("rows.csv", "arrays.json.gz"):
            killed, whole_rows = (study.folder / run / name for run in ("killed", "whole"))
            assert killed.read_bytes() == whole_rows.read_bytes()

    def test_a_failed_cell_keeps_what_it_has_for_the_next_try(self, study: Study) -> None:
        study.script("""
def run(seed, size, kind, scratch):
    if not list(scratch.iterdir()):
        (scratch / "half").touch()
        raise ArithmeticError("half of the way")
    return {"value": 1}
""")
        assert study("--seeds", "1")[0] == 1
        assert study("--seeds", "1")[0] == 0


class TestFaults:
    def test_a_failed_cell_is_reported_and_runs_again_while_the_rest_stays(
        self, study: Study
    ) -> None:
        fails = """    if (size, seed) == (1, 1) and not (HERE / "mended").exists():
        raise ArithmeticError("no\\nhope")
"""
        study.script(PLAIN.replace("    return", fails + "    return"))
        status, _, error = study("--seeds", "2")
        assert (
            status == 1
            and "2 of 12 cells failed" in error
            and "size=1 kind=b seed=1: hope" in error
        )
        assert (
            len(study.csv()) == 11
            and "**2 of 12 cells" in (study.results / "answer.md").read_text()
        )
        (failure, _) = study.path.parent.glob(".cache/toy/*.failure.txt")
        assert "ArithmeticError" in failure.read_text() and "Traceback" in failure.read_text()
        study.ran()
        (study.folder / "mended").touch()
        assert study("--seeds", "2")[0] == 0 and set(study.ran()) == {"(1, 'a', 1)", "(1, 'b', 1)"}
        assert len(study.csv()) == 13 and not list(
            study.path.parent.glob(".cache/toy/*.failure.txt")
        )

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            ("3", "a dict or a list of dicts"),
            ('{"kind": 1}', "names that no axis has"),
            ('{"v": log}', "function"),
        ],
    )
    def test_a_result_that_is_no_row_fails_in_words(
        self, study: Study, result: str, message: str
    ) -> None:
        study.script(f"def run(seed, size, kind):\n    return {result}\n")
        status, _, error = study("--only", "size=1", "--seeds", "1")
        assert status == 1 and "InputError" in error and message in error

    def test_a_run_that_cannot_be_sent_to_a_worker_fails_in_words(self, study: Study) -> None:
        study.script(
            "LOCK = (one for one in 'x')\n"
            "def run(seed, size, kind):\n    return {'value': str(LOCK)}\n"
        )
        status, _, error = study("--seeds", "1")
        assert status == 1 and "6 of 6 cells failed" in error and "pickle" in error

    def test_drawing_fails_in_words_for_want_of_cells_and_aloud_with_all_of_them(
        self, study: Study
    ) -> None:
        study.script(
            PLAIN,
            TAIL.replace(
                "    return figure", "    return {row['size']: figure for row in rows}[2]"
            ),
        )
        assert "no figure or answer (KeyError: 2)" in study("--only", "size=1")[2]
        study.script(PLAIN, TAIL.replace("    return figure", "    raise KeyError(2)"))
        study.monkeypatch.setattr(sys, "argv", [str(study.path), "--seeds", "1"])
        with pytest.raises(KeyError):
            runpy.run_path(str(study.path), run_name="__main__")

    @pytest.mark.parametrize(("deaths", "status"), [(1, 0), (99, 1)])
    def test_a_dead_worker_takes_only_its_own_cell_along(
        self, study: Study, deaths: int, status: int
    ) -> None:
        study.script(DEADLY.format(deaths=deaths))
        found, _, error = study("--jobs", "2", "--seeds", "2")
        assert found == status and len(study.csv()) == 1 + 12 - (deaths > 1)
        assert ("size=1 kind=b seed=0: TerminatedWorkerError: A worker process" in error) == (
            deaths > 1
        )
        assert study.ran()["(1, 'b', 0)"] == 2, (
            "the cell that died is tried twice, the second time alone"
        )

    def test_a_killed_study_goes_on_where_it_was(self, study: Study) -> None:
        study.script(PLAIN.replace("    return", "    time.sleep(0.3)\n    return"))
        command = [sys.executable, str(study.path), "--seeds", "2", "--jobs", "2"]
        kept = study.path.parent / ".cache" / "toy"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            command, start_new_session=True, stderr=subprocess.DEVNULL, env=environment
        )
        while len(list(kept.glob("*.json"))) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        finished = [json.loads(path.read_bytes()) for path in kept.glob("*.json")]
        before = study.ran()
        assert 3 <= len(finished) < 12
        assert study("--seeds", "2")[0] == 0
        after = study.ran()
        for cell in finished:
            name = str((cell["settings"]["size"], cell["settings"]["kind"], cell["seed"]))
            assert before[name] == 1 and after[name] == 0
        assert (
            after.total() == 12 - len(finished) and len(study.csv()) == len(set(study.csv())) == 13
        )


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a dask cluster of two worker processes on loopback."""
    distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    workers = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    # dask gives a task up at its second dead worker instead of its fourth: the tests wait for fewer
    # new workers. And no worker is struck off the cluster because a busy machine takes long to
    # start it again.
    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.deploy.lost-worker-timeout": "1 hour",
    }
    with (
        importlib.import_module("dask.config").set(settings),
        distributed.LocalCluster(**workers, host="127.0.0.1", dashboard_address=None) as cluster,
    ):
        yield cluster.scheduler_address


class TestCluster:
    def test_a_killed_worker_loses_and_doubles_no_row(self, study: Study, scheduler: str) -> None:
        study.script(DEADLY.format(deaths=1))
        assert (
            study(
                "--backend", "dask", "--scheduler", scheduler, "--cache", str(study.folder / "dask")
            )[0]
            == 0
        )
        ran, on_cluster = study.ran(), study.csv()
        assert ran["(1, 'b', 0)"] == 2 and len(ran) == 18, (
            "the worker was killed under this cell, which ran again"
        )
        (study.folder / "log").write_text("(1, 'b', 0)\n")
        assert study("--cache", str(study.folder / "loky"))[0] == 0
        assert study.csv() == on_cluster and len(set(on_cluster)) == 19

    def test_a_cell_that_kills_every_worker_is_given_up_and_the_rest_goes_on(
        self, study: Study, scheduler: str
    ) -> None:
        study.script(DEADLY.format(deaths=99))
        status, _, error = study("--backend", "dask", "--scheduler", scheduler, "--seeds", "1")
        assert (
            status == 1 and "size=1 kind=b seed=0: KilledWorker" in error and len(study.csv()) == 6
        )
