"""How a store is written: names, columns, layout, shards, and one moment in which it is whole."""
