"""Generation with vLLM, in child processes under the interpreter that has it.

vLLM pins its own torch, and does not give an accelerator's memory back before its process ends:
so it lives in an environment and a process of its own.
"""

import json
import os
import subprocess
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from wdl.branches.sources import reads_images
from wdl.branches.vision import with_parts
from wdl.data.encoding import encode_prompt
from wdl.errors import UserError
from wdl.generation.engine import Generation, Key, Request, Sampling
from wdl.generation.local_engine import LocalEngine, Prompt
from wdl.generation.vllm_options import VllmOptions
from wdl.system.child import Child, receive_any

WORKER = Path(__file__).with_name("vllm_worker.py")
_PROBE = """
import json
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
vllm = version(packages_distributions()["vllm"][0])
import torch
print(json.dumps({
    "version": vllm,
    "torch": torch.__version__,
    "device": "cuda" if torch.cuda.is_available() else "cpu",
    "torchvision": version("torchvision") if find_spec("torchvision") else None,
}))
"""


@cache
def describe_vllm(options: VllmOptions) -> dict[str, Any]:
    """What decides about rounding; asks the interpreter, once.

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


class VllmEngine(LocalEngine):
    """A model in one or more vLLM processes.

    Raises:
        UserError: The folder holds no model, or the interpreter has no vLLM.
    """

    def __init__(self, source: str, options: VllmOptions) -> None:
        super().__init__(source)
        self.options = options
        describe_vllm(options)  # refuses them if there is no vLLM
        self._children: list[Child] = []

    def software(self) -> dict[str, Any]:
        """Name, versions and what decides about rounding."""
        software = dict(describe_vllm(self.options))
        if not reads_images(self.config):
            del software["torchvision"]
        return software

    def check(self, requests: Sequence[Request], sampling: Sampling) -> dict[str, Any]:
        """As for every local model; pictures need torchvision beside vLLM."""
        pictures = any(request.images for request in requests)
        if pictures and not describe_vllm(self.options)["torchvision"]:
            raise UserError(
                f"vllm.python: {self.options.interpreter} has no torchvision, without which vLLM "
                "reads no pictures; install it there, or use --engine transformers"
            )
        return super().check(requests, sampling)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Collection[Key] = ()
    ) -> Iterator[list[Generation]]:
        """Answers to ``requests`` that are not ``done``, as they end."""
        prompts = self.prompts(requests, sampling)
        if not self._children:
            self._start()
        missing = [prompt for prompt in prompts if prompt.request.key not in done]
        copies = len(self._children)
        shares = {child: missing[copy::copies] for copy, child in enumerate(self._children)}
        for child, share in shares.items():
            if share:
                child.send(self._work(share, sampling))
        left = {child: len(share) for child, share in shares.items()}
        while waiting := [child for child, count in left.items() if count]:
            child, response = receive_any(waiting, self.options.limit)
            if response:
                left[child] -= 1
                request = shares[child][response["request"]].request
                stopped = response["finish_reason"] == "stop"
                yield [self.generation(request, response["tokens"], stopped)]

    def close(self) -> None:
        """End the processes, which gives back their memory."""
        for child in self._children:
            child.close()

    def _start(self) -> None:
        """Load the model, with room for everything that was checked."""
        on_cpu = self.software()["device"] == "cpu"
        arguments = {
            "model": self.source,
            "max_model_len": self.context,
            "max_num_seqs": self.options.max_num_seqs,
            "tensor_parallel_size": self.options.tensor_parallel_size,
            "gpu_memory_utilization": self.options.gpu_memory_utilization,
            "enforce_eager": on_cpu,
        }
        if reads_images(self.config):
            arguments["limit_mm_per_prompt"] = {"image": self.most_images, "video": 0}
        if on_cpu:
            # vLLM takes back a seeded draw after part of a prompt, which CPU generators cannot
            arguments["enable_chunked_prefill"] = False
        if self.options.tensor_parallel_size == 1:
            arguments["distributed_executor_backend"] = "uni"
        for copy in range(self.options.data_parallel_size):
            command = [self.options.interpreter, str(WORKER)]
            self._children.append(Child(command, _devices(self.options, copy)))
        for child in self._children:
            child.send(arguments)
        for child in self._children:
            child.receive(self.options.limit)

    def _work(self, prompts: Sequence[Prompt], sampling: Sampling) -> dict[str, Any]:
        """A line of input for the worker."""
        return {
            "requests": [
                {
                    "prompt": self._unseen(prompt),
                    "images": prompt.request.images,
                    "seed": sampling.seed_of(prompt.request) >> 32,
                }
                for prompt in prompts
            ],
            "sampling": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "stop_token_ids": list(self.stop_tokens),
                "detokenize": False,
            },
        }

    def _unseen(self, prompt: Prompt) -> list[int]:
        """Token ids with one for each picture, of which vLLM makes as many as it needs."""
        if not prompt.request.images:
            return prompt.tokens
        request = prompt.request
        return encode_prompt(self.tokenizer, with_parts(request.messages), request.template)


def _devices(options: VllmOptions, copy: int) -> dict[str, str]:
    """Environment that shows a copy of the model its own accelerators."""
    if options.data_parallel_size == 1:
        return {}
    size = options.tensor_parallel_size
    numbers = [str(number) for number in range(options.data_parallel_size * size)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[copy * size : (copy + 1) * size])}
