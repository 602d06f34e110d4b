"""Nearest neighbours: exact and approximate search among all cells, and of new cells among those of a reference."""
