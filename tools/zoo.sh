#!/usr/bin/env bash
# Train networks of the zoo on one GPU, side by side: first stages, second stages, then another scale.
#
#   bash tools/zoo.sh OUT "nlsa nlsa+tfs gla" "0 1 2" [OPTIONS of dtfn train ...]
#
# Everything lies in OUT/NAME; what is finished is not trained again, so a script that was stopped goes
# on. Then `python tools/ship.py OUT` measures the networks and puts them into the zoo. Those of x2 and
# x3 start from the zoo's of x4, so they come after that: SCALES="2 3" bash tools/zoo.sh ...
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1" && cd "$1"
read -ra variants <<<"$2"
read -ra seeds <<<"$3"
shift 3
python=${PYTHON:-python3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

together() { # the networks named on standard input that are not finished
    mapfile -t names < <(LC_ALL=C sort -u | while read -r name; do
        [ -e "$name/weights.safetensors" ] || echo "$name"
    done)
    [ ${#names[@]} = 0 ] || "$python" -m dtfn train "${names[@]}" --side-by-side --resume --out . "$@"
}

scales=${SCALES:-4}
[[ $scales != *4* ]] || for seed in "${seeds[@]}"; do
    for variant in "${variants[@]}"; do echo "scratch-${variant%+tfs}-x4-s$seed"; done
done | sed s/scratch-dtfn-x/scratch-dtfn-notfs-x/ | together "$@"
for scale in $scales; do
    for seed in "${seeds[@]}"; do
        for variant in "${variants[@]}"; do echo "$variant-x$scale-s$seed"; done
    done | together "$@"
done
