"""The sandbox in which one program runs. It is run as a file, and imports nothing of rankray.

Standard input brings one JSON object: `program`, `token`, `seconds`. Before the program starts, this process gives up
what it could do harm with, none of which it can take back:

    limits       address space, CPU seconds, size of a file, open files, no core dumps
    privileges   all capabilities dropped, and none gained by running something (`no_new_privs`)
    landlock     reads only Python and the system's libraries, writes only in its own directory, no TCP
    seccomp      no sockets, no processes (threads only), no signals to others, no other process's memory or limits, no
                 changes of owners, modes and times, no io_uring

The program is right if it runs to its end: then, and only then, the token is written to the file descriptor given as
the first argument. A program that sets out to find the token can; the sandbox protects the machine, not the score.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from pathlib import Path

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
    for path in {sys.prefix, sys.base_prefix, *sys.path, *libraries} - {"", "/"}:
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
    steps += [(equal, 0, 4, prlimit), (load, 0, 0, 16), (equal, 1, 0, 0), (answer, 0, 0, error | EPERM)]
    steps += [(answer, 0, 0, allowed), (answer, 0, 0, allowed)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(held))
    _checked(LIBC.prctl(22, 2, program, 0, 0), "seccomp")


def main() -> None:
    """Confine this process, run the program, and write the token where it ran to its end."""
    given = json.load(sys.stdin)
    outcome, token, own = int(sys.argv[1]), given["token"].encode(), os.getcwd()
    sys.stdin.close()
    os.open("/dev/null", os.O_RDONLY)
    program = compile(given["program"], "program.py", "exec")
    try:
        limit(given["seconds"])
        drop_privileges()
        confine_files(str(Path(own).resolve()))
        filter_calls()
    except Unavailable as reason:
        os.write(outcome, f"unavailable: {reason}".encode())
        os._exit(UNAVAILABLE)
    exec(program, {"__name__": "__main__", "__builtins__": __builtins__})
    os.write(outcome, token)
    os._exit(0)


if __name__ == "__main__":
    main()
