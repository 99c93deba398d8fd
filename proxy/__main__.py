"""`python -m proxy COMMAND`."""

import sys

try:
    from proxy.cli.main import main
except ModuleNotFoundError as missing:
    if missing.name is None or missing.name.startswith("proxy"):
        raise
    sys.exit(f"{missing.name} is not installed; run `{sys.executable} -m pip install -r requirements.txt`")

main(prog_name="python -m proxy")
