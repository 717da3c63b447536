"""Writes to stdout and stderr as it is told, then serves at fd 3."""

import os
import sys

sys.path.insert(0, os.environ["EXAMPLES"])

import hello

what = sys.argv[1]
if what == "lines":
    print("out one", flush=True)
    sys.stderr.write("err one\nerr \xe9\n")
    sys.stderr.buffer.write(b"raw \xff\xfe bytes\nunfinished")
    sys.stderr.flush()
elif what == "flood":
    line = b"x" * 1023 + b"\n"
    for _ in range(int(sys.argv[2])):
        os.write(2, line * 1024)
elif what == "long":
    for _ in range(int(sys.argv[2])):
        os.write(2, b"y" * (1 << 20))
    os.write(2, b"\nend of it\n")
hello.main()
