"""The graph stage at real sizes: neighbours, clusters, layout."""
