#!/usr/bin/env bash
# The official code from packages, for benchmarks/official.py:  benchmarks/official_packages.sh FOLDER
# Nothing of it enters the environment of d2v; fairseq 0.12.2 (June 2022) is patched to import under Python 3.11.
set -euo pipefail
mkdir -p "$1" && cd "$1"
python3 -m venv build && build/bin/pip install -q 'setuptools<70' wheel 'cython<3' numpy
build/bin/pip download -q --no-deps --no-build-isolation --no-binary fairseq fairseq==0.12.2
build/bin/pip download -q --no-deps funasr==1.4.16
build/bin/pip install -q --no-deps --target . omegaconf==2.3.0 hydra-core==1.3.2 antlr4-python3-runtime==4.9.3 \
    bitarray sacrebleu regex portalocker tabulate colorama lxml cffi
tar xzf fairseq-0.12.2.tar.gz && mv fairseq-0.12.2/fairseq fairseq && python3 -m zipfile -e funasr-*.whl .
cd fairseq
sed -i -E 's/^(    [a-z_0-9]+: [A-Za-z]+ = )([A-Z][A-Za-z]*Config)\(\)$/\1field(default_factory=\2)/' \
    dataclass/configs.py models/transformer/transformer_config.py examples/data2vec/models/data2vec_text.py
sed -i -E 's/field\(default=([A-Z][A-Za-z]*Config)\(\)/field(default_factory=\1/' models/transformer/*.py
sed -i 's/^def hydra_init(.*$/&\n    return  # it reads defaults of dataclasses/' dataclass/initialize.py
echo "PYTHONPATH=$1:src:benchmarks .venv/bin/python benchmarks/official.py ..."
