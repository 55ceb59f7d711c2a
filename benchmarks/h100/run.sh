#!/usr/bin/env bash
# Checks and times everything that needs a GPU, in under eight minutes on an H100:
#
#   benchmarks/h100/run.sh FOLDER           # figures, card and commands go there
#   benchmarks/h100/run.sh FOLDER --tiny    # the same commands at sizes for a CPU, to try the script
#
# WHEELS=FOLDER names wheels for a machine without a network (jsonargparse, transformers, ...); PYTHON the interpreter.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?a folder for the results}
tiny=${2:-}
python=${PYTHON:-python3}
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then
    "$python" -m venv --system-site-packages "$out/venv"
    python="$out/venv/bin/python"
    "$python" -m pip install -q --no-index --find-links "$WHEELS" "$WHEELS"/*.whl
fi
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
"$python" - > "$out/machine.txt" <<'PY'
import lightning, platform, torch
print(torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu")
print("python", platform.python_version(), "torch", torch.__version__, "lightning", lightning.__version__)
PY
failed=0

note() { # NAME COMMAND...: run it, keep what it prints and the command, go on if it fails
    local name=$1
    shift
    echo "$*" >> "$out/commands.txt"
    echo "== $name: $(date +%T)"
    if ! timeout 150 "$@" > "$out/$name.txt" 2>&1; then
        echo "   failed: $out/$name.txt"
        failed=1
    fi
    tail -n 1 "$out/$name.txt" | cut -c 1-300
}

bench() { # NAME RECIPE BATCH [OPTIONS...]
    local name=$1 recipe=$2 batch=$3
    shift 3
    note "$name" "$python" -m d2v.cli bench --config "$recipe" --batch_size "$batch" --output "$out/$name" "$@"
}

# What must be right before anything is timed.
note tests "$python" -m pytest -q -p no:cacheprovider tests/model/test_grouped_convolution.py tests/model/test_speed.py

if [ "$tiny" = --tiny ]; then
    note convolutions "$python" benchmarks/h100/grouped_convolution.py --tiny
    options=(--precision 32 --steps 2)
    bench vision_demo demo/vision.yaml 8 "${options[@]}"
    bench text_demo demo/text.yaml 1024 "${options[@]}" --compile true
    exit $failed
fi

note convolutions "$python" benchmarks/h100/grouped_convolution.py
# Published batches of one GPU (benchmarks/README.md, "On a GPU").
options=(--precision bf16 --steps 10)
bench v2_vision v2/vision.yaml 64 "${options[@]}" --peers
bench v2_speech v2/speech.yaml 62.5 "${options[@]}" --peers
bench v2_text v2/text.yaml 8192 "${options[@]}" --peers
bench v1_vision vision.yaml 128 "${options[@]}" --peers
bench v1_speech speech.yaml 237.5 "${options[@]}" --peers
bench v1_text text.yaml 8192 "${options[@]}" --peers
bench v2_vision_compiled v2/vision.yaml 64 "${options[@]}" --compile true
bench v2_speech_compiled v2/speech.yaml 62.5 "${options[@]}" --compile true --lengths drawn
bench v1_text_compiled text.yaml 8192 "${options[@]}" --compile true
exit $failed
