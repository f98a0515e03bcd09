"""`python -m sample_project.services manage.py runserver`: run it with a Valkey and a gateway, which end with it."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack

from sample_project import services


def main() -> int:
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(services.running(dict(os.environ), log=sys.stderr))
        except RuntimeError as error:
            sys.exit(str(error))
        print(f"Card payments: keys in {environment['REDIS_URL']}, gateway at {environment['GATEWAY_URL']}/payments")
        sys.stdout.flush()
        command = subprocess.Popen([sys.executable, *sys.argv[1:]], env=environment)
        signal.signal(signal.SIGTERM, lambda *args: command.terminate())
        while True:
            try:
                return command.wait()
            except KeyboardInterrupt:
                pass  # Ctrl-C also reaches the command, which ends, and so do we


if __name__ == "__main__":
    sys.exit(main())
