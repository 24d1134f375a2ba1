"""The sandbox in which one program runs. It is run as a file, and imports nothing of rankray.

Standard input brings one JSON object: `answer` and `tests`, the two parts of the program, `token`, `seconds`. Before
the program starts, this process gives up what it could do harm with, none of which it can take back:

    limits       address space, CPU seconds, size of a file, open files, no core dumps
    privileges   all capabilities dropped, and none gained by running something (`no_new_privs`)
    landlock     reads only Python and the system's libraries, writes only in its own directory, no TCP
    seccomp      no sockets, no processes (threads only), no signals to others, neither sent nor arranged for (the
                 owner of a file), no other process's memory or limits, no changes of owners, modes and times, no
                 io_uring

The program is right if it runs to its end: then, and only then, the token is written to the file descriptor given as
the first argument. The two parts are compiled apart, so that the answer cannot swallow the tests. Between them what the
tests rely on is put back as it was: built-in names, the modules that they import, tracing. What they compare must not
be equal to everything. The token is known to a thread alone, which writes it once the main thread has left the program.
That stops an answer that claims to be right; one that takes the interpreter apart can still do so.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import importlib
import itertools
import json
import os
import platform
import re
import resource
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

MEMORY_BYTES = 1 << 30
FILE_BYTES = 16 << 20
UNAVAILABLE = 77
"""Exit code where the kernel cannot sandbox."""

EPERM, ENOSYS = 1, 38
CLONE_THREAD = 0x10000
ARCHITECTURES = {  # audit architecture, clone, clone3, prlimit64, and what is refused
    "x86_64": (0xC000003E, 56, 435, 302, (
        41, 57, 58, 59, 62, 76, 90, 91, 92, 93, 94, 101, 129, 132, 141, 142, 144, 160, 165, 166, 188, 189, 190, 197,
        198, 199, 200, 203, 234, 235, 240, 248, 250, 251, 256, 260, 261, 268, 272, 279, 280, 297, 298, 308, 310, 311,
        314, 319, 321, 322, 323, 424, 425, 434, 438, 440, 448, 452, 463, 466, 29, 64, 68,
    )),
    "aarch64": (0xC00000B7, 220, 435, 261, (
        5, 6, 7, 14, 15, 16, 30, 39, 40, 45, 52, 53, 54, 55, 88, 97, 117, 118, 119, 122, 129, 130, 131, 138, 140, 164,
        180, 186, 190, 194, 198, 217, 219, 221, 238, 239, 240, 241, 268, 270, 271, 274, 279, 280, 281, 282, 424, 425,
        434, 438, 440, 448, 452, 463, 466,
    )),
}  # fmt: skip
"""Numbers of system calls: socket, fork, vfork, execve(at), kill, tkill, tgkill, pidfd_*, rt_(tg)sigqueueinfo,
truncate, (f)chmod(at), (l/f)chown(at), set/removexattr, utime(ns)(at), ptrace, process_vm_*, process_m*, unshare,
setns, mount, umount, io_uring_setup, memfd_create, setrlimit, setpriority, ioprio_set, sched_set*, move/migrate_pages,
System V and POSIX queues, keys, bpf, perf_event_open, userfaultfd."""

FCNTL = {"x86_64": (72, 16), "aarch64": (25, 29)}
"""Numbers of fcntl and ioctl."""
SIGNALLED_BY_FILES = (8, 10, 15), (0x8901, 0x8902)
"""Requests of fcntl (F_SETOWN, F_SETSIG, F_SETOWN_EX) and ioctl (FIOSETOWN, SIOCSPGRP) by which the kernel sends a
signal, even SIGKILL, to any process of this user."""

LIBC = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """The kernel cannot do what the sandbox needs."""


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise Unavailable(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def limit(seconds: float) -> None:
    """Limit what the process may use."""
    cpu = max(1, int(seconds + 1))
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(kind, (most, most))


def drop_privileges() -> None:
    """Drop all capabilities, for good."""
    _checked(LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
    header, data = struct.pack("II", 0x20080522, 0), struct.pack("IIIIII", 0, 0, 0, 0, 0, 0)
    _checked(LIBC.capset(header, data), "capset")


def confine_files(own: str) -> None:
    """Allow reads of Python and the system's libraries, and writes below one directory."""
    create, add, restrict = 444, 445, 446
    abi = _checked(LIBC.syscall(create, None, 0, 1), "landlock")
    handled = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    nets = 3 if abi >= 4 else 0
    attributes = struct.pack("QQ", handled, nets)
    ruleset = _checked(LIBC.syscall(create, attributes, 16 if nets else 8, 0), "landlock")
    read_file, execute, read_directory = 4, 1, 8

    def allow(path: str, access: int) -> None:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        if not os.path.isdir(path):
            access &= execute | 2 | read_file
        _checked(LIBC.syscall(add, ruleset, 1, struct.pack("=Qi", access & handled, place), 0), "landlock")
        os.close(place)

    reads = read_file | read_directory | execute
    libraries = {"/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo"}
    installed = {path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    for path in {sys.prefix, sys.base_prefix, *installed, *libraries} - {"", "/"}:  # not what a .pth file adds
        allow(path, reads)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom"):
        allow(path, read_file | 2)
    for path in ("/etc/ld.so.cache", "/etc/localtime"):
        allow(path, read_file)
    allow(own, handled & ~execute)
    _checked(LIBC.syscall(restrict, ruleset, 0), "landlock")
    os.close(ruleset)


def filter_calls() -> None:
    """Refuse system calls with which a program could reach beyond itself."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise Unavailable(f"no table of system calls for {machine}")
    audit, clone, clone3, prlimit, refused = ARCHITECTURES[machine]
    load, equal, greater, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allowed, error, kill = 0x7FFF0000, 0x00050000, 0x80000000
    steps = [(load, 0, 0, 4), (equal, 1, 0, audit), (answer, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":
        steps += [(greater, 0, 1, 0x40000000), (answer, 0, 0, kill)]  # calls of the x32 interface
    for number in refused:
        steps += [(equal, 0, 1, number), (answer, 0, 0, error | EPERM)]
    steps += [(equal, 0, 1, clone3), (answer, 0, 0, error | ENOSYS)]  # glibc then uses clone
    steps += [(equal, 0, 4, clone), (load, 0, 0, 16), (any_bit, 1, 0, CLONE_THREAD), (answer, 0, 0, error | EPERM)]
    steps += [(answer, 0, 0, allowed)]
    for call, requests in zip(FCNTL[machine], SIGNALLED_BY_FILES, strict=True):
        steps += [(equal, 0, 2 * len(requests) + 2, call), (load, 0, 0, 24)]  # the low half of the second argument
        for request in requests:
            steps += [(equal, 0, 1, request), (answer, 0, 0, error | EPERM)]
        steps += [(answer, 0, 0, allowed)]
    steps += [(equal, 0, 4, prlimit), (load, 0, 0, 16), (equal, 1, 0, 0), (answer, 0, 0, error | EPERM)]
    steps += [(answer, 0, 0, allowed), (answer, 0, 0, allowed)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(held))
    _checked(LIBC.prctl(22, 2, program, 0, 0), "seccomp")


def held_back(modules: Iterable[str]) -> Callable[[], None]:
    """Import what the tests will; return a function that puts it, and the built-in names, back as they are now."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # the tests will say so themselves
    kept = {name: sys.modules[name] for name in modules if name in sys.modules}
    spaces: list[Any] = [builtins, *kept.values()]
    for module in kept.values():
        root = module.__name__.partition(".")[0]
        classes = [each for each in vars(module).values() if isinstance(each, type)]
        spaces += [each for each in classes if each.__module__.partition(".")[0] == root and each.__flags__ & (1 << 9)]
    before = [(space, dict(vars(space))) for space in spaces]

    def put_back() -> None:
        sys.settrace(None)
        sys.setprofile(None)
        sys.modules.update(kept)
        for space, names in before:
            for name, value in names.items():
                if name not in ("__dict__", "__weakref__") and vars(space).get(name) is not value:
                    setattr(space, name, value)

    return put_back


class Checked(ast.NodeTransformer):
    """Let `==`, `!=` and the assertions of unittest compare only what is not equal to everything."""

    def _checked(self, node: ast.expr) -> ast.expr:
        return ast.copy_location(ast.Call(ast.Name(CHECK, ast.Load()), [node], []), node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Check both sides of `==` and `!=`."""
        self.generic_visit(node)
        if any(isinstance(each, ast.Eq | ast.NotEq) for each in node.ops):
            node.left = self._checked(node.left)
            node.comparators = [self._checked(each) for each in node.comparators]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Check what methods such as `assertEqual` are given."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and re.match("assert[A-Z]", node.func.attr):
            node.args = [each if isinstance(each, ast.Starred) else self._checked(each) for each in node.args]
        return node


CHECK = "_rankray_checked"
PLAIN = (int, float, complex, str, bytes, bool, type(None))


def checked(value: Any, depth: int = 0) -> Any:
    """Return a value; raise an AssertionError where it, or something in it, is equal to an object made just now."""
    kind = type(value)
    if kind in PLAIN or depth > 4:
        return value
    if kind in (list, tuple, set, frozenset, dict):
        inner = [*value, *value.values()] if kind is dict else value
        for each in itertools.islice(inner, 1000):
            checked(each, depth + 1)
        return value
    try:
        same = value == object()
    except Exception as error:
        same = error
    assert same is not True, "this is equal to everything"
    return value


def compiled(answer: str, tests: str) -> tuple[CodeType, CodeType, set[str]]:
    """Return the two parts of a program, each of which must be whole in itself, and what the tests import."""
    first = compile(answer, "program.py", "exec")
    tree = ast.parse(tests, "tests.py")
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
    return first, compile(ast.fix_missing_locations(Checked().visit(tree)), "tests.py", "exec"), modules


def herald(outcome: int, token: bytes, ended: Any, program: int, here: CodeType) -> None:
    """Wait, in a thread, until the main thread says that the program has ended; see that it has, and write the token.

    Args:
        outcome: where to.
        token: what the parent waits for.
        ended: two locks: this one is ready, and the program has ended.
        program: the main thread.
        here: the code that it runs in once the program has ended.
    """
    frames, write, leave, ident = sys._current_frames, os.write, os._exit, threading.get_ident
    own, hidden = ident(), {"sys._current_frames", "sys._current_exceptions"}
    hidden |= {f"gc.get_{what}" for what in ("objects", "referrers", "referents")}

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in hidden and ident() != own:
            raise PermissionError(f"{event} is not for programs")

    sys.addaudithook(refuse)
    ready, go = ended
    ready.release()
    go.acquire()
    if frames()[program].f_code is here:
        write(outcome, token)
        leave(0)
    leave(1)


def main() -> None:
    """Confine this process, run the program, and let the token be written where it ran to its end."""
    given = json.load(sys.stdin)
    outcome, own = int(sys.argv[1]), os.getcwd()
    sys.stdin.close()
    os.open("/dev/null", os.O_RDONLY)
    try:
        limit(given["seconds"])
        drop_privileges()
        confine_files(str(Path(own).resolve()))
        filter_calls()
    except Unavailable as reason:
        os.write(outcome, f"unavailable: {reason}".encode())
        os._exit(UNAVAILABLE)
    answer, tests, modules = compiled(given["answer"], given["tests"])
    ready, go = threading.Lock(), threading.Lock()
    ready.acquire()
    go.acquire()
    words = (outcome, given.pop("token").encode(), (ready, go), threading.get_ident(), sys._getframe().f_code)
    threading.Thread(target=herald, args=words, daemon=True).start()
    ready.acquire()
    del words, outcome
    put_back = held_back(modules)
    program, wait = ModuleType("__main__"), time.sleep
    sys.modules["__main__"] = program
    space: dict[str, Any] = vars(program)
    space["__builtins__"] = builtins
    exec(answer, space)
    put_back()
    space[CHECK] = checked
    exec(tests, space)
    go.release()
    while True:
        wait(1.0)


if __name__ == "__main__":
    main()
