"""Linux, one concept a file.  Each names the man page that its behaviour comes from."""
