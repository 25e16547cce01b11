"""Generation with vLLM, in child processes under the interpreter that has it.

vLLM pins its own torch, and does not give an accelerator's memory back before its process ends:
so it lives in an environment and a process of its own.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from wdl.errors import UserError
from wdl.generation.engine import Generation, Sampling
from wdl.generation.requests import Request
from wdl.generation.vllm_options import VllmOptions
from wdl.system.child import Child, receive_any

WORKER = Path(__file__).with_name("vllm_worker.py")
_PROBE = """
import json
from importlib.metadata import packages_distributions, version
vllm = version(packages_distributions()["vllm"][0])
import torch
print(json.dumps({
    "version": vllm,
    "torch": torch.__version__,
    "device": "cuda" if torch.cuda.is_available() else "cpu",
}))
"""


def describe_vllm(options: VllmOptions) -> dict[str, Any]:
    """What decides about rounding, for the record.

    Raises:
        UserError: The interpreter is not there, or has no vLLM.
    """
    try:
        probe = subprocess.run(
            [options.interpreter, "-c", _PROBE], capture_output=True, text=True, check=True
        )
    except OSError as error:
        raise UserError(f"vllm.python: {options.interpreter} does not start ({error})") from None
    except subprocess.CalledProcessError:
        raise UserError(
            f"vllm.python: {options.interpreter} has no vLLM; name the interpreter of an "
            "environment that has it, or use --engine transformers"
        ) from None
    return {
        "name": "vllm",
        **json.loads(probe.stdout),
        "tensor_parallel_size": options.tensor_parallel_size,
        "max_num_seqs": options.max_num_seqs,
    }


class VllmEngine:
    """A model in one or more vLLM processes.

    Args:
        source: Model folder or hub name.
        context: Longest prompt and answer together, in tokens.
        options: Where vLLM is and what it may use.

    Raises:
        ChildFailure: vLLM did not start.
    """

    def __init__(self, source: str, context: int, options: VllmOptions) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.limit = options.limit
        arguments = {
            "model": source,
            "max_model_len": context,
            "max_num_seqs": options.max_num_seqs,
            "tensor_parallel_size": options.tensor_parallel_size,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "enforce_eager": describe_vllm(options)["device"] == "cpu",
        }
        if options.tensor_parallel_size == 1:
            arguments["distributed_executor_backend"] = "uni"
        self._children = [
            Child([options.interpreter, str(WORKER)], _devices(options, copy))
            for copy in range(options.data_parallel_size)
        ]
        for child in self._children:
            child.send(arguments)
        for child in self._children:
            child.receive(self.limit)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Collection[tuple[str, int]] = (),
    ) -> Iterator[list[Generation]]:
        """Answers to ``requests`` that are not ``done``, as they end."""
        missing = [request for request in requests if request.key not in done]
        copies = len(self._children)
        shares = {
            child: missing[copy::copies]
            for copy, child in enumerate(self._children)
            if missing[copy::copies]
        }
        for child, share in shares.items():
            child.send(_work(share, sampling))
        left = {child: len(share) for child, share in shares.items()}
        while waiting := [child for child, count in left.items() if count]:
            child, response = receive_any(waiting, self.limit)
            if response:
                left[child] -= 1
                yield [self._generation(shares[child][response["request"]], response, sampling)]

    def close(self) -> None:
        """End the processes, which gives back their memory."""
        for child in self._children:
            child.close()

    def _generation(
        self, request: Request, response: dict[str, Any], sampling: Sampling
    ) -> Generation:
        tokens = response["tokens"]
        stopped = response["finish_reason"] == "stop"
        answer = tokens[:-1] if stopped and tokens[-1] in sampling.stop_tokens else tokens
        return Generation(
            id=request.id,
            sample=request.sample,
            text=str(self.tokenizer.decode(answer, skip_special_tokens=True)),
            finish_reason="stop" if stopped else "length",
            tokens=tokens,
            first_logprob=response["first_logprob"],
        )


def _work(requests: Sequence[Request], sampling: Sampling) -> dict[str, Any]:
    """A line of input for the worker."""
    return {
        "requests": [
            {"prompt": request.prompt, "seed": _seed(request, sampling)} for request in requests
        ],
        "sampling": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(sampling.stop_tokens),
            "detokenize": False,
        },
    }


def _seed(request: Request, sampling: Sampling) -> int:
    """A seed for each answer, so that it does not depend on the others."""
    name = f"{sampling.seed}/{request.id}/{request.sample}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _devices(options: VllmOptions, copy: int) -> dict[str, str]:
    """Environment that shows a copy of the model its own accelerators."""
    if options.data_parallel_size == 1:
        return {}
    size = options.tensor_parallel_size
    numbers = [str(number) for number in range(options.data_parallel_size * size)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[copy * size : (copy + 1) * size])}
