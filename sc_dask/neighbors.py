"""``sd.Neighbors``: a neighbour graph as an object, with scanpy's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from sc_dask import get
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph import diffusion
from sc_dask.pp.neighbors import neighbors

if TYPE_CHECKING:
    from igraph import Graph

__all__ = ["Neighbors", "neighbors"]


class Neighbors:
    """A neighbour graph of an AnnData, its transitions and their spectrum; the AnnData is not changed.

    Parameters
    ----------
    adata
        Annotated matrix; a graph that it has is taken, and diffusion components (``obsm["X_diffmap"]``) too.
    n_dcs
        Use so many of these components; None: all.
    neighbors_key
        Name of the graph; None: ``neighbors``.

    Memory: `compute_eigen` holds the graph once more in float64.

    Raises
    ------
    MissingKeyError
        There is no such graph.
    InputError
        It is a landmark graph, or there are fewer components.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    >>> graph = sd.Neighbors(adata)
    >>> graph.compute_neighbors(n_neighbors=5)
    >>> graph.distances.nnz, "neighbors" in adata.uns
    (240, False)
    """

    def __init__(self, adata: AnnData, *, n_dcs: int | None = None, neighbors_key: str | None = None) -> None:
        self._adata = adata
        self.knn: bool | None = None
        self.n_neighbors: int | None = None
        self.rp_forest = None
        self._distances: Any = None
        self._connectivities: Any = None
        self._transitions: Any = None
        self._steady: NDArray[np.float64] | None = None
        self._spectrum: diffusion.Spectrum | None = None
        root = adata.uns.get("iroot")
        self.iroot = None if root is None or int(root) >= adata.n_obs else int(root)
        if neighbors_key is not None and neighbors_key not in adata.uns:
            raise MissingKeyError(f"no {neighbors_key!r} in adata.uns", "a neighbour graph", "run pp.neighbors")
        if (neighbors_key or "neighbors") in adata.uns:
            self._take(neighbors_key)
        if "X_diffmap" in adata.obsm:
            values = np.asarray(adata.uns["diffmap_evals"])
            n = len(values) if n_dcs is None else n_dcs
            if n > len(values):
                raise InputError(f"found n_dcs={n_dcs} of {len(values)}", "no more", f"tl.diffmap(adata, n_comps={n})")
            self._spectrum = diffusion.Spectrum(values[:n], get.in_memory(adata.obsm["X_diffmap"])[:, :n])

    def _take(self, key: str | None) -> None:
        if get.landmark_graph(self._adata, key) is not None:
            raise InputError(
                "found a landmark graph, which is not held in memory", "the graph of all cells", "compact=False"
            )
        self._connectivities, self._distances = get.graph(self._adata, key), get.distances(self._adata, key)
        self.knn = sp.issparse(self._connectivities)
        params = self._adata.uns[key or "neighbors"].get("params", {})
        degree = int(self._connectivities.nnz / self._adata.n_obs / 2)
        self.n_neighbors = int(np.ravel(params.get("n_neighbors", degree))[0])  # an old file holds an array

    def compute_neighbors(
        self,
        n_neighbors: int = 30,
        n_pcs: int | None = None,
        *,
        use_rep: str | None = None,
        knn: bool = True,
        transformer: Any = None,
        method: str = "umap",
        metric: Any = "euclidean",
        metric_kwds: Mapping[str, Any] | None = None,
        random_state: int = 0,
    ) -> None:
        """Find and weigh neighbours as `sc_dask.pp.neighbors` does, whose parameters these are."""
        shell = AnnData(self._adata.X, obs=self._adata.obs[[]], var=self._adata.var, obsm=dict(self._adata.obsm))
        neighbors(
            shell,
            n_neighbors,
            n_pcs,
            use_rep=use_rep,
            knn=knn,
            transformer=transformer,
            method=method,
            metric=metric,
            metric_kwds=dict(metric_kwds or {}),
            random_state=random_state,
            compact=False,
        )
        self._connectivities, self._distances = shell.obsp["connectivities"], shell.obsp["distances"]
        self.knn, self.n_neighbors = knn, int(shell.uns["neighbors"]["params"]["n_neighbors"])
        self._transitions = self._steady = None

    @property
    def distances(self) -> Any:
        """Distances to the neighbours (n_obs, n_obs), or None."""
        return self._distances

    @property
    def connectivities(self) -> Any:
        """Weights of the graph (n_obs, n_obs), or None."""
        return self._connectivities

    def compute_transitions(self, *, density_normalize: bool = True) -> None:
        """Compute the transitions of a random walk on the graph (Coifman & Lafon 2006).

        Parameters
        ----------
        density_normalize
            Make the walk blind to how densely cells lie.

        Raises
        ------
        InputError
            There is no graph.
        """
        if self._connectivities is None:
            raise InputError("found no graph", "a neighbour graph", "call compute_neighbors() first")
        weights = sp.csr_matrix(self._connectivities)
        self._transitions, self._steady = diffusion.walk(weights, sees_density=not density_normalize)

    @property
    def transitions_sym(self) -> Any:
        """Symmetric transitions (n_obs, n_obs), or None."""
        return self._transitions

    @property
    def transitions(self) -> Any:
        """Transitions, which are not symmetric."""
        if self._transitions is None or self._steady is None:
            raise InputError("found no transitions", "those of the graph", "call compute_transitions() first")
        return sp.diags(diffusion.inverse(self._steady)) @ self._transitions @ sp.diags(self._steady)

    def compute_eigen(
        self,
        *,
        n_comps: int = 15,
        sym: bool | None = None,
        sort: Literal["decrease", "increase"] = "decrease",
        random_state: int = 0,
    ) -> None:
        """Compute the largest eigenvalues of the transitions and their vectors.

        Parameters
        ----------
        n_comps
            How many, at least 1.
        sym
            Transitions are symmetric in any case: None or True.
        sort
            ``"decrease"``: the largest, falling; ``"increase"``: the smallest, which is not offered.
        random_state
            Seed of the vector that the search begins with.
        """
        if sort != "decrease" or n_comps < 1 or sym is False:
            raise InputError(
                f"found sort={sort!r}, n_comps={n_comps}, sym={sym}",
                "the largest eigenvalues, at least one, of the symmetric transitions",
                "scipy.sparse.linalg.eigsh(graph.transitions_sym, which='SM')",
            )
        if self._transitions is None:
            raise InputError("found no transitions", "those of the graph", "call compute_transitions() first")
        first = diffusion.first_vector(self._adata.n_obs, random_state)
        values, vectors = diffusion.largest(self._transitions, n_comps, first)
        order = np.argsort(values)[::-1]
        self._spectrum = diffusion.Spectrum(values[order].astype("f4"), vectors[:, order].astype("f4"))

    @property
    def n_dcs(self) -> int | None:
        """How many diffusion components there are."""
        return None if self._spectrum is None else len(self._spectrum.values)

    @property
    def eigen_values(self) -> Any:
        """Eigenvalues of the transitions, falling, or None."""
        return None if self._spectrum is None else self._spectrum.values

    @property
    def eigen_basis(self) -> Any:
        """Their vectors (n_obs, n_comps), or None."""
        return None if self._spectrum is None else self._spectrum.vectors

    @property
    def distances_dpt(self) -> diffusion.Distances:
        """Diffusion distances (Haghverdi et al. 2016): ``distances_dpt[i]`` are those of a cell to all cells."""
        if self._spectrum is None:
            raise InputError("found no spectrum", "diffusion components", "call compute_eigen(), or tl.diffmap")
        from scipy.sparse.csgraph import connected_components

        n, labels = (1, None) if self._connectivities is None else connected_components(self._connectivities)
        return diffusion.Distances(self._spectrum, None if n == 1 else labels)

    def to_igraph(self) -> Graph:
        """Return the weighted graph as one of igraph."""
        import igraph

        upper = sp.triu(sp.csr_matrix(self._connectivities), format="coo")
        edges = np.column_stack([upper.row, upper.col])
        graph = igraph.Graph(n=self._adata.n_obs, edges=edges.tolist(), directed=False)
        graph.es["weight"] = upper.data.astype(np.float64)
        return graph
