"""New versions by themselves: look, fetch, verify, install.  A process of its own, the updater.

Nothing here is ever imported by the master.
"""
