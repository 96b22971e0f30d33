"""The study engine: cells named by what they depend on, run anywhere, never lost or doubled; means
with their errors.

Knows studies made of plain arithmetic; must not train anything.
"""

import importlib
import json
import math
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ppl_vae.checks import InputError
from ppl_vae.study import (
    cache,
    cells,
    mean_and_standard_error,
    mean_at,
    paired_difference,
    plus_minus,
    table,
)
from ppl_vae.study.cells import source_behind

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
        """Mean of 20 normals within 2.093 errors (Student's t, 19 degrees of freedom) in 95 % of
        2000 cases.

        Fails for 1 seed in 10000 if the coverage is right (4 standard deviations of a binomial,
        0.0195).
        """
        draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 20))
        inside = [
            abs(mean - 3) < 2.093 * error for mean, error in map(mean_and_standard_error, draws)
        ]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.0195)

    @pytest.mark.parametrize(
        ("mean", "error", "text"),
        [
            (-98.4321, 0.314, "-98.43 ± 0.31"),
            (1234.5, 27.0, "1234 ± 27"),
            (0.5, math.nan, "0.5"),
            (3.0, 0.0, "3"),
            (1.5e-9, 2e-10, "1.5000e-09 ± 2.0e-10"),
        ],
    )
    def test_plus_minus(self, mean: float, error: float, text: str) -> None:
        assert plus_minus(mean, error) == text


class TestMeanAt:
    rows = tuple(
        {"seed": s, "a": a, "b": b, "v": 10 * s + a + 4 * b}
        for s in (0, 1)
        for a in (0, 1)
        for b in (0, 1)
    )

    def test_values_of_one_seed_are_averaged_before_the_error_is_taken(self) -> None:
        # at a = 1 the seeds' means are 3 and 13: their standard error is 5, not that of four values
        assert mean_at(self.rows, "v", a=1) == (8.0, pytest.approx(5.0))
        assert mean_at(self.rows, "v", a=1, b=0) == (6.0, pytest.approx(5.0))

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
        assert paired_difference(rows, "kind", "b", "a", "value") == (
            2.0,
            pytest.approx(math.sqrt(1 / 3)),
        )
        assert paired_difference(rows, "kind", "a", "b", "value")[0] == -2.0

    def test_two_pairs_of_one_seed_are_not_two_seeds(self) -> None:
        expected = (2.0, pytest.approx(math.sqrt(1 / 3)))
        assert paired_difference(self.ROWS, "kind", "b", "a", "value", ["size"]) == expected
        assert paired_difference(self.ROWS, "kind", "b", "a", "value", ["size", "seed"]) == expected

    def test_an_ambiguous_pair_and_no_pair_are_refused(self) -> None:
        with pytest.raises(InputError, match="two values of 'value' at seed=0"):
            paired_difference(self.ROWS, "kind", "b", "a", "value")
        with pytest.raises(InputError, match="no pair with kind='b' and kind='c'"):
            paired_difference(self.ROWS, "kind", "b", "c", "value", ["size"])

    def test_a_row_without_its_partner_counts_for_nothing(self) -> None:
        rows = [row for row in self.ROWS if row["size"] == 1][:-1]
        assert paired_difference(rows, "kind", "b", "a", "value") == (1.5, pytest.approx(0.5))


class TestTable:
    def test_a_line_holds_mean_error_and_number_of_seeds(self) -> None:
        rows = [
            {"size": size, "seed": seed, "value": size + seed} for size in (2, 1) for seed in (0, 1)
        ]
        rows.append({"size": 3, "seed": 0, "value": None})
        assert table(rows, ["size"], "value").splitlines() == [
            "| size | value | seeds |",
            "| --- | --- | --- |",
            "| 2 | 2.50 ± 0.50 | 2 |",
            "| 1 | 1.50 ± 0.50 | 2 |",
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
            ({"c": [1]}, "those that run takes"),
            ({"b": [1]}, "those that run takes"),
        ],
    )
    def test_a_grid_that_run_cannot_take_is_refused(self, grid: object, message: str) -> None:
        with pytest.raises(InputError, match=message):
            self.settings(grid)

    def test_a_key_depends_on_everything_that_rows_depend_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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
        monkeypatch.setattr(cells, "__version__", "99")
        keys.append(key())
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
        ):
            assert source_behind("run", text.replace(*change)) != behind


class TestCache:
    CELL = cells.Cell({"a": 1}, 0, "laptop", "0" * 64)

    def test_rows_come_back_as_they_went(self, tmp_path: Path) -> None:
        kept, rows = cache.Cache(tmp_path), [{"a": 1, "seed": 0, "v": 0.1, "w": [math.inf, None]}]
        kept.save(self.CELL, rows, 1.5)
        assert kept.load(self.CELL) == {"rows": rows, "cpu_seconds": 1.5}

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"{}", b'{"rows": 3, "cpu_seconds": 1}', b"\x80\x04."]
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
        columns, *rows = [line.split(",") for line in study.csv()]
        assert columns == ["size", "kind", "seed", "value", "noise", "threads", "outside"]
        assert [row[:4] for row in rows] == [
            [str(size), kind, str(seed), str(10 * size + seed)]
            for size in (3, 1, 2)
            for kind in "ab"
            for seed in (0, 1)
        ]
        assert {tuple(row[5:]) for row in rows} == {("1", "True")}, (
            "each cell on one thread of another process"
        )
        assert (study.results / "figure.png").read_bytes()[:4] == b"\x89PNG"
        answer = (study.results / "answer.md").read_text()
        for part in (
            "# toy: Does it run?\n\nPrediction: yes.",
            "Yes, 12 times.",
            "| 3 | a | 30.50 ± 0.50 |",
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
        assert study.csv()[1] == "3,a,0,1,paper"

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
