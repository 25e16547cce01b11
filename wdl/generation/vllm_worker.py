"""Generates with vLLM, as a child process of :mod:`wdl.generation.vllm_engine`.

It runs under the interpreter that has vLLM, which need not have this project: nothing of wdl is
imported here. The first line of input holds the arguments of ``vllm.LLM``; each further line holds
requests, which are submitted some way ahead of what is answered. A line goes out for each answer as
soon as it ends, and at least one every few seconds as a sign of life.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections import deque
from typing import Any, TextIO

SIGN_OF_LIFE = 5.0
AHEAD = 2  # requests submitted for each that the model answers at a time; pictures are large


def build(arguments: dict[str, Any]) -> Any:
    """The engine, in this process alone: its process is already a child."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    import torch
    from vllm import LLM

    dtype = "auto" if torch.cuda.is_available() else "float32"
    return LLM(**arguments, dtype=dtype, disable_log_stats=True).llm_engine


def answer(engine: Any, work: dict[str, Any], out: TextIO) -> None:
    """Generate for all requests and write each answer when it ends."""
    from vllm import SamplingParams

    room = AHEAD * engine.vllm_config.scheduler_config.max_num_seqs
    waiting = deque(enumerate(work["requests"]))
    last = time.monotonic()
    while waiting or engine.has_unfinished_requests():
        while waiting and engine.get_num_unfinished_requests() < room:
            number, request = waiting.popleft()
            params = SamplingParams(**work["sampling"], seed=request["seed"])
            engine.add_request(str(number), prompt(request), params)
        ended = [output for output in engine.step() if output.finished]
        for output in ended:
            generated = output.outputs[0]
            response = {
                "request": int(output.request_id),
                "tokens": list(generated.token_ids),
                "finish_reason": generated.finish_reason,
            }
            print(json.dumps(response), file=out)
        if ended or time.monotonic() - last > SIGN_OF_LIFE:
            print("{}", file=out, flush=True)
            last = time.monotonic()


def prompt(request: dict[str, Any]) -> dict[str, Any]:
    """What vLLM reads; the pictures were checked by who asks."""
    from PIL import Image, ImageOps

    tokens = {"prompt_token_ids": request["prompt"]}
    if not request["images"]:
        return tokens
    images = [
        ImageOps.exif_transpose(Image.open(file)).convert("RGB") for file in request["images"]
    ]
    return {**tokens, "multi_modal_data": {"image": images}}


def main() -> None:
    """Serve until the input ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # be killed when the parent dies
    # What vLLM prints belongs on the error stream.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    engine = build(json.loads(sys.stdin.readline()))
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        answer(engine, json.loads(line), out)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules are not meant to be found by these names
    main()
