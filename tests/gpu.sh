#!/usr/bin/env bash
# What only a GPU can tell, in under five minutes and without a network: the tests marked gpu, how near
# the networks run to the card's limit, and a minute of side-by-side training that must lower the loss.
#
#   bash tests/gpu.sh [FOLDER]     # results and the tables go to FOLDER (default: build/gpu)
#
# It needs torch with CUDA and dtfn's dependencies; `python3` may be replaced by PYTHON=...
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-build/gpu}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

"$python" -m pytest -q -m gpu -p no:cacheprovider tests/test_models*.py tests/test_attention.py \
    tests/test_capture.py tests/test_training.py >"$out/tests.txt" 2>&1
tests=$?

"$python" -m dtfn bench --device cuda >"$out/bench.md" 2>"$out/bench.log"
bench=$?

rm -rf "$out/training" # of an earlier call: training goes into no folder that holds a run
"$python" -m dtfn train demo-local-x4-s0 demo-nlsa-x4-s0 demo-gla-x4-s0 demo-dtfn-x4-s0 \
    --side-by-side --minutes 1 --accelerator cuda --out "$out/training" \
    -p steps=2000 -p batch=16 -p warmup=100 -p validate_every=200 >"$out/training.log" 2>&1
training=$?

echo "== tests =="; tail -n 15 "$out/tests.txt"
echo "== training side by side =="
for file in "$out"/training/*/history.csv; do
    awk -F, -v name="$file" 'NR == 2 { first = $2 } END {
        print name ": " $1 " steps, " 1e3 * $5 " ms a round, loss " first " -> " $2 ", PSNR " $4 " dB"
        exit !(NR > 2 && $2 < first) }' "$file" || training=1
done
[ $training = 0 ] || tail -n 5 "$out/training.log"
echo "== bench =="; cat "$out/bench.md"; [ $bench = 0 ] || tail -n 5 "$out/bench.log"
echo "tests: $tests  bench: $bench  training: $training  (0 is good)"
exit $((tests | bench | training))
