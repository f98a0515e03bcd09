"""
Packages that this one does not need: each module imports one, and is imported by the projects that use it.

A module of this room is an edge, like `rest_framework`: an adapter, and where its decorator may stand; or an app that
observes the engine, and is turned on in `INSTALLED_APPS`. `spectacular` is imported by `apps`, where it is
installed.
"""
