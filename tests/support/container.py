"""Runs the steps of the Dockerfile without a container engine, each in a root directory of its own.

This machine's programs and Python replace the base image. Paths, user, environment and the read-only file system are
those of a container. Needs root.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from tests.support.service import ROOT

_PYTHON_FOLDER = "/base-image"
"""Contains the command `python` of the base image."""
_SHARED = [
    folder
    for folder in ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/sbin", "/usr", sys.base_prefix)
    if Path(folder).is_dir()
]

# Arguments: the root directory, the options of mount, the user, the working directory, and the command. Mounts end with
# the command, because they belong to its own namespace.
_ENTER = """
set -eu
root=$1 options=$2 user=$3 folder=$4
shift 4
mount --bind "$root" "$root"
for shared in $SHARED_FOLDERS; do mount --rbind "$shared" "$root$shared"; done
mount -o "remount,bind,$options" "$root"
exec /usr/sbin/chroot --userspec="$user" "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""


def missing() -> str | None:
    """Return why this machine cannot run the steps, or None."""
    if os.geteuid() != 0:
        return "only root can change the root directory; run this test as root"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return "this machine does not allow mount namespaces; allow unshare --mount"
    return None


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the name and the arguments of each instruction of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", "")
    for line in filter(None, text.splitlines()):
        name, _, arguments = line.partition(" ")
        yield name, arguments.strip()


@dataclass
class Image:
    """A stage of the build: its root directory, and the values that its instructions set."""

    root: Path
    folder: str = "/"
    user: str = "0:0"
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": f"{_PYTHON_FOLDER}:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for shared in _SHARED:
            self.path(shared).mkdir(parents=True, exist_ok=True)
        self.path(_PYTHON_FOLDER).mkdir()
        (self.path(_PYTHON_FOLDER) / "python").symlink_to(f"{sys.base_prefix}/bin/python3")

    def path(self, name: str) -> Path:
        """Return the path on this machine of a path in the image. A relative path starts in the working directory."""
        return self.root / str(PurePosixPath(self.folder) / name).lstrip("/")

    def start(
        self, command: list[str], output: IO[bytes] | int | None = None, *, mount: str = "ro", **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start a command as a container does: as the image's user, with the image's environment and `variables`.

        mount: `ro` for a read-only file system, or `rw`. /dev is writable in both cases.
        """
        environment = self.environment | variables | {"SHARED_FOLDERS": " ".join(_SHARED)}
        arguments = [str(self.root), mount, self.user, self.folder, *command]
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _ENTER, "sh", *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: list[str], **variables: str) -> int:
        """Run a command as a container does, and return its exit code."""
        return self.start(command, subprocess.DEVNULL, **variables).wait(60)


def build(folder: Path) -> Image:
    """Follow the Dockerfile in `folder`, and return the last stage. Raises ValueError for an unknown instruction."""
    stages: dict[str, Image] = {}
    image = Image(folder / "unused")
    for name, arguments in instructions():
        match name:
            case "FROM":
                stage = arguments.partition(" AS ")[2] or "last"
                image = stages[stage] = Image(folder / stage)
            case "WORKDIR":
                image.folder = arguments
                image.path(".").mkdir(parents=True, exist_ok=True)
            case "COPY":
                _copy(image, stages, arguments)
            case "RUN":
                pip = {variable: value for variable, value in os.environ.items() if variable.startswith("PIP_")}
                process = image.start(["/bin/sh", "-c", arguments], None, mount="rw", **pip)
                if process.wait(600):
                    raise ValueError(f"RUN {arguments} failed; read its output above")
            case "ENV":
                for pair in shlex.split(arguments):
                    variable, _, value = pair.partition("=")
                    image.environment[variable] = value.replace("$PATH", image.environment["PATH"])
            case "USER":
                image.user = arguments
            case "CMD":
                image.command = json.loads(arguments)
            case "HEALTHCHECK":
                image.healthcheck = json.loads(arguments.partition("CMD ")[2])
            case "EXPOSE":
                pass
            case _:
                raise ValueError(f"instruction {name} is unknown; add it to {Path(__file__).name}")
    return image


def _copy(image: Image, stages: dict[str, Image], arguments: str) -> None:
    *sources, target = arguments.split()
    stage = sources.pop(0).removeprefix("--from=") if sources[0].startswith("--from=") else None
    for source in sources:
        original = stages[stage].path(source) if stage else ROOT / source
        destination = image.path(target)
        if original.is_dir():
            shutil.copytree(
                original, destination, symlinks=True, ignore=None if stage else shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy2(original, destination)
