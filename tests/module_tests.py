"""The test files for a change to one module: ``python -m tests.module_tests limiter_node/store/codec.py``.

They are the module's namesakes (`test_script_codec.py` or `test_codec.py` for `codec.py`) and the files that import it.
Where there are none, those of the modules that import it are taken, and so on upwards. A module that many tests import
gets the most specific of them: those that import the fewest modules of the project. What needs faults or attacks on
whole fleets is left to `make test`. Used by `make test-module`.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("limiter_node", "bench_client", "benchmarks", "lua")
LEFT_OUT = ("chaos", "attack", "judge", "e2e")
MOST = 6
"""Files: on six workers, most of which wait, these take less than half a minute."""


def imported_by(path: Path) -> set[str]:
    """Return the dotted names of the project's modules (and of what is taken from them) that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            source = ".".join((*inside, *filter(None, [node.module])))
            names.add(source)
            names.update(f"{source}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] in PACKAGES}


def module_name(path: Path) -> str:
    """Return the dotted name of the module in that file of the project; of a package for its ``__init__.py``."""
    parts = path.resolve().relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_namesake(test: Path, module: str) -> bool:
    """Whether the words of the module's name are in the test's: of the module `audit`, `test_bench_audit_failures`."""
    package, _, name = module.replace("limiter_node.", "node.").partition(".")
    is_elsewhere = test.parent.name in ("bench_client", "benchmarks") and test.parent.name != package
    is_others = package in ("bench_client", "benchmarks") and test.parent.name != package
    return not is_elsewhere and not is_others and f"_{name.rpartition('.')[2]}_" in f"{test.stem}_"


def tests_of(module: str) -> list[Path]:
    """Return the test files for a module, those that are most about it first."""
    tests = {
        path: imported_by(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if path.relative_to(ROOT).parts[1] not in LEFT_OUT
    }
    sources = {
        module_name(path): imported_by(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    }
    looked_at, level = {module}, {module}
    while level:
        found = {
            path: len(imports)
            for path, imports in tests.items()
            if any(name in imports or is_namesake(path, name) for name in level)
        }
        if found:
            most_specific = sorted(found, key=lambda path: (not is_namesake(path, module), found[path]))
            return most_specific[:MOST]
        level = {name for name, imports in sources.items() if imports & level} - looked_at
        looked_at |= level
    return []


def main() -> int:
    """Print the test files for the modules named on the command line."""
    found: list[Path] = []
    for argument in sys.argv[1:]:
        path = Path(argument)
        if path.suffix == ".lua":
            found += sorted((ROOT / "tests" / "lua").glob("test_*.py"))
        elif path.name.startswith("test_"):
            found.append(path.resolve())
        else:
            found += tests_of(module_name(path))
    if not found:
        print(
            "error: no test imports this module; give the path of a module, as M=limiter_node/tokens.py",
            file=sys.stderr,
        )
        return 2
    print(*dict.fromkeys(str(path.relative_to(ROOT)) for path in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
