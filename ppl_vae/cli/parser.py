"""What can be typed: the subcommands, their options, defaults and one-line meanings.

Knows argparse and the options made from signatures. Must not know how a command does its work.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ppl_vae import __version__, checks
from ppl_vae.cli.commands import DRAWN, demo, diagnose, evaluate, sample, train
from ppl_vae.cli.options import Option, add_option, config_options, fit_options, split_dotted
from ppl_vae.datasets import BINARIZATIONS, SPLITS

__all__ = ["make_parser", "parse"]


class _Parser(argparse.ArgumentParser):
    """Reports a bad option as every other bad value is reported."""

    def error(self, message: str) -> NoReturn:
        flag = next((word for word in message.split() if word.startswith("--")), "").partition("=")[
            0
        ]
        known = [text for action in self._actions for text in action.option_strings]
        near = _nearest(flag, known) if "unrecognized" in message else ""
        raise checks.InputError(f"{message}; {near or f'see {self.prog} --help'}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The same, but a subcommand's own parser reports what it does not know, which knows what
        is near.
        """
        given, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return given, unknown


def _nearest(flag: str, known: Sequence[str]) -> str:
    """A suggestion for an unknown flag: the initials of a known one, as --lr, or one spelled
    alike.
    """
    for name in known:
        initials = "".join(word[:1] for word in name.removeprefix("--").split("-"))
        if flag == f"--{initials}":
            return f"did you mean '{name}'?"
    return checks.nearest(flag, known)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments as attributes, `command` the function that does the work. `InputError` for what
    has no meaning.
    """
    words, dotted = (
        split_dotted(argv, config_options()) if "train" in argv[:1] else (list(argv), {})
    )
    given = make_parser().parse_args(words)
    vars(given).update(dotted)
    return given


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="ppl-vae", description="Variational autoencoders as Pyro programs.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"ppl-vae {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _demo(
        _command(
            commands,
            "demo",
            demo,
            "train on the bundled digits in under a minute and show everything",
        )
    )
    _train(_command(commands, "train", train, "train a VAE, or go on with a run"))
    worth = _run(
        _command(
            commands, "evaluate", evaluate, "bound, log p(x), Pareto k and more of held-out data"
        ),
        None,
    )
    _say(
        worth,
        "--num-samples",
        1000,
        "draws a datum of the importance-sampled log p(x)",
        type=int,
        metavar="N",
    )
    _say(
        worth,
        "--prior-share",
        None,
        "share of them drawn from the prior, for modes the posterior misses; Pareto k is the "
        "mixture's",
        shown="0.1, or 0 where the posterior has latent sites of its own",
        type=float,
        metavar="NUMBER",
    )
    add_option(worth, _progress())
    _run(
        _command(
            commands, "sample", sample, "figures: prior samples, reconstructions, manifold and more"
        ),
        DRAWN,
    )
    verdict = _run(
        _command(
            commands, "diagnose", diagnose, "check the posterior; write posterior.nc and figures"
        ),
        250,
    )
    _say(verdict, "--num-samples", 1000, "draws a datum in posterior.nc", type=int, metavar="N")
    _flag(verdict, "--strict", "exit with status 1 unless every check passes")
    return parser


def _command(
    commands: Any, name: str, function: Callable[..., int], about: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
    )
    parser.set_defaults(command=function)
    return parser


def _say(parser: Any, flag: str, default: Any, about: str, **options: Any) -> None:
    shown = options.pop("shown", default)
    parser.add_argument(flag, default=default, help=f"{about} (default: {shown})", **options)


def _flag(parser: Any, flag: str, about: str) -> None:
    parser.add_argument(flag, action="store_true", help=f"{about} (default: no)")


def _demo(parser: argparse.ArgumentParser) -> None:
    _say(
        parser,
        "--out",
        None,
        "the run's folder",
        shown="runs/demo, numbered if taken",
        type=Path,
        metavar="FOLDER",
    )
    _say(parser, "--epochs", 200, "passes over the data", type=int, metavar="N")
    _say(parser, "--seed", 0, "fixes initial weights, data order and noise", type=int, metavar="N")
    add_option(parser, _progress())


def _progress() -> Option:
    return next(option for option in fit_options() if option.name == "progress")


def _train(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("data and folder")
    pixels = f"{', '.join(BINARIZATIONS)}; held-out pixels are drawn the same whatever --seed is"
    resume = "go on with the run in this folder, with its own settings; --epochs may be raised"
    for option in (
        Option(
            "data",
            str,
            "digits",
            f"{', '.join(SPLITS)}, or a .npy or .npz file of your own",
            "digits",
        ),
        Option("split", str, None, "how the data are split", "the data set's first"),
        Option("binarization", str, "none", pixels, "none"),
        Option(
            "out", Path, None, "the run's folder, which must be new", "runs/DATA, numbered if taken"
        ),
        Option("resume", Path, None, resume, "none"),
    ):
        add_option(run, option)
    _flag(
        run,
        "--trust-code",
        "run a file of your own that a resumed run names, even if unknown or changed",
    )
    for title, options in (
        ("model (VAEConfig)", config_options()),
        ("training (fit)", fit_options()),
    ):
        group = parser.add_argument_group(title)
        for option in options:
            add_option(group, option)


def _run(parser: argparse.ArgumentParser, num_data: int | None) -> argparse.ArgumentParser:
    """What every command that looks at a run takes; the same parser."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    _say(parser, "--part", "test", "which data: train, validation, test", metavar="NAME")
    _say(
        parser,
        "--num-data",
        num_data,
        "use the first N of them",
        shown=num_data or "all",
        type=int,
        metavar="N",
    )
    _say(parser, "--seed", 0, "fixes the draws", type=int, metavar="N")
    _flag(
        parser,
        "--trust-code",
        "run a file of your own that the run names, even if unknown or changed",
    )
    return parser
