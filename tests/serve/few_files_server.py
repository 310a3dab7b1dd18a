"""A server that may open few files: few_files_server.py FOLDER."""

import resource
import sys

from touchstone.cli.main import main

N_FILES = 260

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (N_FILES, N_FILES))
    sys.exit(main(["serve", sys.argv[1], "--port", "0"]))
