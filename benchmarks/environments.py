"""The peers' programs, each installed in a folder of its own under `benchmarks/.peers`, never beside the product."""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSTALLED = HERE / ".peers"
INSTALL_SECONDS = 600


class Missing(Exception):
    """A peer cannot be had here; the message says why."""


def python_of(name: str) -> Path:
    """The interpreter of a peer that `peers/NAME.txt` lists, installed at the first call. Raises `Missing`."""
    wanted = HERE / "peers" / f"{name}.txt"
    folder = INSTALLED / name
    stamp = folder / "installed.txt"
    python = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)], name)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    _run([*install, "--quiet", "-r", str(wanted)], name)
    shutil.copy(wanted, stamp)
    return python


def debian(name: str, program: str) -> Path:
    """A program of a Debian package: the installed one, or unpacked without root. Raises `Missing`."""
    if (installed := shutil.which(program)) is not None:
        return Path(installed)
    folder = INSTALLED / name
    found = next((path for path in folder.glob(f"usr/*bin/{program}")), None)
    if found is not None:
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing(f"{program} is not installed, and there is no apt-get to take it from")
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", name], name, folder)
    for package in folder.glob("*.deb"):
        _run(["dpkg-deb", "--extract", str(package), str(folder)], name)
    return next(folder.glob(f"usr/*bin/{program}"))


def _run(command: list[str], name: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, cwd=folder)
    except subprocess.TimeoutExpired:
        raise Missing(f"{name} could not be installed within {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no word of why"]
        raise Missing(f"{name} could not be installed: {last[0][:200]}")
