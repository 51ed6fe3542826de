"""Where the package's own files are: config/, models/, launch/.

Three layouts are served: a source tree (also behind an editable install), a ROS 2 install
found through the ament index, and a pip install under ``sys.prefix``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SHARE = Path("share") / "jepa_robot"


def share_directory() -> Path:
    """The folder that holds ``config`` and ``models``.

    Raises:
        FileNotFoundError: if none of the known layouts has it.
    """
    source = Path(__file__).resolve().parent.parent
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    installed = [Path(prefix) / SHARE for prefix in [*prefixes, sys.prefix]]
    candidates = [source, *installed] if (source / "package.xml").is_file() else installed
    for candidate in candidates:
        if (candidate / "config").is_dir():
            return candidate
    raise FileNotFoundError(
        "the files of jepa_robot (config/, models/) were not found; looked in "
        + ", ".join(str(c) for c in candidates)
    )


def find(kind: str, name: str | Path, suffix: str = "") -> Path:
    """Resolve ``name`` to a path: as a path if it is one, else as a shipped file.

    Args:
        kind: folder below the share directory, for example ``config/robots``.
        name: a path, or the name of a shipped file or folder without ``suffix``.
        suffix: for example ``.yaml``; empty for folders.

    Raises:
        FileNotFoundError: names what was asked for and what is there.
    """
    folder = share_directory() / kind
    for path in (Path(name).expanduser(), folder / f"{name}{suffix}"):
        if os.path.exists(path):  # which is False, not an error, for a name that cannot be one
            return path
    known = sorted(p.name.removesuffix(suffix) for p in folder.glob(f"*{suffix}"))
    raise FileNotFoundError(
        f"{str(name)!r} is neither a path nor one of {kind}: expected one of {', '.join(known)}"
    )
