"""The pure core: it decides, and touches nothing.  No OS, no clock, no log is imported here."""
