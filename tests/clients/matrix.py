"""Every client's every operation, on every store: `run` starts this."""

import argparse
import contextlib
import pathlib
import sys
import tempfile
import time
import traceback

import clients
import restarts
from servers import ROOT, Server, directory, minio

HEADINGS = {
    "draft": "draft", "upload": "upload", "publish": "publish", "list": "list", "view": "view", "tag": "by tag",
    "latest": "latest", "replace": "replace", "edit": "notes", "drop": "del. asset", "delete": "delete",
}


def column(client_type, program, store, verbose):
    """What each operation of a client came to: `ok`, `-` and why, or `FAILED` and why."""
    results = {}
    with tempfile.TemporaryDirectory() as folder, Server(program, store, **client_type.needs) as server:
        case = clients.Case(folder)
        client = client_type(server, case)
        try:
            for operation in clients.OPERATIONS:
                action = getattr(client, operation)
                start = time.monotonic()
                if isinstance(action, str):
                    results[operation] = ("-", action)
                    continue
                try:
                    action()
                    results[operation] = ("ok", "")
                except Exception as failure:  # whatever it is, it is of this cell
                    results[operation] = ("FAILED", f"{type(failure).__name__}: {failure}")
                    if verbose:
                        traceback.print_exc()
                print(f"  {client_type.name} {operation}: {results[operation][0]} in {time.monotonic() - start:.1f} s", flush=True)
        finally:
            client.close()
    return results


def show(matrix):
    width = max(len(name) for name, _ in matrix) + 1
    head = f"{'':{width}} {'store':10} " + " ".join(f"{HEADINGS[operation]:10}" for operation in clients.OPERATIONS)
    lines, reasons, notes = [head, "-" * len(head)], {}, []
    for (client, store), results in matrix.items():
        cells = []
        for operation in clients.OPERATIONS:
            cell, why = results[operation]
            if cell == "-":
                cell = f"- ({reasons.setdefault((client, why), len(reasons) + 1)})"
            elif cell == "FAILED":
                notes.append(f"FAILED {client} {operation} on {store}: {why}")
            cells.append(f"{cell:10}")
        lines.append(f"{client:{width}} {store:10} " + " ".join(cells))
    lines += [""] + [f"({number}) {client}: {why}" for (client, why), number in reasons.items()] + notes
    print("\n".join(line.rstrip() for line in lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default=ROOT / "target/debug/release-server", type=pathlib.Path)
    parser.add_argument("--minio", help="the MinIO to run on as well; its `mc` is beside it")
    names = {client.name: client for client in clients.ALL}
    parser.add_argument("--client", action="append", choices=list(names), help="this client alone")
    parser.add_argument("--restarts", type=int, default=0, help="how often the server is killed under `gh`")
    parser.add_argument("--verbose", action="store_true", help="show where a client failed")
    arguments = parser.parse_args()

    matrix, survived = {}, True
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(directory())]
        if arguments.minio:
            stores.append(stack.enter_context(minio(arguments.minio)))
        for store in stores:
            for name in arguments.client or names:
                print(f"{name} on {store.name}", flush=True)
                matrix[name, store.name] = column(names[name], arguments.server, store, arguments.verbose)
        print()
        show(matrix)
        for store in stores if arguments.restarts else []:
            survived &= restarts.survives(arguments.server, store, arguments.restarts)
    cells = [cell for results in matrix.values() for cell, _ in results.values()]
    failed = cells.count("FAILED") + (not survived)
    print(f"\n{cells.count('ok') + (bool(arguments.restarts) and survived)} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
