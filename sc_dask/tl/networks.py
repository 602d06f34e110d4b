"""Rule files of gene-regulatory networks, read without running anything that stands in them.

```
# modelType = hill
# invTimeStep = 0.1
A = A and not B
B = B and not (A or B)
C =
# coupling list:
A    A     1.0
A    B    -1.0
B    B     1.0
B    A    -1.0
```

A rule is made of genes, ``and``, ``or``, ``not`` and parentheses; a gene without one stays as it is but for noise. The
list names each gene, each of its parents, and a strength: the parent is half on at a level of ``0.1 / strength``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sc_dask.errors import FormatError, InputError
from sc_dask.kernels.sim import Network

SHIPPED = Path(__file__).with_name("models")
MAX_PARENTS = 12  # a gene's rule is a table of 2**n rows
_MAX_RULE = 10_000


@dataclass(frozen=True, eq=False)
class RuleFile:
    """A network, the names of its genes, and where it was read from."""

    path: Path
    genes: tuple[str, ...]
    network: Network

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def find(model: str | Path) -> Path:
    """Return the path of a rule file: a file that exists, or one of those that come with sc_dask."""
    path = Path(model)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{path.with_suffix('').name}.txt"
    if not shipped.is_file() or shipped.stem.endswith("_params"):
        known = sorted(p.stem for p in SHIPPED.glob("*.txt") if not p.stem.endswith("_params"))
        raise InputError(f"found no rule file {str(model)!r}", f"a path, or one of: {', '.join(known)}")
    return shipped


def read_params(path: Path) -> dict[str, Any]:
    """Return the parameters that stand beside a rule file, in ``<name>_params.txt``: lines ``key = value``."""
    beside = path.with_name(f"{path.stem}_params.txt")
    if not beside.is_file():
        raise InputError(
            f"found no {beside}", "the parameters beside the rule file", "params_file=False, and give all of them"
        )
    out: dict[str, Any] = {}
    for line in beside.read_text().splitlines():
        key, sep, value = line.partition("=")
        if sep and not line.startswith("#"):
            try:
                out[key.strip()] = ast.literal_eval(value.strip())
            except (SyntaxError, ValueError):
                out[key.strip()] = value.strip()
    return out


def read(path: Path) -> RuleFile:
    """Read a rule file.

    Raises
    ------
    FormatError
        A line cannot be understood; names the file and the line.
    """
    head: dict[str, str] = {}
    rules: dict[str, tuple[int, str]] = {}
    couplings: dict[tuple[str, str], tuple[int, float]] = {}
    in_couplings = False
    for n, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("#"):
            in_couplings = in_couplings or line.startswith("# coupling list")
            key, sep, value = line[1:].partition("=")
            if sep and not in_couplings:
                head[key.strip()] = value.strip()
        elif in_couplings and line.strip():
            gene, parent, strength = _coupling(path, n, line)
            couplings[gene, parent] = n, strength
        elif line.strip():
            gene, sep, rule = (part.strip() for part in line.partition("="))
            if not sep or not re.fullmatch(r"[^\s()]+", gene) or gene in ("and", "or", "not") or gene in rules:
                raise _bad(path, n, line, "gene = rule, each gene once")
            rules[gene] = n, rule
    if not rules:
        raise FormatError(f"{path} has no rules", "lines such as 'A = A and not B'")
    return RuleFile(path, tuple(rules), _network(path, rules, couplings, _rate(path, head)))


def _rate(path: Path, head: Mapping[str, str]) -> float:
    if head.get("modelType") != "hill":
        raise FormatError(f"{path} has modelType {head.get('modelType')!r}", "a line '# modelType = hill'")
    try:
        return float(head["invTimeStep"])
    except (KeyError, ValueError) as err:
        raise FormatError(
            f"{path} has invTimeStep {head.get('invTimeStep')!r}", "a line such as '# invTimeStep = 0.1'"
        ) from err


def _coupling(path: Path, n: int, line: str) -> tuple[str, str, float]:
    try:
        gene, parent, strength = line.split()
        if not np.isfinite(float(strength)) or float(strength) == 0:
            raise ValueError
        return gene, parent, float(strength)
    except ValueError:
        raise _bad(path, n, line, "gene, parent and a strength that is not 0") from None


def _bad(path: Path, n: int, line: str, expected: str) -> FormatError:
    return FormatError(f"{path}, line {n}: {line.strip()[:80]!r}", expected, "mend the rule file")


def _network(
    path: Path,
    rules: Mapping[str, tuple[int, str]],
    couplings: Mapping[tuple[str, str], tuple[int, float]],
    rate: float,
) -> Network:
    genes = list(rules)
    parents: list[int] = []
    thresholds: list[float] = []
    patterns: list[int] = []
    parent_ptr, pattern_ptr, used = [0], [0], set()
    for gene, (n, rule) in rules.items():
        of_gene, on = _rule(path, n, rule, genes)
        for parent in of_gene:
            if (gene, parent) not in couplings:
                raise _bad(path, n, f"{gene} = {rule}", f"a line '{gene} {parent} 1.0' in the coupling list")
            used.add((gene, parent))
            thresholds.append(0.1 / abs(couplings[gene, parent][1]))
        parents += [genes.index(p) for p in of_gene]
        patterns += on
        parent_ptr.append(len(parents))
        pattern_ptr.append(len(patterns))
    for gene, parent in couplings.keys() - used:
        n = couplings[gene, parent][0]
        raise _bad(path, n, f"{gene} {parent}", f"a coupling of a gene with what its rule names, not {parent!r}")
    ints = (np.asarray(v, np.int64) for v in (parent_ptr, parents, pattern_ptr, patterns))
    ptr, of_whom, pattern_at, on_off = ints
    return Network(ptr, of_whom, np.asarray(thresholds), pattern_at, on_off, rate)


def _rule(path: Path, n: int, rule: str, genes: list[str]) -> tuple[list[str], list[int]]:
    """Return the parents that a rule names, in their order, and the patterns of them for which it is true."""
    words = re.findall(r"[()]|[^\s()]+", rule)
    named = [w for w in words if w not in ("and", "or", "not", "(", ")")]
    parents = list(dict.fromkeys(named))
    unknown = [p for p in parents if p not in genes]
    if unknown:
        raise _bad(path, n, rule, f"genes that have a rule, joined by and, or, not: {unknown[0]!r} has none")
    if not words:
        return [], []
    if len(parents) > MAX_PARENTS or len(rule) > _MAX_RULE:
        raise _bad(path, n, rule, f"at most {MAX_PARENTS} parents")
    place = {p: f"p{i}" for i, p in enumerate(parents)}
    try:
        tree = ast.parse(" ".join(place.get(w, w) for w in words), mode="eval").body
        on = [(np.arange(2 ** len(parents)) >> j) & 1 == 1 for j in reversed(range(len(parents)))]
        true = _truth(tree, {place[p]: on[i] for i, p in enumerate(parents)})
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _bad(path, n, rule, "genes joined by and, or, not and parentheses") from None
    rows = np.flatnonzero(true)  # patterns in the order of counting, the first parent the slowest
    return parents, sum((on[j][rows].astype(np.int64) << j for j in range(len(parents))), np.int64(0) * rows).tolist()


def _truth(node: ast.AST, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return for every pattern whether a rule is true; anything but and, or, not and genes is a ``ValueError``."""
    if isinstance(node, ast.Name):
        return values[node.id] if node.id in values else _refused()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_truth(node.operand, values)
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return np.asarray(join.reduce([_truth(v, values) for v in node.values]))
    return _refused()


def _refused() -> np.ndarray:
    raise ValueError
