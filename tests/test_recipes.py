"""Each recipe runs at small scale, answers one question with one number and one figure, and is on
the wall.

Knows where the recipes are; must not know what they find.
"""

import re
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch

RECIPES = Path(__file__).parents[1] / "studies" / "recipes"
# other modules there are to be copied, and have no cells
FILES = sorted(path for path in RECIPES.glob("*.py") if "\n# %%" in path.read_text("utf-8"))
WALL = (RECIPES / "README.md").read_text(encoding="utf-8")


def test_all_recipes_are_found() -> None:
    assert len(FILES) == WALL.count("<img ")


def question(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestRecipe:
    def test_prints_a_number_and_writes_a_figure(
        self,
        path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(RECIPES))
        monkeypatch.setattr(sys, "argv", [str(path), "--quick"])
        monkeypatch.delitem(sys.modules, "recipe", raising=False)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # models of one epoch have much to be warned of
            runpy.run_path(str(path), run_name="__main__")
        last = capsys.readouterr().out.splitlines()[-1]
        assert re.fullmatch(r".+: -?(\d[\d.]*(e[+-]\d+)?|nan)", last)
        assert [file.name for file in tmp_path.glob("*.png")] == [f"{path.stem}.png"]

    def test_is_short_and_in_cells(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60 and text.count("\n# %%") >= 3
        assert question(path).endswith("?")

    def test_is_on_the_wall_with_its_figure(self, path: Path) -> None:
        assert question(path) in WALL and f"({path.name})" in WALL
        assert f'src="figures/{path.stem}.png"' in WALL
        assert 0 < (RECIPES / "figures" / f"{path.stem}.png").stat().st_size <= 60_000
