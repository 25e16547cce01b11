"""The ``wdl`` command.

``fit`` and ``validate`` are Lightning's, configured by YAML files; the other verbs are functions
whose signatures are their options. Mistakes of the user end in one line each and exit code 2.
"""

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from wdl.errors import UserError
from wdl.system.imports import without_extras
from wdl.system.processes import (
    check_launcher,
    end_with_parent_if_told,
    rank,
    stay_with_first_rank,
)

VERBS = {
    "fit": "train the strong branch of a pair, export it and grade it",
    "plan": "memory, hours and disk that a fit will need, without weights or GPUs",
    "validate": "validation metrics of a checkpoint",
    "export": "write the strong branch of a checkpoint as a Hugging Face folder",
    "evaluate": "grade the answers of one or more models on benchmarks",
    "chat": "talk to a model at the prompt",
    "compare": "test whether evaluated models are better than the first",
    "pool": "the questions of any data set",
    "sample": "attempts of a model at the questions of a pool",
    "grade": "whether attempts are right",
    "keep": "right attempts, as rows to fine-tune on",
    "pairs": "right and wrong attempts at the same questions, to prefer the former",
    "enhance": "a teacher's questions like those that failed",
    "next-pool": "the questions of the next round",
    "prompts": "questions with verifiable answers, for reinforcement learning elsewhere",
    "prepare": "verified samples of AM-DeepSeek-R1-Distilled, as one file",
    "score": "entropy of every sample under a model, as a file",
    "pipeline": "run stages in order, skipping what is done",
    "pipeline status": "what has become of each stage",
    "tiny": "write the embedded default: tiny Qwen3, tokenizer and arithmetic data",
    "pictures": "write the pictures of the embedded default, and questions about them",
}
# that a launcher may start as several processes; the others would do everything several times
RANKED = ("fit", "validate", "score")
# imported on demand, since some of them import torch
FUNCTIONS = {
    "export": ("wdl.training.export", "export_checkpoint"),
    "evaluate": ("wdl.evaluation.run", "evaluate"),
    "chat": ("wdl.generation.chat", "chat"),
    "compare": ("wdl.evaluation.compare", "compare"),
    "pool": ("wdl.rounds.sets", "pool"),
    "sample": ("wdl.rounds.sample", "sample"),
    "grade": ("wdl.rounds.grade", "grade"),
    "keep": ("wdl.rounds.keep", "keep"),
    "pairs": ("wdl.rounds.pairs", "pairs"),
    "enhance": ("wdl.rounds.enhance", "enhance"),
    "next-pool": ("wdl.rounds.next_pool", "next_pool"),
    "prompts": ("wdl.rounds.prompts", "prompts"),
    "prepare": ("wdl.rounds.prepare", "prepare"),
    "score": ("wdl.data.score", "score"),
    "pipeline": ("wdl.pipeline.commands", "run_pipeline"),
    "pipeline status": ("wdl.pipeline.commands", "show_status"),
    "tiny": ("wdl.tiny.model", "write_tiny"),
    "pictures": ("wdl.tiny.pictures", "write_pictures"),
}

USAGE = f"""usage: wdl VERB [options]

Weak-driven post-training: make a language model better with nothing but its own weaker past.

verbs:
{os.linesep.join(f"  {verb:<15} {text}" for verb, text in VERBS.items())}

wdl VERB --help           lists the options of a verb
wdl VERB --print_config   writes them as YAML
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ``args`` defaults to the process's own."""
    args = list(sys.argv[1:] if args is None else args)
    end_with_parent_if_told()
    for stream in (sys.stdout, sys.stderr):  # a sign that a terminal has not is better than an end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # threads that spin while they wait for each other slow a busy machine down several times
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own classes; last, so that they hide no library
    if args == ["--parse"]:  # for ``wdl pipeline``
        print(json.dumps([_parse(words) for words in json.load(sys.stdin)]))
        return
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        raise SystemExit(0 if args else 2)
    try:
        _run(args)
    except UserError as error:
        _report(error)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def _run(args: list[str]) -> None:
    length = 2 if " ".join(args[:2]) in VERBS else 1
    verb, rest = " ".join(args[:length]), args[length:]
    if verb not in VERBS:
        raise UserError(f"{verb}: there is no such verb; choose from {', '.join(VERBS)}")
    if verb in RANKED:
        check_launcher()
    if rank() and verb not in RANKED:
        raise UserError(f"wdl {verb} is one process, and was started as several; start one")
    if verb in ("fit", "validate"):
        stay_with_first_rank()
        with without_extras():
            from wdl.fit import run
        run(args)
    elif verb == "plan":
        with without_extras():
            from wdl.fit import run
            from wdl.planning.command import PlanCLI
        run(["fit", *rest], PlanCLI)
    else:
        function, parser = function_parser(verb)
        options: dict[str, Any] = parser.instantiate(parser.parse_args(rest)).as_dict()
        options.pop("config", None)
        function(**options)


def function_parser(verb: str) -> tuple[Callable[..., None], Any]:
    """What a verb of ``FUNCTIONS`` calls, and the parser of its options."""
    from wdl.config.parser import PlainParser

    module, name = FUNCTIONS[verb]
    function = getattr(import_module(module), name)
    parser = PlainParser(prog=f"wdl {verb}", description=VERBS[verb])
    parser.add_argument("--config", action="config", help="YAML file with these options.")
    if verb == "compare":
        folders = "Folders OUT/MODEL of evaluations; the first is the model to beat."
        parser.add_argument("models", nargs="+", help=folders)
        parser.add_function_arguments(function, skip={"models"})
    elif verb == "chat":
        parser.add_argument("model", help="Folder, name on the hub, or what --url calls it.")
        parser.add_function_arguments(function, skip={"model"})
    else:
        parser.add_function_arguments(function)
    return function, parser


def _parse(words: list[str]) -> dict[str, Any]:
    """What a command line reads, and where a fit writes to; or what is wrong with it."""
    from wdl.config.paths import addresses_in, paths_in

    verb, options = words[0], words[1:]
    if verb not in VERBS:
        return {"faults": [f"{verb}: there is no such verb; choose from {', '.join(VERBS)}"]}
    if verb == "plan":
        return {"faults": ["wdl plan trains nothing; leave the stage out, and run it beforehand"]}
    try:
        if verb in FUNCTIONS:
            config = function_parser(verb)[1].parse_args(options)
        else:
            with without_extras():
                from wdl.fit import parse
            config = parse(words)
    except UserError as error:
        return {"faults": error.lines()}
    except SystemExit:  # --help, --print_config
        return {"faults": [f"wdl {' '.join(words)} runs nothing; leave the stage out"]}
    folder = os.path.abspath(os.path.join(config.runs, config.name)) if verb == "fit" else None
    inputs, addresses = (  # by option as users write it
        {name.replace(".init_args", ""): text for name, text in found(config.as_dict())}
        for found in (paths_in, addresses_in)
    )
    return {"inputs": inputs, "addresses": addresses, "folder": folder}


def _report(error: UserError) -> NoReturn:
    """One line per fault on the error stream, once."""
    number = rank()
    if number:
        # the first process ends at once if it has met the same fault, and takes this one along
        time.sleep(3)
    prefix = f"wdl: error in process {number}" if number else "wdl: error"
    for line in error.lines():
        print(f"{prefix}: {_shorten(line)}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _shorten(line: str) -> str:
    """Paths below the current folder as the user would write them."""
    return line.replace(f"{Path.cwd()}{os.sep}", "")
