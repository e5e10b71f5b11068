#!/usr/bin/env bash
# Checks a machine with a GPU: the self-test of doctor, the demo on the node `cuda`, the tests that
# need a GPU, and figures. Needs no network.
# Requires `pip install -e '.[test,cuda]'`, in .venv or for the Python in PYTHON.
# Usage: benchmarks/gpu.sh [READS...]   (counts of simulated reads; 100000 and 1000000 if none)
# Ends with status 0 only if everything ran on a GPU and succeeded.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=$(command -v python3)
unset NUMBA_ENABLE_CUDASIM
failed=0
"$python" -c 'import numba_cuda, pynvml, pytest, wesemu.cli' || {
  echo "some packages are missing for $python; while online: pip install -e '.[test,cuda]'"
  exit 1
}

echo "== doctor"
"$python" -m wesemu.cli doctor --gpu --selftest || failed=1

echo "== demo"
log=$(mktemp)
"$python" -m wesemu.cli demo --node cuda --no-keep | tee "$log" || failed=1
grep -q SIMULATED "$log" && { echo "the demo used no GPU"; failed=1; }

echo "== tests/gpu"
# a skipped test is a failure on a machine with a GPU; -rs shows the reasons
"$python" -m pytest -q -rs -p no:cacheprovider tests/gpu | tee "$log" || failed=1
grep -q skipped "$log" && { echo "some tests were skipped"; failed=1; }
rm -f "$log"

echo "== figures"
[ $# -gt 0 ] || set -- 100000 1000000
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for reads in "$@"; do
  "$python" - "$folder/reads.fq" "$reads" <<'PYTHON' || { failed=1; continue; }
import sys
from pathlib import Path

from wesemu.genomics.histograms import write_random

write_random(Path(sys.argv[1]), int(sys.argv[2]))
PYTHON
  "$python" -m wesemu.genomics.gpu_selftest "$folder/reads.fq" --report "$folder/gpu.json" ||
    { failed=1; continue; }
  "$python" - "$folder/gpu.json" <<'PYTHON' || failed=1
import json
import sys
from pathlib import Path

report = json.loads(Path(sys.argv[1]).read_text())
print(json.dumps({name: report[name] for name in ("device", "reads", "bases", "equal", "seconds")}))
sys.exit(0 if report["equal"] and not report["simulated"] else 1)
PYTHON
done
exit $failed
