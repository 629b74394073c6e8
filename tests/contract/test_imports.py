"""What each package may load, proven by loading it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EDGE_MAX_MB = 420
# Importing the bin may take this many times as long as importing its libraries.
EDGE_IMPORT_MAX_TIMES = 2.0


def _python(code: str, executable: str = sys.executable, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _loaded(module: str, *heavy: str) -> str:
    return _python(f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])").strip()


def test_vision_loads_with_nothing_but_numpy_and_opencv() -> None:
    code = """
import importlib.abc, pkgutil, sys
allowed = {"numpy", "cv2", "vision"} | set(sys.stdlib_module_names)
class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{name} is not for vision", name=name)
sys.meta_path.insert(0, Wall())
import vision
names = [m.name for m in pkgutil.walk_packages(vision.__path__, "vision.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    assert int(_python("import importlib\n" + code)) >= 15


def test_the_command_line_starts_without_any_program_behind_it() -> None:
    assert _loaded("binsight", "torch", "ray", "onnxruntime", "fastapi", "cv2", "numpy") == "[]"


def test_edge_never_loads_torch_ray_or_pyarrow() -> None:
    assert _loaded("edge_runtime.app", "torch", "ray", "pyarrow", "onnx", "duckdb") == "[]"


def _pythons() -> list[str]:
    """Return this Python, and each other one that the project is for and this machine has."""
    fits = (
        "import sys, ensurepip, venv; v = sys.version_info[:2]; print((3, 11) <= v <= (3, 13), *v)"
    )
    found = {sys.version_info[:2]: sys.executable}
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        if (path := shutil.which(name)) is None:
            continue
        done = subprocess.run([path, "-c", fits], capture_output=True, text=True, check=False)
        good, *version = done.stdout.split() if done.returncode == 0 else ["False"]
        if good == "True":
            found.setdefault((int(version[0]), int(version[1])), path)
    return [found[version] for version in sorted(found)]


@pytest.fixture(scope="module", params=_pythons(), ids=lambda path: Path(path).name)
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the edge extra and nothing else, installed as a user does it."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run(
        [request.param, "-m", "venv", str(folder / "venv")], check=True, capture_output=True
    )
    pip = [
        str(folder / "venv" / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    done = subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), f"{ROOT}[edge]"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "venv"


def test_bare_edge_install_is_small_and_starts_fast(bare: Path) -> None:
    site = next((bare / "lib").glob("python3*/site-packages"))
    packages = {p.name.partition("-")[0].lower() for p in site.glob("*.dist-info")}
    assert not packages & {"torch", "ray", "pyarrow", "duckdb", "onnx"}
    size_mb = (
        sum(f.stat().st_size for f in bare.rglob("*") if f.is_file() and not f.is_symlink()) / 1e6
    )
    assert size_mb < EDGE_MAX_MB

    # Both in one process, and the best of several: a busy machine slows both.
    code = (
        "import time; t = time.perf_counter(); "
        "import apsw, cv2, httpx2, onnxruntime, pydantic, yaml; libraries = time.perf_counter(); "
        "import edge_runtime.app; print(libraries - t, time.perf_counter() - t)"
    )
    rounds = [_python(code, str(bare / "bin" / "python"), bare).split() for _ in range(5)]
    libraries, own = min(
        ((float(a), float(b)) for a, b in rounds), key=lambda pair: pair[1] / pair[0]
    )
    assert own < EDGE_IMPORT_MAX_TIMES * libraries
    print(
        f"bare edge install: {size_mb:.0f} MB, import {own:.2f} s, of its libraries alone "
        f"{libraries:.2f} s"
    )


def test_edge_works_in_the_bare_environment(bare: Path, tmp_path: Path) -> None:
    import cv2

    from vision.bundle import probe_frame

    cv2.imwrite(str(tmp_path / "photo.jpg"), probe_frame())
    binsight = str(bare / "bin" / "binsight")
    done = subprocess.run(
        [binsight, "classify", "photo.jpg", "--format", "jsonl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout)) == {
        "path",
        "label",
        "confidence",
        "unknown_score",
        "decision",
        "probabilities",
    }
    run = [
        binsight,
        "edge",
        "run",
        "--set",
        f"state={tmp_path / 's'}",
        "--set",
        "camera.items=3",
        "--set",
        "camera.fps=0",
    ]
    assert (
        "3 items"
        in subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    )
    missing = subprocess.run(
        [binsight, "train"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
    assert "pip install 'binsight[train]'" in missing.stderr


def test_edge_tests_pass_in_the_bare_environment(bare: Path, tmp_path: Path) -> None:
    # pytest and PyYAML's tests live outside the measured environment.
    extra = tmp_path / "pytest"
    python = str(bare / "bin" / "python")
    pip = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--target",
        str(extra),
    ]
    subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), "pytest", "pytest-timeout"],
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [python, "-m", "pytest", "tests/unit/edge_runtime", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(extra), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
