"""A script of its own process: confines itself, then runs a program and its tests. Started by `sandbox.py`, which says what holds.

Reads the job as JSON from its standard input and says what came of it as lines "MARK {json}" on the descriptor `writer`. Only the
standard library is imported and no thread is started, so it may fork:
- the supervisor keeps the time, and says how it ended.
- in namespaces: a child that makes them, and its child, the first process of the new ones; when that one ends, the kernel ends the rest.
- the last child gives up every right, and runs the program.
"""

import builtins
import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mounts, host name, messages, processes, network
USER_NAMESPACE = 0x10000000
MS_REC, MS_BIND, MS_PRIVATE, MNT_DETACH = 0x4000, 0x1000, 0x40000, 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000  # one number on every architecture, from Linux 5.12 on
READ_ONLY, NO_SETUID = 1, 2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
CAPABILITY_VERSION = 0x20080522
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
LONE_USER = 1_900_000_000  # and the process's number on top: a user id that owns nothing and is counted apart

Job = dict[str, Any]


class Started(NamedTuple):
    """The child to wait for; what holds for it; why there is none; the user whose processes are all to be ended after it, 0 for none."""

    child: int
    held: list[str]
    refused: str
    lone_user: int


def main() -> None:
    job: Job = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    job["number"] = os.getpid()  # as the machine counts: unlike any other's that runs now
    if sys.platform.startswith("linux"):  # what a child leaves behind comes to this process, not to one that may never ask for it
        _check(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
    started = _start(job)
    if started.refused:
        os.waitpid(started.child, 0)
        _say(job, {"refused": started.refused})
        return
    _say(job, {"held": started.held})
    timed_out: list[bool] = []

    def end(*_: object) -> None:
        timed_out.append(True)
        os.kill(started.child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, job["wall_s"])
    status = _ending(started.child)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if started.lone_user:
        _end_all_of(started.lone_user)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    _say(job, {"ended": status, "timed_out": bool(timed_out)})


def _start(job: Job) -> Started:
    memory = ["memory"] if sys.platform.startswith("linux") else []
    child, problem = _forked(lambda ready: _in_namespaces(job, ready))
    if not problem:
        return Started(child, [*memory, "files", "network", "processes"], "", 0)
    os.waitpid(child, 0)
    lone_user = LONE_USER + job["number"] if os.geteuid() == 0 else 0
    child, refused = _forked(lambda ready: _without_namespaces(job, ready, lone_user))
    # An ordinary user's program may end this process, whose user it is, and outlive it.
    return Started(child, [*memory, *(["processes"] if lone_user else [])], refused and f"{refused} (namespaces: {problem})", lone_user)


def _forked(action: Callable[[int], None]) -> tuple[int, str]:
    """A child that does the action, and what it says went wrong before it closed the descriptor it is given."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _then_end(lambda: action(writer), writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        return child, answer.read().decode(errors="replace")


def _then_end(action: Callable[[], None], writer: int) -> None:
    try:
        action()
    except BaseException as error:  # nothing may leave the child: its parent's work would be done twice
        os.write(writer, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(1)


def _in_namespaces(job: Job, ready: int) -> None:
    if not sys.platform.startswith("linux"):
        raise OSError("Linux only")
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    _check(libc.unshare(NAMESPACES | (USER_NAMESPACE if user else 0)), "unshare")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - this script imports as little as it can
                file.write(text)
    first = os.fork()
    if first:
        os.close(ready)
        os._exit(_ending(first))
    _check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    _new_root(libc, job)
    last = os.fork()
    if last:
        os.close(ready)
        os._exit(_ending(last))
    if not user:
        _become(LONE_USER + job["number"])
    _give_up_rights(libc)
    _confine(job, job["n_processes"] + (2 if user else 0))  # in a user namespace the two processes above count too
    os.chdir("/work")
    os.close(ready)
    _judge(job)


def _without_namespaces(job: Job, ready: int, lone_user: int) -> None:
    if lone_user:
        os.chown(job["folder"], lone_user, lone_user)
        _become(lone_user)
        try:
            os.listdir(os.path.dirname(os.__file__))  # noqa: PTH120, PTH208 - as above
        except OSError:
            rule = "programs are not run as root, and another user cannot read this Python; run as an ordinary user"
            raise PermissionError(rule) from None
    if sys.platform.startswith("linux"):
        _give_up_rights(ctypes.CDLL(None, use_errno=True))
    _confine(job, job["n_processes"] if lone_user else 0)  # all of a user's processes count: none may be added
    os.close(ready)
    _judge(job)


def _end_all_of(user: int) -> None:
    """End every process of a user id that was made up for one program."""
    child = os.fork()
    if not child:
        try:
            _become(user)
            if os.getresuid() == (user, user, user):  # as root it would be every process of the machine
                os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _new_root(libc: Any, job: Job) -> None:
    """A root in memory that shows the system and the standard library, read-only, and is all that can be written."""
    root = job["folder"]
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    options = f"size={max(job['file_bytes'], 4096)},nr_inodes=4096,mode=755".encode()
    _check(libc.mount(b"tmpfs", root.encode(), b"tmpfs", 0, options), "mount tmpfs")
    for path in (*SYSTEM, *DEVICES, sys.base_prefix, os.path.dirname(os.__file__)):  # noqa: PTH120
        _show(libc, path, root)
    for name in ("old", "work", "tmp", "dev/shm"):
        os.makedirs(f"{root}/{name}", exist_ok=True)  # noqa: PTH103
        os.chmod(f"{root}/{name}", 0o1777)  # noqa: PTH101
    _check(libc.pivot_root(root.encode(), f"{root}/old".encode()), "pivot_root")
    os.chdir("/")
    _check(libc.umount2(b"/old", MNT_DETACH), "umount")
    os.rmdir("/old")  # noqa: PTH106


def _show(libc: Any, path: str, root: str) -> None:
    """Let the path be seen at its own place below the new root, read-only."""
    place = root + path
    if os.path.lexists(place) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.islink(path) and path in SYSTEM and os.path.isdir(path):  # noqa: PTH112, PTH114
        os.symlink(os.readlink(path), place)  # noqa: PTH115, PTH211
        return
    if os.path.isdir(path):  # noqa: PTH112
        os.mkdir(place)  # noqa: PTH102
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
    _check(libc.mount(os.path.realpath(path).encode(), place.encode(), None, MS_BIND | MS_REC, None), f"bind {path}")
    wanted = (ctypes.c_uint64 * 4)(0 if path in DEVICES else READ_ONLY | NO_SETUID, 0, 0, 0)
    flags = 0 if path in DEVICES else AT_RECURSIVE
    _check(libc.syscall(MOUNT_SETATTR, AT_FDCWD, place.encode(), flags, ctypes.byref(wanted), ctypes.sizeof(wanted)), f"protect {path}")


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _give_up_rights(libc: Any) -> None:
    """No capability, and none to be had by running a file that gives some."""
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _check(libc.capset(ctypes.byref(header), ctypes.byref(nothing)), "capset")


def _confine(job: Job, n_processes: int) -> None:
    limits = {
        "RLIMIT_CPU": (job["cpu_s"], job["cpu_s"] + 1),
        "RLIMIT_FSIZE": (job["file_bytes"],) * 2,
        "RLIMIT_NOFILE": (64, 64),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NPROC": (n_processes,) * 2,
    }
    if sys.platform.startswith("linux"):
        limits["RLIMIT_AS"] = (job["memory_bytes"],) * 2
    for name, (soft, hard) in limits.items():
        most = resource.getrlimit(getattr(resource, name))[1]
        bounds = (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        resource.setrlimit(getattr(resource, name), bounds)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _judge(job: Job) -> None:
    """Run the program, then the tests; say how it went, and end without running anything that the program left behind.

    What is needed afterwards is taken hold of before: the program may put other things in its place.
    """
    run, write, end, flush, dumps, writer, mark = (
        builtins.exec,
        os.write,
        os._exit,
        sys.stdout.flush,
        json.dumps,
        job["writer"],
        job["mark"],
    )
    said: dict[str, Any] = {"passed": True}
    number, own_number = os.getpid, os.getpid()
    program, tests, module = job["program"], job["tests"], types.ModuleType("program")
    sys.modules["program"] = module
    sys.argv[:] = [""]
    job.clear()
    try:
        compiled_tests = compile(tests, "tests", "exec")
    except (SyntaxError, ValueError, RecursionError) as error:
        write(writer, f"{mark} {dumps({'unusable': str(error)})}\n".encode())
        end(0)
    try:
        run(compile(program, "program", "exec"), module.__dict__)
        run(compiled_tests, module.__dict__)
    except BaseException as error:
        said = {"failed": _described(error, tests)}
    if number() != own_number:  # a copy that the program made of itself has no say
        end(0)
    with contextlib.suppress(BaseException):
        flush()
    write(writer, f"{mark} {dumps(said)}\n".encode())
    end(0)


def _described(error: BaseException, tests: str) -> str:
    try:
        text = f"{type(error).__name__}: {error}"[:200].rstrip(": ")
    except BaseException:  # the program's own exception, whose text it makes
        text = "an exception without text"
    place, trace = 0, error.__traceback__
    while trace is not None:
        place = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "tests" else place
        trace = trace.tb_next
    return f"{text} at line {place} of the tests: {tests.splitlines()[place - 1].strip()[:90]}" if place else text


def _ending(child: int) -> int:
    """How the child ended, as a shell says it: its status, or 128 and the signal; what else was left to this process is gathered too."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _say(job: Job, what: Job) -> None:
    os.write(job["writer"], f"{job['mark']} {json.dumps(what)}\n".encode())


def _check(result: int, name: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
