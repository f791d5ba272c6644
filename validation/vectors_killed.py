"""Do test vectors survive kills? The bytes after many, against those of an uninterrupted run.

Run ``python validation/vectors_killed.py`` with the package and python-flint installed (about two
minutes on two cores). It writes vectors once without a disturbance; then again, and kills all of
its processes (SIGKILL) at random moments, starting it anew each time. It ends with 1 if a byte
differs, or a file is left over.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="vectors (1,000)")
    parser.add_argument("--kills", type=int, default=20, help="times (20)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    settings = ["--families", "all", "--count", options.count, "--workers", options.workers]

    def started(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tabular_bilevel", "vectors", "write", out, *settings]
        return subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, start_new_session=True
        )

    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder, "whole"), Path(folder, "cut")
        before, used = time.monotonic(), os.times()
        if started(whole).wait() != 0:
            return 1
        length = time.monotonic() - before
        cpu = sum(os.times()[2:4]) - sum(used[2:4])
        print(f"{options.count} vectors in {length:.1f} s, {cpu:.1f} s of processor time")
        for _ in range(options.kills):
            process = started(cut)
            # what a start costs comes on top of a twentieth of the work
            time.sleep(rng.uniform(0.0, 3.0 + 1.5 * length / options.kills))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            files = len(list(cut.glob("*.npz"))) if cut.exists() else 0
            done = " (finished)" if (cut / "manifest.json").exists() else ""
            print(f"killed with {files} files{done}", flush=True)
        if started(cut).wait() != 0:
            return 1
        names = [sorted(path.name for path in out.iterdir()) for out in (whole, cut)]
        same = names[0] == names[1] and all(
            (whole / name).read_bytes() == (cut / name).read_bytes() for name in names[0]
        )
    print(f"{len(names[0])} files: {'the same bytes' if same else 'DIFFERENT'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
