"""`d2v prepare text` beside `datasets.map`: tokens a second and memory, with the same tokenizer on the same text.

    python benchmarks/text_prepare.py --input RAW.txt --megabytes 1000 [--num_workers 2] [--vocab_size 50260]

Makes a corpus of the size asked from a file of text (its lines, one document each, with a number at the beginning of
each so that no two are the same), prepares it, and encodes it again with ``datasets`` as its documentation has it:
``load_dataset("text")``, then ``map(batched=True, num_proc=2)`` with a fast tokenizer of ``transformers``. Each part
runs in a process of its own; memory is that of the process and all that it starts (proportional shares, so that shared
pages count once), sampled twice a second. The last line is one JSON object.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PREPARE = "d2v prepare text"
DATASETS = "datasets.map"


def write_corpus(source: Path, target: Path, megabytes: int) -> None:
    """Repeat the lines of ``source`` until ``target`` has the size."""
    lines = [line for line in source.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    left = megabytes * 1_000_000
    with target.open("w", encoding="utf-8") as file:
        for number, line in enumerate(itertools.cycle(lines)):
            left -= file.write(f"No. {number}: {line}\n\n")
            if left <= 0:
                return


def watched(command: list[str], environment: dict[str, str]) -> tuple[str, float, float]:
    """Run a command: what it printed, its seconds, and the most memory in GB that it and its children had at once."""
    start, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, env={**os.environ, **environment})
        while process.poll() is None:
            most = max(most, memory(psutil.Process(process.pid)))
            time.sleep(0.5)
        if process.returncode:
            sys.exit(process.returncode)
        seconds = time.perf_counter() - start
        said.seek(0)
        return said.read(), seconds, most / 1e9


def memory(process: psutil.Process) -> int:
    """Bytes of a process and its children, pages that they share divided among them."""
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_full_info().pss
    except psutil.Error:  # one has ended meanwhile
        pass
    return total


def encode_with_datasets(corpus: str, tokenizer_file: str, num_workers: int, cache: str) -> None:
    """What the documentation of ``datasets`` and ``transformers`` shows; prints tokens and seconds."""
    from datasets import load_dataset
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_file)
    lines = load_dataset("text", data_files=corpus, split="train", cache_dir=cache)

    def encode(batch: dict[str, list[str]]) -> dict[str, list]:
        encoded = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False)
        return {"input_ids": encoded["input_ids"]}

    start = time.perf_counter()
    encoded = lines.map(encode, batched=True, num_proc=num_workers, remove_columns=["text"])
    seconds = time.perf_counter() - start
    tokens = sum(len(ids) for batch in encoded.data["input_ids"].chunks for ids in batch)
    print(json.dumps({"tokens": tokens, "seconds": seconds}))


def main() -> None:
    """Both parts, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="a file of text, a document a line")
    parser.add_argument("--megabytes", type=int, default=100, help="size of the corpus (100)")
    parser.add_argument("--num_workers", type=int, default=2, help="processes of each (2)")
    parser.add_argument("--vocab_size", type=int, default=50260)
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder, which is removed)")
    parser.add_argument("--datasets", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.datasets:
        encode_with_datasets(str(args.input), args.datasets[0], args.num_workers, args.datasets[1])
        return
    folder = Path(tempfile.mkdtemp(prefix="text_prepare_", dir=args.folder))
    try:
        print(json.dumps(compare(args, folder)))
    finally:
        shutil.rmtree(folder)


def compare(args: argparse.Namespace, folder: Path) -> dict:
    """Run both and put their figures side by side."""
    corpus, output = folder / "corpus.txt", folder / "shards"
    write_corpus(args.input, corpus, args.megabytes)
    workers = ["--num_workers", str(args.num_workers)]
    prepare = [sys.executable, "-m", "d2v.cli", "prepare", "text", "--input", str(corpus), "--output"]
    said, seconds, gigabytes = watched([*prepare, str(output), "--vocab_size", str(args.vocab_size), *workers], {})
    print(said)
    # Once more with the tokenizer at hand, so that only the encoding is compared; start of the processes included.
    again, given = folder / "again", ["--tokenizer", str(output / "tokenizer.json")]
    _, encoding, _ = watched([*prepare, str(again), *given, *workers], {})
    index = json.loads((again / "index.json").read_text())
    tokens = sum(entry["tokens"] for split in index["splits"].values() for entry in split)
    ours = {
        "tokens": tokens,
        "encoding_seconds": round(encoding, 1),
        "tokens_per_second": round(tokens / encoding),
        "all_seconds": round(seconds, 1),
        "peak_memory_gb": round(gigabytes, 2),
    }
    command = [sys.executable, __file__, "--input", str(corpus), *workers, "--datasets", str(output / "tokenizer.json")]
    said, seconds, gigabytes = watched([*command, str(folder / "cache")], {"TOKENIZERS_PARALLELISM": "false"})
    figures = json.loads(said.strip().split("\n")[-1])
    theirs = {
        "tokens": figures["tokens"],
        "encoding_seconds": round(figures["seconds"], 1),
        "tokens_per_second": round(figures["tokens"] / figures["seconds"]),
        "all_seconds": round(seconds, 1),
        "peak_memory_gb": round(gigabytes, 2),
    }
    return {
        "megabytes": args.megabytes,
        "num_workers": args.num_workers,
        PREPARE: ours,
        DATASETS: theirs,
        "times_faster": round(ours["tokens_per_second"] / theirs["tokens_per_second"], 2),
    }


if __name__ == "__main__":
    main()
