"""Principal components of a lazy X: solvers, the Gram matrix, Krylov spaces, and scores."""
