"""Curves on disk, one JSON object a line, which can be cut back to the step of a checkpoint; and
TensorBoard's files."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np
from jaxtyping import Float, Shaped

from jaxdl.types import AnyArray, DamagedFile

Name = TypeVar("Name", bound=tuple)


def _finite(value: Any) -> Any:
    """A number as JSON has it, which has no NaN and no infinity: these are written as their
    names."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records at the end of a file, each as one line of JSON."""
    lines = [json.dumps({key: _finite(value) for key, value in r.items()}) for r in records]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))


def sync(path: Path) -> None:
    """Return when a file is on disk, so that nothing written after it can be there without it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


FIELDS = {"population": str, "step": int}
"""The fields of every record, and their types."""


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, none if it is missing; a last line cut short by a kill is left out.

    Raises:
      DamagedFile: if another line is not a JSON object with :data:`FIELDS`.
    """
    if not path.exists():
        return []
    content, newline, _ = path.read_bytes().rpartition(b"\n")
    records = []
    for number, line in enumerate(content.split(b"\n") if newline else [], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        _check(record, FIELDS, path, number)
        records.append(record)
    return records


def _check(record: Any, fields: Mapping[str, type], path: Path, line: int) -> None:
    """Raise DamagedFile unless a record has these fields of these types."""
    well_formed = isinstance(record, dict) and {f: type(record.get(f)) for f in fields} == dict(
        fields
    )
    if not well_formed:
        raise DamagedFile(
            f"{path}, line {line}, is damaged: mend it, or delete {path.parent} to start anew"
        )


def series(records: Iterable[Mapping[str, Any]], field: str) -> Float[np.ndarray, "2 n"]:
    """The steps and the values of a field, from the records that have it."""
    return np.array([(r["step"], r[field]) for r in records if field in r], float).reshape(-1, 2).T


def network_values(values: Shaped[AnyArray, "m ..."], networks: Sequence) -> list[Any]:
    """The values of networks, without those of members that only fill up the population."""
    return np.asarray(values).reshape(-1)[: len(networks)].tolist()


def dispatch_records(
    metrics: Mapping[str, np.ndarray],
    watched: Mapping[str, list[float]],
    networks: Sequence[Mapping[str, Any]],
    arrays: Sequence[Sequence[str]],
    first_step: int,
) -> Iterator[dict[str, Any]]:
    """A line of the curves for each network, of a dispatch that begins at ``first_step``.

    Args:
      metrics: [members, steps] or, where a member is several networks, [members, steps, networks].
      arrays: :func:`jaxdl.train.state.fault_names`.
    """
    faults, step = metrics["fault"], first_step + metrics["fault"].shape[1]
    finite = faults == -1
    means = {
        key: network_values(np.mean(np.where(finite, value, np.nan), axis=1), networks)
        for key, value in metrics.items()
        if key != "fault"
    }
    alive = network_values(finite[:, -1], networks)
    watched = {
        key: [value if lives else math.nan for value, lives in zip(values, alive, strict=True)]
        for key, values in watched.items()
    }
    fault_step = network_values(np.argmax(faults >= 0, axis=1), networks)
    faulty_array = network_values(np.max(faults, axis=1), networks)
    for i, network in enumerate(networks):
        columns = {key: values[i] for key, values in (means | watched).items()}
        record = {**network, "step": step, **columns}
        if faulty_array[i] >= 0:
            record["diverged_at"] = first_step + fault_step[i]
            record["diverged_in"] = arrays[i % len(arrays)][faulty_array[i]]
        yield record


class Fault(NamedTuple):
    """Where a network ceased to be finite."""

    step: int
    array: str
    """The path of the first array that was not finite."""


class Curves:
    """The records of a file, read once and kept with those that are appended."""

    def __init__(self, path: Path):
        self.path = path
        self._records: list[dict[str, Any]] | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records, in the order of the file's lines.

        Raises:
          DamagedFile: see :func:`read`.
        """
        if self._records is None:
            self._records = read(self.path)
        return self._records

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records at the end of the file."""
        new = [{key: _finite(value) for key, value in record.items()} for record in records]
        existing = self.records
        append(self.path, new)
        existing += new

    def rewind(self, population: str, step: int) -> int:
        """Drop the records of a population after ``step``, which training from a checkpoint there
        writes again.

        Returns:
          the number of its records that stay.

        Raises:
          DamagedFile: see :func:`read`.
        """
        records, path = self.records, self.path
        remaining = [r for r in records if r["population"] != population or r["step"] <= step]
        # A file may be long, so it is written anew only where something goes: also a line cut
        # short.
        if path.exists() and (len(remaining) < len(records) or not _ends_in_newline(path)):
            new = path.with_name(path.name + ".tmp")
            new.write_bytes(b"")
            append(new, remaining)
            sync(new)
            os.replace(new, path)
        self._records = remaining
        return sum(record["population"] == population for record in remaining)

    def by_network(self, kind: type[Name]) -> dict[Name, list[dict[str, Any]]]:
        """The records of each network, in their order.

        Args:
          kind: the NamedTuple that names a network; its fields are among those of a record.

        Raises:
          DamagedFile: naming the line of a record that does not have them.
        """
        fields = get_type_hints(kind)
        networks: dict[Name, list[dict[str, Any]]] = {}
        for number, record in enumerate(self.records, start=1):
            _check(record, fields, self.path, number)
            name = kind(*(record[field] for field in fields))
            networks.setdefault(name, []).append(record)
        return networks

    def faults(self, kind: type[Name]) -> dict[Name, Fault]:
        """The networks that ceased to be finite: see :meth:`jaxdl.train.loop.Trainer.fit`."""
        return {
            network: Fault(record["diverged_at"], record["diverged_in"])
            for network, records in self.by_network(kind).items()
            for record in records
            if "diverged_at" in record
        }


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read() == b"\n"


class Events:
    """The curves for TensorBoard: a run for each network, by the network's name.

    Raises:
      ImportError: without tensorboardX.
    """

    def __init__(self, folder: Path, networks: Sequence[Mapping[str, Any]], first: int):
        from tensorboardX import SummaryWriter

        # Records after the checkpoint at step ``first`` are written again.
        self._writers = [
            SummaryWriter(str(folder / "-".join(map(str, network.values()))), purge_step=first + 1)
            for network in networks
        ]

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records as :func:`append` takes them, one for each network, in their order."""
        for writer, record in zip(self._writers, records, strict=True):
            for key, value in record.items():
                if isinstance(value, float):
                    writer.add_scalar(key, value, record["step"])

    def close(self) -> None:
        """Write all records that are not yet on disk."""
        for writer in self._writers:
            writer.close()
