"""`tfdetect serve`: verdicts over HTTP, with a page for people and an interface for programs."""

import socket
import sys
from contextlib import suppress
from pathlib import Path

from tfdetect.core import cli, console
from tfdetect.core.errors import UserError
from tfdetect.core.process import Terminated
from tfdetect.core.run_command import run_command

_GRACE = 30  # seconds for the requests that run when the server is stopped
LOCAL = ("127.0.0.1", "localhost", "::1")


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect serve",
        description="Serve runs over HTTP: a page at / to drop photographs on, and an interface "
        "for programs, which /docs describes. Uploaded files are decoded in processes of their "
        "own and are not kept. The runs need ONNX exports, which `train` writes. "
        f"SIGTERM lets running requests finish, for at most {_GRACE} seconds.",
        examples=[
            ("tfdetect serve", "the detectors that come with tfdetect, at http://127.0.0.1:8000"),
            ("tfdetect serve saved_models/my_run", "a run of your own"),
            ("tfdetect serve saved_models/one saved_models/two --host 0.0.0.0 --token SECRET",
             "two runs, for other machines"),
        ],
    )  # fmt: skip
    p.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=f"each {cli.RUN_HELP}. "
                   "The first one answers where a request names none (default: the detectors of "
                   "photographs and of altered regions that come with tfdetect)")  # fmt: skip
    p.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                   help="address to listen on (default: %(default)s, this"
                   " machine only)")  # fmt: skip
    p.add_argument("--port", type=cli.number_above(-1, True, 65_535), default=8000, metavar="N",
                   help="port to listen on; 0 for any that is free (default: "
                   "%(default)s)")  # fmt: skip
    p.add_argument("--token", metavar="TEXT", help="token that requests must carry as "
                   "'Authorization: Bearer TEXT'; needed for other addresses than this machine "
                   "(default: $TFDETECT_TOKEN)")  # fmt: skip
    p.add_argument("--keep", type=Path, metavar="DIR", help="write uploaded files into this "
                   "folder (default: nothing is kept)")  # fmt: skip
    limits = p.add_argument_group("limits")
    for name, default, text in (
        ("max-file-mib", 50, "largest file in MiB"),
        ("max-pixels", 100_000_000, "largest image in pixels"),
        ("max-files", 20, "images in one request"),
        ("queue-size", 64, "images that may wait; further ones are answered with 429"),
        ("batch-size", 4, "images that the detector is given at once"),
        ("decoders", 2, "processes that decode files"),
    ):
        limits.add_argument(f"--{name}", type=cli.count, default=default, metavar="N",
                            help=f"{text} (default: {default:,})")  # fmt: skip
    limits.add_argument("--timeout", type=cli.positive, default=60, metavar="SECONDS",
                        help="time to decode a file (default: %(default)g)")  # fmt: skip
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    import os

    from tfdetect.api.shipped import served_runs
    from tfdetect.core.documents import validate
    from tfdetect.core.open_run import open_run
    from tfdetect.serving.server_settings import ServerSettings

    token = args.token or os.environ.get("TFDETECT_TOKEN") or None  # an empty one protects nothing
    if token is None and args.host not in LOCAL:
        raise UserError(
            f"--host {args.host} lets other machines send images. Choose a secret and give it with "
            "--token or $TFDETECT_TOKEN."
        )
    settings = validate(ServerSettings, {
        "max_file_mib": args.max_file_mib, "max_pixels": args.max_pixels,
        "max_files": args.max_files, "queue_size": args.queue_size,
        "batch_size": args.batch_size, "decoders": args.decoders, "timeout_s": args.timeout,
        "token": token, "keep": args.keep,
    }, "the command line")  # fmt: skip
    if args.keep is not None and not args.keep.is_dir():
        problem = "is a file" if args.keep.exists() else "does not exist"
        raise UserError(
            f"--keep {args.keep}: a folder is needed for uploaded files; this {problem}."
        )
    runs = [open_run(path) for path in served_runs(args.runs)]
    import uvicorn

    from tfdetect.serving.app import create_app
    from tfdetect.serving.middleware import log_to_stderr
    from tfdetect.serving.service import Service

    listening = _listen(args.host, args.port)
    app = create_app(Service(runs, settings))
    log_to_stderr()
    host = f"[{args.host}]" if ":" in args.host else args.host
    console.log(f"http://{host}:{listening.getsockname()[1]}")
    server = uvicorn.Server(uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=_GRACE,
    ))  # fmt: skip
    # After the last answer it raises the signal that it was ended by; SIGTERM is no failure.
    with suppress(Terminated):
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"Cannot listen on {host}, port {port}: {reason}. Choose others with --host and --port."
        ) from error
    # Connections inherit it; an answer's body would wait 40 ms for the client's acknowledgment.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


if __name__ == "__main__":
    sys.exit(run_command(main))
