"""`headrace serve` for one conversation: a child process that ends with its parent, even if the parent is killed."""

import runpy
import sys

from engine.child_processes.lifetime import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    sys.argv[1:1] = ["serve"]
    runpy.run_module("server.cli", run_name="__main__", alter_sys=True)
