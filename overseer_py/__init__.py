"""overseer: runs any server, replaces it without losing a request, rolls back what fails."""

__version__ = "0.1.0"
