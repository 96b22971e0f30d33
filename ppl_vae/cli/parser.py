"""What can be typed: the subcommands, their options, defaults, one-line meanings and examples.

Knows argparse. Must not know how a command does its work, and imports nothing that takes long: the
options of `train`, which are made from signatures, are read when they are asked for.
"""

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ppl_vae import __version__
from ppl_vae.wording import InputError, nearest

__all__ = ["DRAWN", "METHODS", "make_parser", "parse"]

DRAWN = 2000  # data in a figure, where not said otherwise
METHODS = ("importance", "annealed", "reciprocal", "quadrature")

EXAMPLES = {
    "": """
  ppl-vae demo                                        a tour in under a minute, without a network
  ppl-vae train --data digits --out runs/digits       train
  ppl-vae evaluate runs/digits                        bound, log p(x), Pareto k
  ppl-vae diagnose runs/digits                        is the posterior good?
  ppl-vae explain pareto-k                            what a word of the report means
""",
    "demo": """
  ppl-vae demo
  ppl-vae demo --epochs 20 --out runs/quick
""",
    "train": """
  ppl-vae train --data digits --binarization dynamic --latent-size 2
  ppl-vae train --data mnist --binarization dynamic --prior vamp --prior.components 100
  ppl-vae train --data counts.npy --likelihood negative_binomial --out runs/counts
  ppl-vae train --prior my_prior.py:ring --prior.radius 4 --out runs/ring
  ppl-vae train --resume runs/ring --epochs 200
""",
    "evaluate": """
  ppl-vae evaluate runs/digits
  ppl-vae evaluate runs/digits --num-data 20 --method annealed
  ppl-vae evaluate runs/digits --part validation --num-samples 5000
""",
    "sample": """
  ppl-vae sample runs/digits
  ppl-vae sample runs/digits --num-data 500 --seed 3
""",
    "diagnose": """
  ppl-vae diagnose runs/digits
  ppl-vae diagnose runs/digits --strict && echo good
""",
    "explain": """
  ppl-vae explain
  ppl-vae explain estimator-b
  ppl-vae explain vamp
""",
}


class _Parser(argparse.ArgumentParser):
    """Reports a bad option as every other bad value is reported."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self._suggestion(message) or f'see {self.prog} --help'}")

    def _suggestion(self, message: str) -> str:
        word = re.search(r"invalid choice: '([^']*)'", message)
        if word:
            named = [n for a in self._actions if isinstance(a.choices, dict) for n in a.choices]
            return _nearest_word(word[1], named)
        if "unrecognized" not in message:
            return ""
        flag = next((word for word in message.split() if word.startswith("--")), "")
        known = [text for action in self._actions for text in action.option_strings]
        return _nearest_flag(flag.partition("=")[0], known)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The same, but a subcommand's own parser reports what it does not know, which knows what
        is near.
        """
        given, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return given, unknown


def _nearest_word(word: str, known: Sequence[str]) -> str:
    """A suggestion for an unknown command: one that begins so, or one spelled alike."""
    begun = [name for name in known if word and name.startswith(word)]
    return f"did you mean '{begun[0]}'?" if len(begun) == 1 else nearest(word, known)


