"""What runs an answer's functions against its problem's tests, inside the sandbox.

Only its text is used, behind the line ``ANSWER = ...``. The tests, and the token that says that all
of them passed, come over a pipe after the answer's own lines have run: then there is nothing yet
to read, patch or print, and what ends the process then, or later, leaves no token. Before the
tests, everything that the answer has put into ``builtins`` and ``unittest`` is taken out again, as
are its tracers, timers, signal handlers and exit functions; an answer that has left a thread
behind, or changes them again during the tests, fails. Python code of the answer may not walk
frames or the garbage collector.

An answer and its tests share one process, as their sets mean them to. So this does not stop code
that knows this file and looks for the token in its own memory (by ctypes, say), nor an object
whose ``__eq__`` is always true where a test compares by ``==``.
"""


def _main() -> None:
    import builtins
    import contextlib
    import gc
    import json
    import os
    import signal
    import sys
    import threading
    import types
    import unittest

    answer = globals().pop("ANSWER")  # "parts" of code, and the "style"
    style, leave, write, read = answer["style"], os._exit, os.write, os.read
    dumps, loads, run, translate = json.dumps, json.loads, exec, compile
    kept_classes = (
        unittest.TestCase,
        unittest.TestResult,
        unittest.TestSuite,
        unittest.TestLoader,
        json.JSONEncoder,
        json.JSONDecoder,
    )
    kept: list = [(builtins, dict(vars(builtins)))]
    kept += [(one, dict(vars(one))) for one in (unittest, unittest.case, *kept_classes)]
    threads, walk, settrace, setprofile = (
        *(sys._current_frames, sys._getframe),
        *(sys.settrace, sys.setprofile),
    )
    libraries = (sys.base_prefix, "<frozen", "<program>", *sys.path[-2:])
    suspects = {"gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys._current_frames"}
    suspects |= {"sys._getframe", "object.__getattr__"}
    insides = {"f_code", "tb_frame", "gi_code", "cr_code", "ag_code"}
    guard = threading.local()

    def look(event: str, given: tuple) -> None:
        if event not in suspects or getattr(guard, "busy", False):
            return
        if event == "object.__getattr__" and given[1] not in insides:
            return
        guard.busy = True
        try:
            file = walk(1).f_code.co_filename
        finally:
            guard.busy = False
        if not file.startswith(libraries):
            raise RuntimeError(f"{event} is not for answers")

    def tell(**found: object) -> None:
        rest = memoryview((dumps(found) + "\n").encode())
        while rest:
            rest = rest[write(3, rest) :]

    def fail(test: str, error: BaseException) -> None:
        kind = type(error)
        try:
            said = str(error)[:300]
        except BaseException:
            said = ""
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        tell(failed=test, error=str(kind.__name__)[:100], said=said, missing=missing)
        leave(0)

    def changed() -> list:
        return [
            (place, name, was.get(name))
            for place, was in kept
            # modules may get more names, as by ``import unittest.mock``
            for name in ({*was, *vars(place)} if isinstance(place, type) else {*was} - {"_"})
            if vars(place).get(name) is not was.get(name)
        ]

    def restore() -> None:
        for place, name, value in changed():
            if value is None and name not in dict(kept)[place]:
                delattr(place, name)
            else:
                setattr(place, name, value)
        settrace(None)
        setprofile(None)
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        gc.callbacks.clear()

    def receive() -> dict:
        parts = []
        while part := read(4, 1 << 16):
            parts.append(part)
        return loads(b"".join(parts))

    def check(namespace: dict, setup: str, tests: list, entry: str) -> None:
        for number, test in enumerate([setup, *tests]):
            try:
                run(translate(test, f"<test {number}>", "exec"), namespace)
            except BaseException as error:
                fail(f"test {number} of {len(tests)}" if number else "setup", error)
        if entry:
            try:
                namespace["check"](namespace[entry])
            except BaseException as error:
                fail("check", error)

    def pin(one: object, base: type) -> None:
        """Give an object its methods as they are, whatever its class is patched to later."""
        own = {name for kind in type(one).__mro__ if kind is not base for name in vars(kind)}
        for name, method in vars(base).items():
            if isinstance(method, types.FunctionType) and name not in own:
                vars(one)[name] = types.MethodType(method, one)

    def unit(namespace: dict, source: str) -> None:
        try:
            run(translate(source, "<tests>", "exec"), namespace)
            suite = unittest.TestLoader().loadTestsFromTestCase(namespace["TestCases"])
        except BaseException as error:
            fail("tests", error)
        number, result = suite.countTestCases(), unittest.TestResult()
        pin(result, unittest.TestResult)
        try:
            for one in suite:
                pin(one, unittest.TestCase)
            suite.run(result)
        except BaseException as error:
            fail("tests", error)
        wrong = [*result.errors, *result.failures]
        if wrong:
            last = [text.strip().splitlines()[-1] for _, text in wrong]
            gone = [line for line in last if line.startswith("ModuleNotFoundError")]
            missing = gone[0].split("'")[1] if gone and "'" in gone[0] else None
            names = ", ".join(str(one.id()).rpartition(".")[2] for one, _ in wrong)
            tell(failed=names[:300], error=last[0][:300], said="", missing=missing)
            leave(0)
        methods = [getattr(one, one.id().rpartition(".")[2], None) for one, _ in result.skipped]
        skipped = [one for one in methods if not hasattr(one, "__unittest_skip__")]
        ran = result.testsRun - len(skipped)
        if not number or ran != number or result.unexpectedSuccesses:
            fail("tests", RuntimeError(f"{ran} of {number} tests ran"))

    def call(namespace: dict, name: str, arguments: list) -> None:
        try:
            holder = namespace["Solution"]() if "Solution" in namespace else None
            function = getattr(holder, name) if holder is not None else namespace[name]
            given = function(*arguments)
            given = dumps(given, default=lambda one: list(one) if isinstance(one, set) else None)
        except BaseException as error:
            fail("call", error)
        tell(result=given)
        leave(0)

    module = types.ModuleType("__test__")
    sys.modules["__test__"] = module
    namespace = vars(module)
    sys.addaudithook(look)
    for part in answer["parts"]:
        try:
            run(translate(part, "<answer>", "exec"), namespace)
        except BaseException as error:
            fail("the answer itself", error)
    restore()
    if len(threads()) > 1:
        fail("the answer itself", RuntimeError("it leaves threads behind"))
    tell(ready=True)
    told = receive()
    if style == "call":
        call(namespace, told["name"], told["arguments"])
    elif style == "unittest":
        unit(namespace, told["tests"])
    else:
        check(namespace, told["setup"], told["tests"], told["entry"])
    if found := changed():
        fail("after the tests", RuntimeError(f"{found[0][1]} was replaced"))
    tell(passed=told["token"])
    leave(0)


_main()
