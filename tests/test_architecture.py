"""The module rules of docs/architecture.md, read from the source: sizes, names, and which file may do what."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sc_dask"
FILES = sorted(PACKAGE.rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))

LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 500, 80
SUBJECTLESS = {"utils", "util", "helpers", "helper", "compat", "common", "misc"}
HEAVY = {"h5py", "igraph", "leidenalg", "loompy", "matplotlib", "pynndescent", "skmisc", "sklearn", "umap"}
NOT_AT_IMPORT = {
    *HEAVY,
    "anndata",
    "dask",
    "distributed",
    "numba",
    "numpy",
    "pandas",
    "scanpy",
    "scipy",
    "xarray",
    "zarr",
}
SLOTS = {"obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns"}

INDEXERS = {"loc", "iloc", "at", "iat"}

Finding = tuple[int, str]
Rule = Callable[[ast.Module], Iterator[Finding]]


def part_of_package(path: Path) -> str:
    """``sc_dask/io/read.py`` -> ``io/read.py``."""
    return path.relative_to(PACKAGE).as_posix()


def imports(nodes: Iterator[ast.AST]) -> Iterator[Finding]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs when the module is imported: not function bodies, not ``if TYPE_CHECKING``."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                stack.append(child)


def under(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def long_functions(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(node)
            doc = (first.end_lineno or 0) - first.lineno + 1 if has_doc else 0
            n_lines = (node.end_lineno or 0) - node.lineno + 1 - doc
            if n_lines > LINES_OF_A_FUNCTION:
                yield node.lineno, f"{node.name} has {n_lines} lines"


def computes(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            dask_function = called in {f"{m}.{f}" for m in ("dask", "da") for f in ("compute", "persist")}
            method = isinstance(node.func, ast.Attribute) and node.func.attr in {"compute", "persist"}
            # run.compute(...) is how the others ask for it
            if dask_function or (method and called != "run.compute"):
                yield node.lineno, called


def slot_writes(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store | ast.Del):
                    held: ast.expr = part.value
                    while isinstance(held, ast.Subscript) or (
                        isinstance(held, ast.Attribute) and held.attr in INDEXERS
                    ):
                        held = held.value
                    if isinstance(held, ast.Attribute) and held.attr in SLOTS:
                        yield node.lineno, ast.unparse(target)
                elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and part.attr in {*SLOTS, "X"}:
                    yield node.lineno, ast.unparse(target)


def imports_of(*roots: str) -> Rule:
    def rule(tree: ast.Module) -> Iterator[Finding]:
        return (hit for hit in imports(ast.walk(tree)) if under(hit[1], set(roots)))

    return rule


def dask_array_by_name(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "dask.array":
            yield node.lineno, "dask.array"


def dask_array(tree: ast.Module) -> Iterator[Finding]:
    yield from imports_of("dask.array")(tree)
    yield from dask_array_by_name(tree)


def heavy_at_import(tree: ast.Module) -> Iterator[Finding]:
    return (hit for hit in imports(at_import_time(tree)) if under(hit[1], HEAVY))


def relative_imports(tree: ast.Module) -> Iterator[Finding]:
    return ((n.lineno, ast.unparse(n)) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level)


# private attributes of other libraries' objects that were once used somewhere
PRIVATE = {"_meta", "_data", "_init_as_actual", "_inplace_subset_obs", "_inplace_subset_var", "_key_array", "_asarray"}


def private_names(tree: ast.Module) -> Iterator[Finding]:
    """Yield private modules and names of other libraries, and private attributes of their objects."""
    for line, name in imports(ast.walk(tree)):
        parts = name.split(".")
        underscored = any(p.startswith("_") and p != "__version__" for p in parts)
        inside = underscored or under(name, {"zarr.core", "xarray.core"})
        if inside and parts[0] not in ("sc_dask", "__future__"):
            yield line, name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE and ast.unparse(node.value) not in ("self", "cls"):
            yield node.lineno, ast.unparse(node)


# rule -> where it may be broken, as prefixes of the path under sc_dask/
MODULE_RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "functions of 80 lines at most": (long_functions, ()),
    "compute and persist only in array/engine/run.py": (computes, ("array/engine/run.py",)),
    "slots are written only in slots.py": (slot_writes, ("slots.py",)),
    "numba only in kernels/ and graph/": (imports_of("numba"), ("kernels/", "graph/")),
    "dask.array only in array/, io/, get/ and outside/": (dask_array, ("array/", "io/", "get/", "outside/")),
    "heavy packages are imported inside functions": (heavy_at_import, ("pl/points.py",)),
    "scanpy is imported through one door": (imports_of("scanpy"), ("outside/scanpy.py",)),
    "imports are absolute": (relative_imports, ()),
    "private names of other libraries only in outside/": (private_names, ("outside/",)),
}


@pytest.mark.parametrize("rule_name", MODULE_RULES)
def test_module_rule__holds(rule_name: str) -> None:
    rule, allowed = MODULE_RULES[rule_name]
    found = [
        f"sc_dask/{part_of_package(path)}:{line}: {what}"
        for path in FILES
        if not part_of_package(path).startswith(allowed or ("\0",))
        for line, what in rule(ast.parse(path.read_text(), path.name))
    ]
    assert not found, f"{rule_name}\n" + "\n".join(found)


BREACHES = {
    "functions of 80 lines at most": "def f():\n" + "    x = 1\n" * 80,
    "compute and persist only in array/engine/run.py": "y = x.sum().compute()",
    "slots are written only in slots.py": "adata.obsm['X_pca'] = 1",
    "numba only in kernels/ and graph/": "def f():\n    from numba import njit",
    "dask.array only in array/, io/, get/ and outside/": "from dask import array",
    "heavy packages are imported inside functions": "try:\n    import sklearn.cluster\nexcept ImportError:\n    pass",
    "scanpy is imported through one door": "import scanpy as sc",
    "imports are absolute": "from . import errors",
    "private names of other libraries only in outside/": "def f():\n    from anndata._core.views import as_view",
}


@pytest.mark.parametrize("rule_name", MODULE_RULES)
def test_module_rule__sees_a_breach(rule_name: str) -> None:
    assert list(MODULE_RULES[rule_name][0](ast.parse(BREACHES[rule_name])))


@pytest.mark.parametrize(
    "line",
    [
        "del adata.uns['x']",
        "adata.obs.loc[m, 'x'] = 1",
        "adata.X = y",
        "adata.uns['a']['b'] += 1",
        "a, b.var['x'] = 1, 2",
    ],
)
def test_slot_writes__every_form(line: str) -> None:
    assert list(slot_writes(ast.parse(line)))


@pytest.mark.parametrize("line", ["from zarr.core.sync import sync", "x = array._meta", "import dask._task_spec"])
def test_private_names__every_form(line: str) -> None:
    assert list(private_names(ast.parse(line)))


@pytest.mark.parametrize("line", ["x = adata.obs['a']", "run.compute(a, b)", "obs['x'] = 1"])
def test_module_rules__allow(line: str) -> None:
    assert not [*slot_writes(ast.parse(line)), *computes(ast.parse(line))]


def test_files__are_short() -> None:
    sizes = {p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in [*FILES, *TEST_FILES]}
    assert sizes
    assert not {name: n for name, n in sizes.items() if n > LINES_OF_A_FILE}


def test_files__are_named_for_subjects() -> None:
    assert not [part_of_package(p) for p in FILES if p.stem.strip("_") in SUBJECTLESS]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import__brings_names_only() -> None:
    code = "import sys; before = set(sys.modules); import sc_dask; dir(sc_dask); print(*(set(sys.modules) - before))"
    loaded = set(run_python(code).split())
    assert "sc_dask" in loaded
    assert not {m for m in loaded if m.startswith("sc_dask.") or under(m, NOT_AT_IMPORT)}


def test_import__verbs_bring_nothing_that_few_of_them_need() -> None:
    loaded = set(run_python("import sys, sc_dask as sd; sd.pp, sd.tl; print(*sys.modules)").split())
    assert not loaded & {
        "igraph",
        "matplotlib",
        "scipy.stats",
        "skmisc",
        "sklearn",
        "umap",
    }  # scipy.stats: 0.9 s, 36 MiB


def test_import__every_public_name_resolves() -> None:
    code = "import sc_dask as sd; [getattr(sd, n) for n in sd.__all__]; print(callable(sd.read) and callable(sd.write))"
    assert run_python(code).strip() == "True"


def test_import__unknown_name_is_an_attribute_error() -> None:
    import sc_dask

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = sc_dask.no_such_name


@pytest.mark.parametrize("package", ["pp", "tl"])
def test_import__a_verb_is_never_shadowed_by_its_file(package: str) -> None:
    init = ast.parse((PACKAGE / package / "__init__.py").read_text())
    names = [what.rsplit(".", 1)[1] for _, what in imports(ast.walk(init))]
    stems = [name for name in names if (PACKAGE / package / f"{name}.py").exists()]
    assert stems
    # the file first, then the package, then the file again; each in a process that has not seen sc_dask
    run_python(
        "import os, sys\n"
        "import anndata, dask.array, numba, scipy.stats, xarray  # what takes long, once\n"
        f"for stem in {stems!r}:\n"
        "    if (child := os.fork()) == 0:\n"
        "        import importlib, types\n"
        f"        name = f'sc_dask.{package}.{{stem}}'\n"
        "        exec(f'import {name}')\n"
        "        importlib.import_module(name)\n"
        f"        import sc_dask as sd; verbs = sd.{package}\n"
        "        assert verbs.__all__\n"
        "        for name in verbs.__all__:\n"
        "            f = getattr(verbs, name)\n"
        "            assert isinstance(f, types.FunctionType), (name, f)\n"
        f"            scope = {{}}; exec(f'from sc_dask.{package} import {{name}}', scope); assert scope[name] is f\n"
        "        os._exit(0)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, stem\n"
    )


def test_import__rules_are_configured() -> None:
    """The import arrows are import-linter's, run by ``make lint``; here: that none of our modules escapes them."""
    import tomllib

    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = " ".join(config["contracts"][0]["layers"])
    for layer_mark in "()|":
        layers = layers.replace(layer_mark, " ")
    modules = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert modules - {"__init__", "testing"} <= set(layers.split())
    assert importlib.util.find_spec("sc_dask") is not None
