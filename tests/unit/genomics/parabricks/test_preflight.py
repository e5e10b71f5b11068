"""Checks before pbrun starts, with stand-ins for the programs."""

from collections import namedtuple
from pathlib import Path

import pytest
from support.parabricks import IMAGE, Doubles

from wesemu.errors import InputError
from wesemu.genomics.parabricks import preflight
from wesemu.genomics.parabricks.duplicates import duplicate_figures
from wesemu.genomics.parabricks.preflight import (
    LeasedGpu,
    ParabricksOptions,
    check_driver,
    check_gpus,
    check_space,
    check_version,
    choose_low_memory,
    choose_runtime,
    find_version,
    leased,
    options_from,
    parabricks_findings,
)
from wesemu.genomics.parabricks.step import lay_out

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
    found = Doubles(tmp_path / "doubles", monkeypatch)
    found.set("PATH", f"{found.folder}:/usr/bin:/bin")
    return found


def verdicts(options: ParabricksOptions, **known: object) -> dict[str, str]:
    return {each.subject: each.verdict for each in parabricks_findings(options, **known)}


@pytest.mark.parametrize(
    ("version", "driver", "verdict"),
    [
        ((4, 7), "535.104.05", "ok"),
        ((4, 6), "525.60.13", "refused"),
        ((4, 8), "570.86", "refused"),
        ((4, 8), "580.65.06", "ok"),
        ((5, 0), "535.1", "refused"),
        ((4, 3), "470.1", "unknown"),
        (None, "535.1", "unknown"),
        ((4, 7), None, "unknown"),
        ((4, 7), "N/A", "unknown"),
    ],
)
def test_the_driver_is_held_against_the_version(version, driver, verdict) -> None:
    finding = check_driver(version, driver)
    assert finding.verdict == verdict
    assert ("R5" in finding.cure) == (verdict == "refused")


@pytest.mark.parametrize(
    ("answer", "version", "bwa"),
    [
        ("pbrun: 4.8.0-1", (4, 8, 0), "0.7.17"),
        ("Please visit ...\npbrun: 4.7.1-1", (4, 7, 1), "0.7.15"),
        ("pbrun: v4.5.1", (4, 5, 1), "0.7.15"),
    ],
)
def test_the_version_says_which_bwa_it_maps_like(answer: str, version, bwa: str) -> None:
    found = find_version(["printf", answer], None)
    assert found == version
    assert check_version(found).text.endswith(f"maps like bwa {bwa}")
    assert find_version([], "x/clara-parabricks:4.8.0-1") == (4, 8, 0)
    assert check_version(find_version([], "x/clara-parabricks:latest")).verdict == "unknown"


@pytest.mark.parametrize(
    ("setting", "memory", "chosen"),
    [
        ("auto", 15360, True),
        ("auto", 20475, True),
        ("auto", 22731, False),  # A10G
        ("auto", 23034, False),  # L4
        ("auto", 143771, False),
        ("auto", None, False),
        ("always", 143771, True),
        ("never", 15360, False),
    ],
)
def test_small_cards_get_the_low_memory_flags(setting, memory, chosen) -> None:
    options = options_from({"low_memory": setting})
    assert choose_low_memory(options, [LeasedGpu("0", 143771, None), LeasedGpu("1", memory, None)])[
        0
    ] == (chosen)


def test_a_card_that_is_too_small_or_missing_is_refused() -> None:
    assert check_gpus([LeasedGpu("0", 8192, None)], 1).kind == "gpu_memory"
    assert check_gpus([LeasedGpu("0", 15109, None)], 1).verdict == "ok"
    missing = check_gpus([LeasedGpu("0", 40000, None)], 2, "NVML: not found")
    assert (missing.kind, missing.text) == ("no_gpu", "1 of 2 GPUs can be seen: NVML: not found")


@pytest.mark.parametrize(("free", "verdict"), [(199, "refused"), (250, "unknown"), (300, "ok")])
def test_the_sort_needs_room(tmp_path: Path, monkeypatch, free: int, verdict: str) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: Usage(0, 0, free))
    (tmp_path / "a.fq").write_bytes(b"x" * 100)
    assert check_space([tmp_path / "a.fq"], tmp_path).verdict == verdict


def test_leased_devices() -> None:
    assert leased({"CUDA_VISIBLE_DEVICES": "3,1"}, 1) == ("3",)
    assert leased({"CUDA_VISIBLE_DEVICES": "GPU-aa, GPU-bb"}, 2) == ("GPU-aa", "GPU-bb")
    assert leased({"CUDA_VISIBLE_DEVICES": ""}, 1) == ()
    assert leased({}, 2) == ("0", "1")


