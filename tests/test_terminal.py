"""The terminal may go before the work is done: signals, streams without a reader, and the time
before the libraries are loaded.

Knows processes and the command line; must not know training.
"""

import argparse
import io
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ppl_vae
from ppl_vae import cli
from ppl_vae.cli import main
from ppl_vae.terminal import SIGNALS, Stream, deferred_interrupts, interrupts

ROOT = Path(__file__).parents[1]
TRAIN = (
    *("train", "--data", "digits", "--latent-size", "2", "--hidden-sizes", "4"),
    *("--epochs", "2", "--compile", "off"),
)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path / "trust.json"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def started(*arguments: str, **options: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "ppl_vae", *arguments], **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_libraries_are_loaded_ends_it_with_one_line(number: int) -> None:
    process = started(*TRAIN, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "ppl-vae: interrupted\n"
    assert process.returncode == 130


def test_the_package_is_there_before_its_libraries_and_has_all_its_names() -> None:
    code = "import sys, ppl_vae; assert 'torch' not in sys.modules; from ppl_vae import *; fit"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(ppl_vae, name) is not None for name in ppl_vae.__all__)
    assert ppl_vae.training.fit is ppl_vae.fit and "fit" in dir(ppl_vae)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        ppl_vae.fitt  # noqa: B018


@pytest.mark.parametrize("number", SIGNALS)
def test_inside_a_command_each_signal_is_a_keyboard_interrupt(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interrupts():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_deferred_a_signal_is_noted_and_a_second_ctrl_c_is_immediate(number: int) -> None:
    """A lost connection sends two signals at once: they are one request."""
    with deferred_interrupts() as noted:
        signal.raise_signal(number)
        assert noted
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signals_that_are_ignored_or_handled_already_are_left_alone() -> None:
    def own(number: int, frame: object) -> None:
        pass

    before = [signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, own)]
    try:
        with interrupts(), deferred_interrupts() as noted:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            assert not noted and signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("no space left")


class Unread(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError("nobody reads")


def test_a_reader_that_is_gone_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    assert Stream(Unread()).write("a") == 1 and not caplog.records


def test_a_lost_stream_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ppl_vae"):
        stream = Stream(Broken())
        assert (stream.write("a"), stream.write("bc")) == (1, 2)
        stream.flush()
        Stream(None).write("a")
        assert not stream.isatty() and not Stream(None).isatty()
    assert len(caplog.records) == 1 and "no space left" in caplog.text
    whole = io.StringIO()
    Stream(whole).write("a")
    assert whole.getvalue() == "a"


@pytest.mark.parametrize("lost", ["closed", "no reader"])
@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_run_goes_on_without_a_standard_stream(lost: str, descriptor: int) -> None:
    """Closed, its number must not become that of a file of data."""
    reading, writing = os.pipe()
    os.close(reading)
    name = {1: "stdout", 2: "stderr"}[descriptor]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if lost == "no reader":
        process = started(*TRAIN, "--out", "run", **{**streams, name: writing})
    else:
        command = " ".join([sys.executable, "-m", "ppl_vae", *TRAIN, "--out", "run"])
        process = subprocess.Popen(["sh", "-c", f"{command} {descriptor}>&-"], **streams)
    os.close(writing)
    assert process.wait(timeout=120) == 0
    assert len(Path("run/history.csv").read_text().splitlines()) == 3
    assert ppl_vae.load("run").sample(2).shape == (2, 8, 8)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), MemoryError()],
    ids=["GPU", "host"],
)
def test_out_of_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(given: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(cli, "parse", lambda argv: argparse.Namespace(command=fails))
    assert main([]) == 1
    said = capsys.readouterr().err.lower()
    assert said.count("\n") == 1 and "out of memory; try a smaller --batch-size" in said


@pytest.mark.parametrize(
    ("flag", "meant"),
    [("--lr", "--learning-rate"), ("--bs", "--batch-size"), ("--epoch", "--epochs")],
)
def test_an_abbreviation_is_understood(
    flag: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", flag, "3"]) == 2
    assert f"did you mean '{meant}'?" in capsys.readouterr().err
