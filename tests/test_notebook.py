"""What a cell of a notebook or a line of Python shows: tables and figures, without pyplot.

Knows what is shown; must not know how it was computed.
"""

import pytest
import torch
from matplotlib.figure import Figure

from ppl_vae import VAE, History, VAEConfig, build, fit, plots
from ppl_vae.diagnostics import Calibration, Check, Checks, calibration_figure
from ppl_vae.diagnostics.figures import pareto_k_figure
from ppl_vae.tables import as_html, as_lines

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def trained() -> tuple[VAE, History]:
    with torch.random.fork_rng():
        vae = build(VAEConfig((4,), 2, (5,), prior_options={}), seed=0)
        x = torch.rand(20, 4).round()
        return vae, fit(vae, x, epochs=3, validation=x, progress=False)


class TestFigures:
    @pytest.mark.parametrize(
        "made",
        [
            lambda: plots.image_grid(torch.rand(4, 3, 3)),
            lambda: plots.latent_scatter(torch.randn(9, 2)),
            lambda: plots.point_reconstructions(torch.randn(9, 2), torch.randn(9, 2)),
            lambda: pareto_k_figure(torch.rand(9)),
            lambda: calibration_figure(Calibration(torch.randint(9, (20, 2)), 9, ("a", "b"))),
        ],
    )
    def test_show_as_the_last_line_of_a_cell(self, made) -> None:  # type: ignore[no-untyped-def]
        assert made()._repr_png_().startswith(PNG)

    def test_one_that_is_drawn_into_is_the_user_s_own(self) -> None:
        own = Figure()
        assert plots.image_grid(torch.rand(4, 3, 3), axes=own.subplots()) is own


class TestHistory:
    def test_plots_itself(self, trained: tuple[VAE, History]) -> None:
        figure = trained[1].plot()
        assert figure._repr_png_().startswith(PNG) and len(figure.axes[0].lines) == 2

    def test_is_a_frame_by_epoch(self, trained: tuple[VAE, History]) -> None:
        frame = trained[1].to_frame()
        assert frame.index.tolist() == [1, 2, 3]
        assert frame["lower_bound"].tolist() == [row["lower_bound"] for row in trained[1].rows]
        assert "<table" in trained[1]._repr_html_()
        assert len(History().to_frame()) == 0 and "History" in History()._repr_html_()


class TestTables:
    def test_a_vae_shows_its_parts_and_their_parameters(self, trained: tuple[VAE, History]) -> None:
        """2 heads of 2 latents on 5 features of 4 pixels: 4 x 5 + 5 + 5 x 4 + 4 numbers."""
        shown = repr(trained[0])
        assert shown.startswith("VAE\n") and "standard_normal" in shown and "bernoulli" in shown
        guide = next(line for line in shown.splitlines() if line.startswith("encoder"))
        assert guide.split()[-1] == "49"
        assert "<td>bernoulli</td>" in trained[0]._repr_html_()

    def test_checks_show_as_a_table_and_are_a_list(self) -> None:
        found = Checks([Check("gap", 0.1234, 0.25, "nats", "pass", "a < b")])
        assert found == [found[0]] and len(found) == 1
        header, row = repr(found).splitlines()
        assert header.split()[:3] == ["verdict", "check", "value"] and row.startswith("pass")
        assert "0.123" in row and "a &lt; b" in found._repr_html_()

    def test_cells_are_aligned_and_escaped(self) -> None:
        assert as_lines(("a", "b"), [("long", "1")]) == ["a     b", "long  1"]
        assert "<td>&lt;b&gt;</td>" in as_html(("a",), [("<b>",)])
