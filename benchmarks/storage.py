"""What reading from an object store costs that answers each request after 50 ms.

    python benchmarks/storage.py --data CIFAKE --images 2000

The store is moto's S3 server, a process of this machine that waits before each answer. The same
images are fetched as single files and as shards (`prepare`), by 32 requests at a time as
commands do; `predict` reads the files while it predicts, against files on the disk.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVER = """
import sys, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

application, seconds = DomainDispatcherApplication(create_backend_app), float(sys.argv[1])
WSGIRequestHandler.log_request = lambda *args: None

def slow(environ, start_response):
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        time.sleep(seconds)
    return application(environ, start_response)

server = make_server("127.0.0.1", 0, slow, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def timed(function, *args):
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--images", type=int, default=2000, help="number of images")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds (default: 0.05)")
    parser.add_argument("--shard-size", type=float, default=0.25, metavar="MIB",
                        help="size of a shard (default: 0.25, for few images)")  # fmt: skip
    parser.add_argument("--run", type=Path, default=ROOT / "saved_models" / "cifake_small_resnet")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(args.latency)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}",
                "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
                "AWS_DEFAULT_REGION": "us-east-1", "TFDETECT_CACHE": str(work / "cache"),
            }  # fmt: skip
            print(json.dumps(measure(args, work), indent=2))
        finally:
            server.kill()


def measure(args: argparse.Namespace, work: Path) -> dict[str, object]:
    import fsspec

    import tfdetect
    from tfdetect.core import storage
    from tfdetect.core.text import user_path
    from tfdetect.core.walk import Walk

    names = sorted(path for path in Walk(args.data).paths() if path.endswith((".jpg", ".png")))
    chosen = names[:: max(1, len(names) // args.images)][: args.images]
    files = work / "files"
    for name in chosen:
        target = files / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.data / name, target)
    made = tfdetect.prepare(files, work / "made", shard_mebibytes=args.shard_size, progress=False)
    fs = fsspec.filesystem("s3")
    fs.mkdir("bucket")
    fs.put(str(files), "bucket/files", recursive=True)
    fs.put(str(made.folder), "bucket/shards", recursive=True)

    detector = tfdetect.load(args.run)
    detector.predict(str(files / chosen[0]), progress=False)
    on_disk = timed(lambda: detector.predict(str(files), progress=False))
    at_store = timed(lambda: detector.predict("s3://bucket/files", progress=False))
    as_files = timed(storage.fetched, user_path("s3://bucket/files"))
    as_shards = timed(storage.fetched, user_path("s3://bucket/shards"))
    again = timed(storage.fetched, user_path("s3://bucket/files"))
    return {
        "images": len(chosen), "latency_seconds": args.latency,
        "one_request_after_the_other_seconds": round(len(chosen) * args.latency, 1),
        "fetch_files_seconds": round(as_files, 2),
        "fetch_shards_seconds": round(as_shards, 2), "shards": made.shards,
        "check_fetched_files_seconds": round(again, 2),
        "predict_from_disk_seconds": round(on_disk, 2),
        "predict_from_store_seconds": round(at_store, 2),
    }  # fmt: skip


if __name__ == "__main__":
    main()
