"""
Other packages whose records can be imported: each file says where its rows are, and what a row becomes.

Nothing of another package is imported: it may be uninstalled already.
"""
