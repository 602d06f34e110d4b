"""What depends on another library's version, or is not part of its public API: one file a library.

Every entry says which versions need it and when it can go, and has a test in ``tests/outside``. The rest of the project
uses public names alone. ``LIBRARIES.md`` of this folder is the list.
"""