def _nearest_flag(flag: str, known: Sequence[str]) -> str:
    """A suggestion for an unknown flag: the initials of a known one, as --lr, or one spelled
    alike; of a dotted one, such as --prio.radius, one with another first part.
    """
    if "." in flag:
        first, _, rest = flag.partition(".")
        dotted = [name.partition(".")[0] for name in known if "." in name]
        near = nearest(first, dotted)
        return near and f"{near[:-2]}.{rest}'?"
    for name in known:
        initials = "".join(word[:1] for word in name.removeprefix("--").split("-"))
        if flag == f"--{initials}":
            return f"did you mean '{name}'?"
    return nearest(flag, known)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments as attributes, `command` the function that does the work. `InputError` for what
    has no meaning.
    """
    first = argv[0] if argv else ""
    words, dotted = list(argv), dict[str, dict[str, Any]]()
    if first == "train":
        from ppl_vae.cli.options import config_options, fit_options, split_dotted

        words, dotted = split_dotted(argv, [*config_options(), *fit_options()])
    given = make_parser(first).parse_args(words)
    vars(given).update(dotted)
    room = "explain" if first == "explain" else "commands"
    given.command = vars(importlib.import_module(f"ppl_vae.cli.{room}"))[first]
    return given


def make_parser(command: str = "train") -> argparse.ArgumentParser:
    """The whole command line; the options of `train` only where that is the command."""
    parser = _Parser(
        prog="ppl-vae",
        description="Variational autoencoders as Pyro programs.",
        epilog=f"examples:{EXAMPLES['']}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ppl-vae {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _demo(_command(commands, "demo", "train on the bundled digits and show everything"))
    train = _command(commands, "train", "train a VAE, or go on with a run")
    if command == "train":
        _train(train)
    _evaluate(_command(commands, "evaluate", "bound, log p(x), Pareto k and more of held-out data"))
    drawn = "figures: prior samples, reconstructions, manifold and more"
    _run(_command(commands, "sample", drawn), DRAWN)
    _diagnose(_command(commands, "diagnose", "check the posterior; write posterior.nc and figures"))
    _explain(_command(commands, "explain", "say what a word of the reports and options means"))
    return parser


def _command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=f"examples:{EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


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
    _machine(parser)


def _machine(parser: Any) -> Any:
    """Where the work is done and how it is shown; the group of these options."""
    group = parser.add_argument_group("machine and terminal")
    about = "where to compute, such as cpu or cuda"
    _say(group, "--device", None, about, shown="cpu", metavar="NAME")
    action = argparse.BooleanOptionalAction
    shown = "show a progress bar (default: yes)"
    group.add_argument("--progress", action=action, default=argparse.SUPPRESS, help=shown)
    return group


def _train(parser: argparse.ArgumentParser) -> None:
    from ppl_vae.cli.options import add_option, config_options, fit_options, source_options

    run = parser.add_argument_group("data and folder")
    for option in source_options():
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
    group = parser.add_argument_group("run and data")
    _say(group, "--part", "test", "which data: train, validation, test", metavar="NAME")
    _say(
        group,
        "--num-data",
        num_data,
        "use the first N of them",
        shown=num_data or "all",
        type=int,
        metavar="N",
    )
    _say(group, "--seed", 0, "fixes the draws", type=int, metavar="N")
    _flag(
        group,
        "--trust-code",
        "run a file of your own that the run names, even if unknown or changed",
    )
    _machine(parser)
    return parser


def _evaluate(parser: argparse.ArgumentParser) -> None:
    group = _run(parser, None).add_argument_group("log p(x)")
    _say(
        group,
        "--method",
        METHODS[0],
        f"{', '.join(METHODS)}; ppl-vae explain METHOD says what each is",
        metavar="NAME",
    )
    _say(
        group,
        "--num-samples",
        None,
        "draws a datum, or chains",
        shown="1000; of annealed 16",
        type=int,
        metavar="N",
    )
    _say(
        group,
        "--prior-share",
        None,
        "share of the importance samples drawn from the prior, for modes the posterior misses; "
        "Pareto k is the mixture's",
        shown="0.1, or 0 where the posterior has latent sites of its own",
        type=float,
        metavar="NUMBER",
    )


def _diagnose(parser: argparse.ArgumentParser) -> None:
    group = _run(parser, 250).add_argument_group("checks")
    _say(group, "--num-samples", 1000, "draws a datum in posterior.nc", type=int, metavar="N")
    _flag(group, "--strict", "exit with status 1 unless every check passes")


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "term", nargs="?", metavar="TERM", help="a word, such as pareto-k; none lists them all"
    )
