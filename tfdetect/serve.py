"""`tfdetect serve`: detect over HTTP, with a page for people and an interface for programs."""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from tfdetect.core import cli, console
from tfdetect.core.errors import UserError
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.process import Terminated
from tfdetect.core.run_command import run_command

_GRACE = 30  # seconds for the requests that run when the server is stopped
LOCAL = ("127.0.0.1", "localhost", "::1")


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect serve",
        description="Serve runs over HTTP: a page at / for people, who drop images on it, and an "
        "interface for programs, which the page /docs describes. Uploaded files are decoded in "
        "separate processes and are not kept. The runs need ONNX exports, which 'train' writes. "
        f"After SIGTERM or Ctrl-C, running requests have {_GRACE} seconds to finish.",
        examples=[
            ("tfdetect serve", "the detectors that come with tfdetect, at http://127.0.0.1:8000"),
            ("tfdetect serve saved_models/my_run", "a run of your own"),
            ("tfdetect serve saved_models/one saved_models/two --host 0.0.0.0 --token SECRET",
             "two runs, for other machines"),
        ],
    )  # fmt: skip
    p.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=f"each {cli.RUN_HELP}. "
                   "The first one is used for requests that name none (default: the detectors "
                   "that come with tfdetect; then requests that name none get the detector for "
                   "the size of each image, as in 'predict')")  # fmt: skip
    p.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                   help="address to listen on (default: %(default)s, which only this machine "
                   "can reach)")  # fmt: skip
    p.add_argument("--port", type=cli.number_above(-1, True, 65_535), default=8000, metavar="N",
                   help="port to listen on; 0 for any that is free (default: "
                   "%(default)s)")  # fmt: skip
    p.add_argument("--token", metavar="TEXT", help="secret that requests must send in the header "
                   "'Authorization: Bearer TEXT'; required if other machines can reach the "
                   "address (default: $TFDETECT_TOKEN)")  # fmt: skip
    p.add_argument("--keep", type=Path, metavar="DIR", help="write uploaded files into this "
                   "folder (default: nothing is kept)")  # fmt: skip
    limits = p.add_argument_group("limits")
    for name, default, text in (
        ("max-file-mib", 50, "largest size of a file in MiB"),
        ("max-pixels", MAX_PIXELS, "largest size of an image in pixels"),
        ("max-files", 20, "largest number of images in one request"),
        (
            "queue-size",
            64,
            "largest number of images that wait or are processed; requests with "
            "further ones get the status 429",
        ),
        ("batch-size", 4, "largest number of images in a batch of the detector"),
        ("decoders", 2, "number of processes that decode files"),
    ):
        limits.add_argument(f"--{name}", type=cli.count, default=default, metavar="N",
                            help=f"{text} (default: {default:,})")  # fmt: skip
    limits.add_argument("--timeout", type=cli.positive, default=60, metavar="SECONDS",
                        help="longest time to decode a file (default: "
                        "%(default)g)")  # fmt: skip
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.api.shipped import served_runs
    from tfdetect.core.documents import validate
    from tfdetect.core.open_run import open_run
    from tfdetect.serving.server_settings import ServerSettings

    token = args.token or os.environ.get("TFDETECT_TOKEN") or None  # an empty one protects nothing
    if token is None and args.host not in LOCAL:
        raise UserError(
            f"With --host {args.host} other machines can send images, so requests need a token. "
            "Choose a secret and give it with --token or $TFDETECT_TOKEN."
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
            f"--keep {args.keep}: uploaded files need an existing folder, but this {problem}."
        )
    runs = [open_run(path) for path in served_runs(args.runs)]
    import uvicorn

    from tfdetect.serving.app import create_app
    from tfdetect.serving.middleware import log_to_stderr
    from tfdetect.serving.service import Service

    listening = _listen(args.host, args.port)
    app = create_app(Service(runs, settings, by_size=not args.runs))
    log_to_stderr()
    host = f"[{args.host}]" if ":" in args.host else args.host
    console.log(f"http://{host}:{listening.getsockname()[1]}")
    server = uvicorn.Server(uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=_GRACE,
    ))  # fmt: skip
    # After the last response it raises the signal that stopped it; SIGTERM is no failure.
    with suppress(Terminated):
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        UserError: the address is not of this machine, or the port is in use or not allowed.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"Cannot listen on {host}, port {port}: {reason}. Choose others with --host and --port."
        ) from error
    # Connections inherit it. Without it, a response waits 40 ms for an acknowledgment.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


if __name__ == "__main__":
    sys.exit(run_command(main))
