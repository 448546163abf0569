"""Replaces nemo_srlm.launch.torchrun, without torch: starts this node's ranks, kills the rest when one fails."""

import argparse
import os
import signal
import subprocess
import sys
import time

from nemo_srlm.launch.contract import EXIT_AGAIN, EXIT_USER, TRAIN_WORKER


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir")
    parser.add_argument("ref")
    for name in ("--nnodes", "--node-rank", "--nproc-per-node", "--master-port"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--master-addr", required=True)
    args = parser.parse_args()
    command = [sys.executable, "-m", TRAIN_WORKER, args.run_dir, args.ref]
    signal.signal(signal.SIGTERM, lambda *_: None)
    ranks = [
        subprocess.Popen(command, env=os.environ | {"RANK": str(args.node_rank * args.nproc_per_node + i)})
        for i in range(args.nproc_per_node)
    ]
    while any(r.poll() is None for r in ranks):
        if any(r.poll() for r in ranks):
            time.sleep(0.5)  # like torchrun, which gives the others some time
            for r in ranks:
                r.kill()
        time.sleep(0.1)
    codes = {r.wait() for r in ranks}
    return next((code for code in (EXIT_AGAIN, EXIT_USER) if code in codes), int(codes != {0}))


if __name__ == "__main__":
    sys.exit(main())
