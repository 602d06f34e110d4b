"""The landmark graph: a neighbour graph in shards on disk, and its cells grouped into landmarks in memory."""
