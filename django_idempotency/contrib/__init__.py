"""
Packages that this one does not need: each module imports one, and is imported by the projects that use it.

A module of this room is an edge, like `rest_framework`. `spectacular` is imported by `apps`, where it is installed.
"""
