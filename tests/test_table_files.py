"""Tables and folders of a user's own, and files that stay on the disk: what is read and refused.

Knows `load_data`, `map_data` and the command line; files of arrays are tested in
test_array_files.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae import InputError, array_files, fit, load_data, lower_bound
from ppl_vae.array_files import Shards
from ppl_vae.cli import main
from ppl_vae.datasets import map_data
from tests.examples import pixels, tiny
from tests.test_resume import same, same_rows

FRAME = pd.DataFrame(
    {
        "age": np.arange(50) * 1.5,
        "visits": np.arange(50) % 7,
        "smokes": np.arange(50) % 2 == 0,
    }
)
VALUES = torch.tensor(FRAME.astype(float).to_numpy()).float()
COUNTS = np.random.default_rng(0).integers(0, 200, (60, 3))
QUIET = {"batch_size": 7, "progress": False, "compile": "off"}


@pytest.fixture(autouse=True)
def trust_file(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PPL_VAE_TRUST", str(tmp_path_factory.mktemp("trust") / "trust.json"))


def joined(data):
    return torch.cat([data.train[:], data.validation, data.test])


# --------------------------------------------------------------------------------------------------
# - Tables


@pytest.mark.parametrize("header", [True, False])
def test_a_csv_is_read_with_and_without_a_line_of_names(tmp_path, header):
    path = tmp_path / "x.csv"
    FRAME.astype(float).to_csv(path, index=False, header=header)
    data = load_data(str(path), split="ordered")
    assert torch.equal(joined(data), VALUES)
    assert data.event_shape == (3,) and [len(data.train), len(data.test)] == [40, 5]
    assert data.checksum.startswith("sha256:")
    shuffled = joined(load_data(str(path)))
    assert sorted(shuffled.tolist()) == sorted(VALUES.tolist())
    assert not torch.equal(shuffled, VALUES)


def test_booleans_in_a_csv_are_zeros_and_ones(tmp_path):
    FRAME.to_csv(tmp_path / "x.csv", index=False)
    assert torch.equal(joined(load_data(str(tmp_path / "x.csv"), split="ordered")), VALUES)


def test_equal_numbers_in_the_first_line_are_no_names(tmp_path):
    (tmp_path / "x.csv").write_text("0.5,0.5\n" * 20)
    assert joined(load_data(str(tmp_path / "x.csv"))).tolist() == [[0.5, 0.5]] * 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n" + "1,x\n" * 20, "column 'b' of data file"),
        ("a,b\n" + "1,x\n" * 20, '.astype("category").cat.codes'),
        (",a\n" + "".join(f"{i},1\n" for i in range(20)), "frame.to_csv(path, index=False)"),
        ("a,b\n" + "1,2\n" * 9, "9 rows, expected 10 or more"),
        ("", "EmptyDataError"),
        ("\xff\xfe\x00", "Error"),
    ],
)
def test_a_csv_that_is_no_data_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(InputError) as error:
        load_data(str(path))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_parquet_file_is_read_as_the_frame_was_written(tmp_path):
    pytest.importorskip("pyarrow")
    FRAME.to_parquet(tmp_path / "x.parquet")
    assert torch.equal(joined(load_data(str(tmp_path / "x.parquet"), split="ordered")), VALUES)


@pytest.mark.parametrize(
    ("suffix", "package"), [(".parquet", "pyarrow"), (".parquet", "pandas"), (".csv", "pandas")]
)
def test_a_package_that_is_absent_is_named_with_what_to_do(tmp_path, suffix, package, monkeypatch):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"PAR1")
    for name in (package, "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"no package {package}.*pip install {package}"):
        load_data(str(path))


# --------------------------------------------------------------------------------------------------
# - Folders, and files that stay on the disk


def sharded(folder: Path, x: np.ndarray, sizes=(7, 20, 1)) -> str:
    """x in files of these sizes and what is left."""
    folder.mkdir()
    for number, part in enumerate(np.split(x, np.cumsum(sizes))):
        np.save(folder / f"{number:03}.npy", part)
    return str(folder)


@pytest.fixture
def small_is_large(monkeypatch):
    """Files stay on the disk whatever their size, and only two are open at once."""
    monkeypatch.setattr(array_files, "LARGE", 1)
    monkeypatch.setattr(array_files, "FILES_OPEN", 2)


def test_rows_of_shards_are_those_of_the_files_one_after_another(tmp_path, small_is_large):
    x = np.random.default_rng(0).normal(size=(60, 4, 3)).astype(np.float32)
    shards = map_data(sharded(tmp_path / "x", x))
    assert isinstance(shards, Shards) and len(shards) == 60
    index = np.random.default_rng(1).integers(0, 60, 200)
    assert torch.equal(shards.read(index), torch.from_numpy(x[index]))
    assert torch.equal(shards[-1], torch.from_numpy(x[-1]))
    assert torch.equal(shards[5:50:9], torch.from_numpy(x[5:50:9]))
    assert torch.equal(torch.stack(list(shards)), torch.from_numpy(x))
    with pytest.raises(IndexError):
        shards[60]


def test_a_shard_that_was_cut_short_since_is_refused_in_words(tmp_path):
    shards = map_data(sharded(tmp_path / "x", COUNTS.astype(np.float32)))
    last = tmp_path / "x" / "003.npy"
    last.write_bytes(last.read_bytes()[:-4])
    assert len(shards[:58]) == 58
    with pytest.raises(InputError, match=r"003\.npy: got fewer rows than its first line says"):
        shards[59]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_shards_is_the_run_on_the_array(tmp_path, workers, small_is_large):
    x, expected, vae = (pixels(60) * 255).byte(), tiny(), tiny()
    shards = map_data(sharded(tmp_path / "x", x.numpy()))
    right = fit(expected, x, epochs=2, **QUIET)
    found = fit(vae, shards, epochs=2, num_workers=workers, **QUIET)
    assert same_rows(found, right) and same(vae, expected)
    assert torch.equal(lower_bound(vae, shards, seed=0), lower_bound(vae, x, seed=0))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no .npy files, expected a folder of .npy files"),
        ({"a": np.ones((3, 2)), "b": np.ones((3, 3))}, "expected those of a.npy, (2,)"),
        ({"a": np.ones((3, 2)), "b": np.ones((3, 2), np.float32)}, "expected those of a.npy"),
        ({"a": np.ones(3)}, "rows of values"),
        ({"a": np.asfortranarray(np.ones((3, 2)))}, "save np.ascontiguousarray(array)"),
        ({"a": np.ones((3, 2), np.uint16)}, "save array.astype('float32')"),
        ({"a": b"text"}, "expected an array written by numpy.save"),
    ],
)
def test_a_folder_whose_files_do_not_fit_together_is_refused(tmp_path, files, words):
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / f"{name}.npy").write_bytes(content)
        else:
            np.save(tmp_path / f"{name}.npy", content)
    with pytest.raises(InputError) as error:
        load_data(str(tmp_path))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("split", ["shuffled", "ordered"])
def test_of_large_data_a_part_is_held_out_and_every_row_is_somewhere(
    kind, split, tmp_path, small_is_large, monkeypatch
):
    monkeypatch.setattr(array_files, "HELD_OUT", 4)
    x = np.arange(120, dtype=np.float32).reshape(60, 2)
    name = str(tmp_path / "x.npy") if kind == "file" else sharded(tmp_path / "x", x)
    if kind == "file":
        np.save(name, x)
    data = load_data(name, split=split)
    assert [len(data.train), len(data.validation), len(data.test)] == [52, 4, 4]
    rows = joined(data)
    assert torch.equal(rows, torch.from_numpy(x)) == (split == "ordered")
    assert sorted(rows.tolist()) == x.tolist() and data.event_shape == (2,)
    assert torch.equal(joined(load_data(name, split=split)), rows)


def test_bytes_of_large_data_are_grey_levels_or_counts(tmp_path, small_is_large):
    name = sharded(tmp_path / "x", COUNTS.astype(np.uint8))
    grey, counts = load_data(name), load_data(name, grey=False)
    assert grey.train[:].dtype == torch.uint8
    assert torch.allclose(grey.test * 255, counts.test) and counts.test.max() > 1
    drawn = load_data(name, binarization="dynamic")
    assert set(drawn.test.unique().tolist()) == {0.0, 1.0}
    assert drawn.train[:].dtype == torch.uint8
    with pytest.raises(InputError, match="'none' or 'dynamic'"):
        load_data(name, binarization="static")
    with pytest.raises(InputError, match="grey under binarization 'dynamic'"):
        load_data(name, binarization="dynamic", grey=False)


def test_large_is_what_the_numbers_take_in_single_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "LARGE", 4 * 180)
    for rows, large in ((60, True), (59, False)):
        np.save(tmp_path / "x.npy", COUNTS[:rows].astype(np.uint8))
        data = load_data(str(tmp_path / "x.npy"))
        assert isinstance(data.train, torch.Tensor) == (not large)


def test_another_file_of_a_folder_is_seen_by_its_checksum(tmp_path):
    name = sharded(tmp_path / "x", COUNTS.astype(np.float32))
    before = load_data(name).checksum
    assert load_data(name, checksum=before).checksum == before
    np.save(tmp_path / "x" / "001.npy", np.zeros((20, 3), np.float32))
    with pytest.raises(InputError, match="the file has changed since"):
        load_data(name, checksum=before)


@pytest.mark.parametrize("position", [0, -1])
def test_the_checksum_of_large_files_sees_their_ends_and_their_sizes(
    position, tmp_path, small_is_large
):
    x = COUNTS.astype(np.float32)
    name = sharded(tmp_path / "x", x)
    before = load_data(name).checksum
    assert before.startswith("ends-sha256:")
    last = np.load(tmp_path / "x" / "003.npy")
    last[position] += 1
    np.save(tmp_path / "x" / "003.npy", last)
    with pytest.raises(InputError, match="the file has changed since"):
        load_data(name, checksum=before)


# --------------------------------------------------------------------------------------------------
# - What bytes are


@pytest.mark.parametrize("kind", ["u1", "i8"])
def test_whole_numbers_of_a_file_are_counts_where_asked(kind, tmp_path):
    np.save(tmp_path / "x.npy", COUNTS.astype(kind))
    data = load_data(str(tmp_path / "x.npy"), split="ordered", grey=False)
    assert torch.equal(joined(data), torch.from_numpy(COUNTS).float()) and not data.grey
    with pytest.raises(InputError, match="grey of digits"):
        load_data("digits", grey=False)


SMALL = ["--latent-size", "2", "--hidden-sizes", "4", "--epochs", "1", "--no-progress"]


@pytest.mark.parametrize("form", ["u1.npy", "i8.npy", "u1.npz", "u1", "f4", "csv"])
def test_the_command_line_takes_whole_numbers_for_counts_under_a_likelihood_of_these(
    form, tmp_path, monkeypatch, capsys
):
    """Poisson's bound of counts near 100 is below that of grey levels in [0, 1] by far."""
    kind, _, suffix = form.partition(".")
    path = tmp_path / f"x.{suffix or kind}"
    if form == "csv":
        pd.DataFrame(COUNTS).to_csv(path, index=False)
    elif suffix == "npy":
        np.save(path, COUNTS.astype(kind))
    elif suffix == "npz":
        x = COUNTS.astype(kind)
        np.savez(path, train=x[:40], validation=x[40:50], test=x[50:])
    else:
        path = Path(sharded(tmp_path / "x", COUNTS.astype(kind)))
    monkeypatch.chdir(tmp_path)
    common = ["train", "--data", str(path), "--validation"]
    assert main([*common, "--likelihood", "poisson", "--out", "counts", *SMALL]) == 0
    config = json.loads((tmp_path / "counts" / "config.json").read_text())
    assert config["data"].get("grey", True) == (form == "csv")
    assert main(["evaluate", "counts", "--num-samples", "10", "--no-progress"]) == 0
    evaluation = json.loads((tmp_path / "counts" / "evaluation.json").read_text())
    assert evaluation["reconstruction_error"]["mean"] > 1000
    resumed = ["train", "--resume", "counts", "--epochs", "2", "--no-progress"]
    assert main(resumed) == 0
    if kind == "u1":
        assert main([*common, "--likelihood", "normal_unit", "--out", "grey", *SMALL]) == 0
        assert main(["evaluate", "grey", "--num-samples", "10", "--no-progress"]) == 0
        evaluation = json.loads((tmp_path / "grey" / "evaluation.json").read_text())
        assert evaluation["reconstruction_error"]["mean"] < 10
    if form == "i8.npy":
        capsys.readouterr()
        assert main([*common, "--out", "grey", *SMALL]) == 2
        assert "take a likelihood of counts" in capsys.readouterr().err


def test_the_command_line_evaluates_the_training_part_of_a_folder(tmp_path, monkeypatch, capsys):
    name = sharded(tmp_path / "x", pixels(60).numpy())
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", name, "--num-workers", "1", *SMALL]) == 0
    for rows in ([], ["--num-data", "12"]):
        arguments = ["--part", "train", "--num-samples", "10", "--no-progress", *rows]
        assert main(["evaluate", "runs/x", *arguments]) == 0
    said = capsys.readouterr().out
    assert "48 train data" in said and "12 train data" in said


def test_an_unknown_name_lists_files_too():
    with pytest.raises(InputError, match=r"a file .npy, .npz, .csv, .parquet, or a folder of .npy"):
        load_data("nothing.txt")
