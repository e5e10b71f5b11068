"""Test doubles of `docker` and `apptainer`: check the command line, then run the command on this
machine with the environment that a container would have, and no more.

`docker` keeps its containers in the folder DOCKER_DOUBLE: a file each, with the process id. The
images that it has are in DOCKER_DOUBLE_IMAGES. `DOCKER_DOUBLE_GPUS=0` hides all GPUs.
"""

import contextlib
import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

PASSED = ("PBRUN_DOUBLE_", "DOCKER_DOUBLE")
FLAGS = {"--rm", "--init"}
VALUES = {"--pull", "--name", "--gpus", "--user", "--mount", "--workdir", "--env"}
BIND = re.compile(r"(/[^:,]+):\1:(ro|rw)")


def refuse(message: str, status: int = 125) -> NoReturn:
    print(f"double: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


def surroundings(added: Mapping[str, str]) -> dict[str, str]:
    """PATH, so that pbrun and nvidia-smi are found, what tells the doubles what to do, and the
    variables given."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    return (
        {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")} | kept | added
    )


def docker(words: list[str]) -> int:
    match words:
        case ["image", "inspect", "--format", "{{.Id}}", image]:
            if image in os.environ["DOCKER_DOUBLE_IMAGES"].split():
                print("sha256:0")
                return 0
            print(f"Error response from daemon: No such image: {image}", file=sys.stderr)
            return 1
        case ["rm", "--force", name]:
            return remove(name)
        case ["run", *rest]:
            return run(rest)
    refuse(f"docker {words}")


def remove(name: str) -> int:
    path = Path(os.environ["DOCKER_DOUBLE"]) / name
    if path.exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)
        path.unlink(missing_ok=True)
        return 0
    return 1


def run(words: list[str]) -> int:
    given: dict[str, list[str]] = {}
    while words and words[0].startswith("--"):
        name, *words = words
        if name in FLAGS:
            given.setdefault(name, []).append("")
        elif name in VALUES and words:
            given.setdefault(name, []).append(words[0])
            words = words[1:]
        else:
            refuse(f"docker run has no option {name}")
    image, *command = words
    if "--rm" not in given or given.get("--pull") != ["never"]:
        refuse("a container that stays, or an image that would be fetched")
    if image not in os.environ["DOCKER_DOUBLE_IMAGES"].split():
        refuse(f"Unable to find image '{image}' locally")
    if given.get("--user") != [f"{os.getuid()}:{os.getgid()}"]:
        refuse("not run as the user")
    environment = dict(each.split("=", 1) for each in given.get("--env", []))
    if os.environ.get("DOCKER_DOUBLE_GPUS") == "0":
        refuse('could not select device driver "" with capabilities: [[gpu]]')
    devices = count_devices(given.get("--gpus", [""])[0])
    if "CUDA_VISIBLE_DEVICES" in environment:
        expected = ",".join(map(str, range(devices)))
        if environment["CUDA_VISIBLE_DEVICES"] != expected:
            refuse(f"in the container the GPUs are {expected}")
    if command[0] == "pbrun" and command[1:] != ["version"]:
        check_mounts(given, command)
    return start(command, surroundings(environment), given)


def count_devices(option: str) -> int:
    """Docker reads the option as CSV, so several devices stand in quotes."""
    if option == "all":
        return 1
    fields = next(csv.reader([option]))
    if len(fields) != 1 or not fields[0].startswith("device="):
        refuse(f"cannot read --gpus {option}")
    return len(fields[0].removeprefix("device=").split(","))


def check_mounts(given: dict[str, list[str]], command: list[str]) -> None:
    """Every file that the command names must lie in a folder that the container sees."""
    seen = []
    for mount in given.get("--mount", []):
        fields = dict(field.partition("=")[::2] for field in next(csv.reader([mount])))
        if fields["type"] != "bind" or fields["source"] != fields["target"]:
            refuse(f"mount {mount}")
        if not Path(fields["source"]).is_dir():
            refuse(f"invalid mount: {fields['source']} does not exist")
        seen.append((fields["source"], "readonly" in fields))
    check_seen(command, seen)
    if given["--workdir"][0] not in [folder for folder, closed in seen if not closed]:
        refuse("the working directory cannot be written")


def check_seen(command: list[str], seen: list[tuple[str, bool]]) -> None:
    for word in command:
        if word.startswith("/"):
            inside = [closed for folder, closed in seen if f"{word}/".startswith(f"{folder}/")]
            if not inside:
                refuse(f"{word} is in no folder that the container sees")
            if not word.endswith((".gz", ".fq", ".fa", ".bam")) and all(inside):
                refuse(f"{word} cannot be written")


def start(command: list[str], environment: dict[str, str], given: dict[str, list[str]]) -> int:
    """In a process group of its own: as with docker it outlives the command that started it."""
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=given.get("--workdir", [None])[0],
        start_new_session=True,
    )
    name = given.get("--name", [None])[0]
    path = Path(os.environ["DOCKER_DOUBLE"]) / name if name else None
    if path is not None:
        if path.exists():
            process.kill()
            refuse(f"the container name {name} is in use")
        path.write_text(str(process.pid))
    status = process.wait()
    if path is not None:
        path.unlink(missing_ok=True)
    return status if status >= 0 else 128 - status


def apptainer(words: list[str]) -> int:
    if words[:4] != ["exec", "--nv", "--cleanenv", "--no-home"]:
        refuse(f"apptainer {words}", 255)
    words = words[4:]
    seen, directory = [], None
    while words[0].startswith("--"):
        name, value, *words = words
        if name == "--pwd":
            directory = value
        elif name == "--bind" and (bind := BIND.fullmatch(value)):
            seen.append((bind[1], bind[2] == "ro"))
        else:
            refuse(f"apptainer exec {name} {value}", 255)
    image, *command = words
    if "://" in image or not Path(image).is_file():
        refuse(f"could not open image {image}", 255)
    prefix = "APPTAINERENV_"
    added = {
        name.removeprefix(prefix): value
        for name, value in os.environ.items()
        if name.startswith(prefix)
    }
    if command[0] == "pbrun" and command[1:] != ["version"]:
        check_seen(command, seen)
    os.chdir(directory or ".")
    os.execvpe(command[0], command, surroundings(added))


if __name__ == "__main__":
    tool, *rest = sys.argv[1:]
    sys.exit(docker(rest) if tool == "docker" else apptainer(rest))
