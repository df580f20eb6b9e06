"""The resumable runner: cells of work on several processes, a line of JSON for each that is done."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

__all__ = ["Cell", "read_results", "run_cells"]

SINGLE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "NPROC": "1",  # the size of XLA's pool of threads
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
}


class Cell(NamedTuple):
    """One training run; the five fields name it in the file of results."""

    experiment: str
    data_set: str
    method: str
    weight: float
    seed: int


Work = Callable[[Cell], Mapping[str, float]]


def run_cells(cells: Iterable[Cell], work: Work, path: Path, processes: int = 2) -> list[dict[str, Any]]:
    """The results of the cells, in their order: those in the file already, and the others after doing them.

    Args:
        cells: what is to be done; a cell named twice is done once.
        work: a function of a module (or a `functools.partial` of one), from a cell to its numbers.
        path: a file of JSON lines, each a cell's fields and numbers. Only this process writes it, a whole line at a time,
            so that a kill loses no more than the cells at work. A number that is not finite is written as null.
        processes: how many are spawned, each with a single thread.

    A process gets the cells of one data set and method in a row, since it keeps what it has compiled for them; one that
    finds no such group left takes over half of the longest that another is at.

    Raises:
        RuntimeError: cells that failed, after all others were done, with the first traceback; or a process that died.
            Cells that are in the file stay there: run again to do the others.
    """
    cells = list(dict.fromkeys(Cell(*cell) for cell in cells))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(path)
    there = {_name(row) for row in read_results(path)}
    groups: dict[tuple[str, str, str], deque[Cell]] = {}
    for cell in cells:
        if cell not in there:
            groups.setdefault(cell[:3], deque()).append(cell)
    missing = sum(map(len, groups.values()))
    if missing:
        with path.open("a", encoding="utf-8") as file, tqdm(total=len(cells), initial=len(cells) - missing) as bar:
            _run(list(groups.values()), work, file, bar, min(processes, missing))
    results = {_name(row): row for row in read_results(path)}
    return [results[cell] for cell in cells]


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of results, one a cell, null being nan; none if there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):  # a last line without an end was torn by a kill
            row = {name: math.nan if value is None else value for name, value in json.loads(line).items()}
            rows[_name(row)] = row
    return list(rows.values())


def _run(groups: list[deque[Cell]], work: Work, file: Any, bar: tqdm, processes: int) -> None:
    context = multiprocessing.get_context("spawn")
    connections: dict[Connection, Any] = {}
    with _environment(SINGLE_THREAD):
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            process.start()
            theirs.close()  # so that its end shows here
            connections[ours] = process
    waiting, at_work = deque(groups), {}
    own: dict[Connection, deque[Cell]] = {connection: deque() for connection in connections}
    failures: list[tuple[Cell, str]] = []

    def hand_out(connection: Connection) -> None:
        if not own[connection]:
            own[connection] = waiting.popleft() if waiting else _half_of(max(own.values(), key=len))
        if own[connection]:
            cell = at_work[connection] = own[connection].popleft()
            bar.set_postfix_str(f"{cell.data_set} {cell.method} {cell.weight:g}")
            connection.send(cell)

    try:
        for connection in connections:
            hand_out(connection)
        while at_work:
            for connection in wait(list(at_work)):
                cell = at_work.pop(connection)
                try:
                    result, failure = connection.recv()
                except (EOFError, OSError):
                    raise RuntimeError(
                        f"the process at {_words(cell)} ended without a result (it may have been killed for memory). "
                        f"What was done is in {file.name}: run again, with fewer processes if memory is short."
                    ) from None
                if failure is None:
                    file.write(json.dumps(cell._asdict() | {k: _finite(v) for k, v in result.items()}) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                else:
                    failures.append((cell, failure))
                bar.update()
                hand_out(connection)
    finally:
        for connection, process in connections.items():
            connection.close()
            if connection in at_work:
                process.terminate()
            process.join()
    if failures:
        cell, failure = failures[0]
        raise RuntimeError(
            f"{len(failures)} cells failed; all others are in {file.name}. First {_words(cell)}:\n{failure}"
        )


def _serve(connection: Connection, work: Work) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    while True:
        try:
            cell = connection.recv()
        except EOFError:  # no more work, or the main process was killed
            return
        try:
            answer = {name: float(value) for name, value in work(cell).items()}, None
        except Exception:
            answer = None, traceback.format_exc()
        try:
            connection.send(answer)
        except OSError:
            return


def _half_of(cells: deque[Cell]) -> deque[Cell]:
    return deque(cells.pop() for _ in range((len(cells) + 1) // 2))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes started inside it inherit the variables; JAX reads them when it is first used."""
    before = dict(os.environ)
    flags = " ".join(filter(None, [before.get("XLA_FLAGS"), variables["XLA_FLAGS"]]))
    os.environ.update({**variables, "XLA_FLAGS": flags})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _name(row: Mapping[str, Any]) -> Cell:
    return Cell(*(row[field] for field in Cell._fields))


def _words(cell: Cell) -> str:
    return ", ".join(f"{name} {value}" for name, value in cell._asdict().items())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        with path.open("r+b") as file:
            file.truncate(whole)
