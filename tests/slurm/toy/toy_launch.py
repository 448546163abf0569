"""A launcher with torchrun's flags, without torch: starts the ranks of this node, kills the others when one fails."""

import argparse
import os
import signal
import subprocess
import sys
import time


def main():
    parser = argparse.ArgumentParser()
    for name in ("--nnodes", "--node-rank", "--nproc-per-node", "--master-port"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--master-addr", required=True)
    args, rest = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: None)
    ranks = [
        subprocess.Popen(
            [sys.executable, *rest], env=os.environ | {"RANK": str(args.node_rank * args.nproc_per_node + i)}
        )
        for i in range(args.nproc_per_node)
    ]
    while any(r.poll() is None for r in ranks):
        if any(r.poll() for r in ranks):
            time.sleep(0.5)  # like torchrun, which gives the others some time
            for r in ranks:
                r.kill()
        time.sleep(0.1)
    codes = {r.wait() for r in ranks}
    return 75 if 75 in codes else 2 if 2 in codes else int(codes != {0})


if __name__ == "__main__":
    sys.exit(main())
