"""A process that has imported what commands need and forks for each of them, which saves the seconds of the imports.

python tests/warm.py serve SOCKET                   # until it is killed, or its parent is gone
python -SE tests/warm.py command SOCKET train ...   # as `softprompt train ...`, in a process of its own
python -SE tests/warm.py python SOCKET 'print(1)'   # as `python -c 'print(1)'`
"""

import json
import os
import socket
import sys
import traceback


def ask(kind: str, path: str, arguments: list[str]) -> int:
    """Have something done with this process's folder, environment and open files; its exit status."""
    asked = {"kind": kind, "arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    message = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        socket.send_fds(line, [len(message).to_bytes(8, "big")], [0, 1, 2])
        line.sendall(message)
        return int(line.recv(16) or b"70")  # nothing is sent where the process was killed


def serve(path: str) -> None:
    """Fork for everything that is asked at `path`; the fork answers with its exit status."""
    import signal

    import transformers
    from transformers import LlamaForCausalLM

    from softprompt.cli import main
    from softprompt.training import train

    assert all((transformers, LlamaForCausalLM, train))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        door.settimeout(5)
        parent = os.getppid()
        while os.getppid() == parent:
            try:
                line, _ = door.accept()
            except TimeoutError:
                continue
            if os.fork():
                line.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            door.close()
            code = answer(line, main)
            line.sendall(str(code).encode())
            os._exit(code)


def answer(line: socket.socket, main: "object") -> int:
    """What was asked on a line, done in this process; its exit status."""
    size, files, _, _ = socket.recv_fds(line, 8, 3)
    message = b""
    while len(message) < int.from_bytes(size, "big"):
        message += line.recv(1 << 16)
    asked = json.loads(message)
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    try:
        if asked["kind"] == "python":
            exec(compile(asked["arguments"][0], "<block>", "exec"), {"__name__": "__main__"})
            return 0
        sys.argv = ["softprompt", *asked["arguments"]]
        return int(main() or 0)  # type: ignore[operator]
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2], sys.argv[3:]))