def test_nothing_to_run_is_reported(doubles: Doubles) -> None:
    (finding,) = parabricks_findings(ParabricksOptions())
    assert (finding.verdict, finding.kind) == ("refused", "image")
    assert "parabricks.image" in finding.cure
    assert choose_runtime(ParabricksOptions(runtime="docker"))[1].text == "docker is not on PATH"
    doubles.install("docker")
    assert (
        choose_runtime(ParabricksOptions(runtime="docker"))[1].text
        == "no image is named for docker"
    )


def test_pbrun_on_path_comes_first_then_the_image(doubles: Doubles) -> None:
    doubles.install("docker", "apptainer")
    assert choose_runtime(ParabricksOptions(image=IMAGE))[0] == "docker"
    assert choose_runtime(ParabricksOptions(image=str(doubles.image)))[0] == "apptainer"
    doubles.install("pbrun")
    assert choose_runtime(ParabricksOptions(image=IMAGE))[0] == "native"
    assert choose_runtime(ParabricksOptions(runtime="docker", image=IMAGE))[0] == "docker"


@pytest.mark.parametrize("runtime", ["native", "docker", "apptainer"])
def test_all_is_well(doubles: Doubles, runtime) -> None:
    doubles.install("pbrun", runtime) if runtime != "native" else doubles.install("pbrun")
    image = str(doubles.image) if runtime == "apptainer" else IMAGE
    told = verdicts(ParabricksOptions(runtime=runtime, image=image, memory_limit=64))
    assert told.pop("image", "ok") == "ok"
    assert told == {
        "runtime": "ok",
        "gpu": "ok",
        "version": "ok",
        "driver": "ok",
        "low memory": "chosen",
        "host memory": "chosen",
    }


def test_images_are_never_fetched(doubles: Doubles) -> None:
    doubles.install("docker", "apptainer")
    for options in (
        ParabricksOptions(runtime="docker", image="other/parabricks:4.7.1-1"),
        ParabricksOptions(
            runtime="apptainer", image="docker://nvcr.io/nvidia/clara/clara-parabricks:4.7.1"
        ),
    ):
        finding = parabricks_findings(options)[-1]
        assert (finding.subject, finding.verdict, finding.kind) == ("image", "refused", "image")
        assert "wesemu fetches none" in finding.cure


def test_a_container_without_a_gpu_is_reported(doubles: Doubles) -> None:
    doubles.install("docker", "pbrun")
    doubles.set("DOCKER_DOUBLE_GPUS", "0")
    known = [LeasedGpu("0", 143771, "580.65.06")]
    finding = parabricks_findings(ParabricksOptions(image=IMAGE, runtime="docker"), gpus=known)[2]
    assert (finding.subject, finding.kind) == ("gpu", "no_gpu")
    assert "could not select device driver" in finding.text


def test_the_reference_becomes_regular_files(tmp_path: Path) -> None:
    (tmp_path / "real.fa").write_text(">a\n")
    (tmp_path / "real.fa.fai").write_text("fai")
    for suffix in ("", ".fai"):
        (tmp_path / f"link.fa{suffix}").symlink_to(tmp_path / f"real.fa{suffix}")
    laid = lay_out(tmp_path / "link.fa", tmp_path / "laid", [".fai"])
    assert laid.samefile(tmp_path / "real.fa")
    assert not laid.is_symlink()
    assert Path(f"{laid}.fai").read_text() == "fai"
    with pytest.raises(InputError, match=r"no \.bwt beside it"):
        lay_out(tmp_path / "link.fa", tmp_path / "again", [".bwt"])


def test_on_another_disk_it_is_copied(tmp_path: Path, monkeypatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "real.fa").write_text(">a\n")
    laid = lay_out(tmp_path / "real.fa", tmp_path / "laid", [])
    assert laid.read_text() == ">a\n"
    assert not laid.samefile(tmp_path / "real.fa")


def test_duplicates_are_those_of_the_bam_even_without_readable_metrics() -> None:
    flagstat = {
        "QC-passed reads": {"primary mapped": 90, "primary duplicates": 8},
        "QC-failed reads": {"primary mapped": 5, "primary duplicates": 1},
    }
    metrics = (
        "## x\nLIBRARY\tREAD_PAIR_OPTICAL_DUPLICATES\tESTIMATED_LIBRARY_SIZE\nl\t2\t700\n\n## y\n"
    )
    figures = duplicate_figures(flagstat, metrics)
    assert figures["DUPLICATE TOTAL"] == 9
    assert figures["EXAMINED"] == 95
    assert figures["DUPLICATE PAIR OPTICAL"] == 4
    assert figures["ESTIMATED_LIBRARY_SIZE"] == 700
    other = duplicate_figures(flagstat, "something else")
    assert other["DUPLICATE TOTAL"] == 9
    assert other["ESTIMATED_LIBRARY_SIZE"] == 0
