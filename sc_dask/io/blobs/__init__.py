"""Bytes of files: where they are, how they are fetched and decoded."""
