#!/bin/sh
# Records every committed golden file anew: run from anywhere, with the environment of README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
golden=$root/crates/engine/tests/golden
demo=$root/crates/hub/demo/shoal-demo.gguf
models=$(mktemp -d)
trap 'rm -r "$models"' EXIT
mkdir -p "$golden"

record() { # NAME.gguf NAME.golden [OPTION...]
    gguf=$1 name=$2
    shift 2
    python3 "$here/golden.py" "$gguf" -o "$golden/$name.golden" "$@"
}

if [ "${1:-all}" != demo ]; then
    for shape in tiny-llama3 tiny-tinyllama tiny-qwen2 tiny-qwen2-224 tiny-qwen3 tiny-phi3; do
        for type in f16 q4_k_m; do
            (cd "$root" && cargo run -q --release -p xtask -- synth "$shape" --type "$type" -o "$models/$shape-$type.gguf")
            record "$models/$shape-$type.gguf" "$shape-$type" --noise
        done
    done
    # Above the original context of 512 Phi 3 takes its long factors, from the first position on.
    for type in f16 q4_k_m; do
        record "$models/tiny-phi3-$type.gguf" "tiny-phi3-$type-long" --context 1024 --noise
    done
fi
record "$demo" shoal-demo --text "$here/prompts/demo-text.txt" --context 1024 --noise
python3 "$here/golden.py" "$demo" --greedy 128 --chat --context 1024 \
    --prompts "$here/prompts/demo-questions.txt" -o "$golden/shoal-demo.greedy.tsv"
