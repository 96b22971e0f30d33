"""A user's own .npy and .npz files as data: what is read, how it is cut, what is refused."""

import json
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae import load_data
from ppl_vae.checks import InputError
from ppl_vae.cli import main

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (50, 4, 3), dtype=np.uint8)


def saved(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def parts(path: str, **options: object) -> list[torch.Tensor]:
    data = load_data(path, **options)  # type: ignore[arg-type]
    return [data.train, data.validation, data.test]


def test_an_array_is_cut_at_80_and_90_percent_and_its_pixels_divided_by_255(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy", PIXELS)
    ordered, shuffled = parts(path, split="ordered"), parts(path)
    assert [len(part) for part in shuffled] == [40, 5, 5]
    assert torch.equal(torch.cat(ordered), torch.from_numpy(PIXELS).float() / 255)
    assert not torch.equal(torch.cat(shuffled), torch.cat(ordered))
    # every row once
    assert sorted(map(tuple, torch.cat(shuffled).flatten(1).tolist())) == sorted(
        map(tuple, torch.cat(ordered).flatten(1).tolist())
    )


def test_floats_and_booleans_are_taken_as_they_are(tmp_path: Path) -> None:
    x = GENERATOR.normal(size=(20, 5))
    assert torch.equal(
        torch.cat(parts(saved(tmp_path / "x.npy", x), split="ordered")), torch.from_numpy(x).float()
    )
    assert torch.equal(
        torch.cat(parts(saved(tmp_path / "b.npy", x > 0), split="ordered")),
        torch.from_numpy(x > 0).float(),
    )


def test_an_archive_names_its_parts_and_labels(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz",
        train=PIXELS[:30],
        validation=PIXELS[30:40],
        test=PIXELS[40:],
        test_labels=np.arange(10),
        note="not data",
    )
    data = load_data(str(tmp_path / "x.npz"), binarization="static")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [30, 10, 10]
    assert (
        data.split == "given"
        and data.event_shape == (4, 3)
        and set(data.train.unique().tolist()) == {0.0, 1.0}
    )
    assert (
        data.train_labels is None
        and data.test_labels is not None
        and data.test_labels.tolist() == list(range(10))
    )


@pytest.mark.parametrize(
    "array, words",
    [
        (PIXELS[:9], "9 rows, expected 10 or more"),
        (PIXELS[:, 0, 0], "shape (50,), expected rows of values"),
        (PIXELS.astype(int), "save array.astype('uint8') for pixels"),
        (
            np.where(np.arange(600).reshape(50, 4, 3) == 40, np.inf, 0.5),
            "1 infinite or huge values, the first in row 3",
        ),
        (np.full((20, 2), 1e300), "40 infinite or huge values, the first in row 0"),
        (PIXELS % 2, "save array.astype(bool)"),
        (np.array([["a"]] * 20), "dtype <U1"),
        (np.array([[{}]] * 20), "ValueError: Object arrays cannot be loaded"),
        (PIXELS.astype(float), "values from 0 to 255"),
    ],
)
def test_what_cannot_be_data_is_refused_in_one_line(
    array: np.ndarray, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        load_data(saved(tmp_path / "x.npy", array), binarization="dynamic")
    assert words in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"train": PIXELS}, "expected validation, test too"),
        (
            {"train": PIXELS, "validation": PIXELS.astype(float), "test": PIXELS},
            "dtype float64, expected that of train",
        ),
        ({"train": PIXELS, "validation": PIXELS, "test": PIXELS[:, :2]}, "test in"),
        (
            {
                "train": PIXELS,
                "validation": PIXELS,
                "test": PIXELS,
                "test_labels": np.zeros(3, int),
            },
            "50 whole numbers",
        ),
    ],
)
def test_an_archive_that_does_not_fit_together_is_refused(
    arrays: dict, words: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=words):
        load_data(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive", b"\x93NUMPY no array"])
def test_a_missing_or_damaged_file_is_refused(
    content: bytes | None, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="data file"):
        load_data(str(path))


def test_files_of_the_wrong_kind_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    """Any one byte of a compressed archive turned over gives the data, or one line, and nothing
    else.
    """
    np.savez_compressed(tmp_path / "x.npz", train=PIXELS, validation=PIXELS, test=PIXELS)
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole)
    with pytest.raises(InputError, match="another kind of file"):
        load_data(str(tmp_path / "x.npy"))
    for position in range(0, len(whole), 37):
        (tmp_path / "x.npz").write_bytes(
            whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
        )
        try:
            load_data(str(tmp_path / "x.npz"))
        except InputError as error:
            assert str(tmp_path) in str(error)


def test_an_archive_that_expands_a_thousandfold_is_refused_before_it_does(tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte; in an array that nothing asks for, it is not looked at."""
    good = {part: PIXELS for part in ("train", "validation", "test")}
    for name, refused in (("train", True), ("train_labels", True), ("other", False)):
        path = tmp_path / f"{name}.npz"
        np.savez_compressed(path, **{k: v for k, v in good.items() if k != name})
        with (
            zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open(f"{name}.npy", "w", force_zip64=True) as file,
        ):
            header = {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**10)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(2**6):
                file.write(bytes(2**24))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if refused:
            with pytest.raises(InputError, match="bytes that expand to"):
                load_data(str(path))
        else:
            assert len(load_data(str(path)).train) == len(PIXELS)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_half_precision_has_no_value_that_is_too_large(tmp_path: Path) -> None:
    x = np.linspace(0, 6e4, 200, dtype=np.float16).reshape(50, 4)
    data = load_data(saved(tmp_path / "x.npy", x), split="ordered")
    assert torch.equal(
        torch.cat([data.train, data.validation, data.test]), torch.from_numpy(x).float()
    )
    x[3] = np.inf
    with pytest.raises(InputError, match="infinite or huge"):
        load_data(saved(tmp_path / "x.npy", x))


@pytest.mark.parametrize("checksum", [False, None, 0, b""])
def test_a_checksum_is_a_text(checksum: object, tmp_path: Path) -> None:
    for name in ("digits", saved(tmp_path / "x.npy", PIXELS)):
        with pytest.raises(InputError, match="checksum"):
            load_data(name, checksum=checksum)  # type: ignore[arg-type]


def test_a_named_data_set_takes_no_checksum() -> None:
    with pytest.raises(InputError, match="checksum of digits"):
        load_data("digits", checksum="sha256:0")


def test_the_command_line_trains_on_a_file_and_evaluates_it_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "mine.npy", PIXELS)
    monkeypatch.chdir(tmp_path)
    small = ["--latent-size", "2", "--hidden-sizes", "4", "--epochs", "1", "--no-progress"]
    assert main(["train", "--data", "mine.npy", "--binarization", "dynamic", *small]) == 0
    run = tmp_path / "runs" / "mine"
    assert json.loads((run / "config.json").read_text())["data"]["name"] == str(
        tmp_path / "mine.npy"
    )
    assert main(["train", "--resume", str(run), "--epochs", "2", "--no-progress"]) == 0
    monkeypatch.chdir("/")
    assert main(["evaluate", str(run), "--num-samples", "10", "--no-progress"]) == 0
    assert "5 test data" in capsys.readouterr().out
    saved(tmp_path / "mine.npy", PIXELS[::-1].copy())
    assert main(["evaluate", str(run), "--num-samples", "10", "--no-progress"]) == 2
    assert "the file has changed since" in capsys.readouterr().err
