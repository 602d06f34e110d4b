"""The gene-major copy of a lazy X: its files, and the verb that works on whole genes."""
