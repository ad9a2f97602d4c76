"""The memories of many clients in a folder instead of in main memory."""

import re
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from uuid import uuid4

from jostle.core.errors import require
from jostle.federated.memory import LostState, Memory
from jostle.files import read_json, write_json


class Shelf(MutableMapping[int, Memory]):
    """Client to memory, each in a file of its own.

    A file is written whole or not at all, and read as a memory map: only the vectors of the clients at work take
    space. A memory that was taken out must be put back when it has changed. As every file holds both phases, a
    process that is killed within a round leaves all files fit to do that round again.

    **Arguments:** `folder`: made if it is not there.

    >>> import tempfile, torch
    >>> shelf, memory = Shelf(Path(tempfile.mkdtemp())), Memory()
    >>> memory.propose(0, {"h": torch.ones(2)})
    >>> shelf[7] = memory
    >>> list(shelf), shelf[7].recall(accepted=0)
    ([7], {'h': tensor([1., 1.])})
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, ""

    def begin(self) -> None:
        """Claim the folder for a run that starts; for one that is under way it does nothing.

        **Raises:** `JostleError` if another run's vectors lie there.
        """
        if self.run:
            return
        require(
            not self._note.exists() and not len(self),
            f"state_dir {self.folder} holds the vectors of another run: resume from its checkpoint, or name an empty "
            "folder",
        )
        self.run = uuid4().hex
        write_json(self._note, {"run": self.run})

    def resume(self, run: str, accepted: Mapping[int, int], generation: int) -> None:
        """Go on with the folder of a checkpoint's run.

        **Arguments:** `run`: the checkpoint's. `accepted`: the last round that its server accepted, by client.
        **Raises:** `JostleError` if the folder is of another run, or has gone on beyond the checkpoint.
        """
        found = read_json(self._note).get("run") if self._note.exists() else None
        require(
            found is not None and found == run,
            f"state_dir {self.folder} is not the folder of the checkpoint's run: name the one it was made with",
        )
        for one, last in accepted.items():
            try:
                self.get(one, Memory()).recall(last, generation)
            except LostState as error:
                require(False, f"state_dir {self.folder} does not fit the checkpoint: client {one}: {error}")
        self.run = run

    @property
    def _note(self) -> Path:
        return self.folder / "run.json"

    def _path(self, client: int) -> Path:
        return self.folder / f"client-{client}.safetensors"

    def __getitem__(self, client: int) -> Memory:
        if not self._path(client).exists():
            raise KeyError(client)
        return Memory.load(self._path(client))

    def __setitem__(self, client: int, memory: Memory) -> None:
        memory.save(self._path(client))

    def __delitem__(self, client: int) -> None:
        if client not in self:
            raise KeyError(client)
        self._path(client).unlink()

    def __contains__(self, client: object) -> bool:
        return isinstance(client, int) and self._path(client).exists()

    def __iter__(self) -> Iterator[int]:
        names = [
            re.fullmatch(r"client-(\d+)\.safetensors", path.name) for path in self.folder.glob("client-*")
        ]
        return iter(sorted(int(name[1]) for name in names if name))

    def __len__(self) -> int:
        return sum(1 for _ in self)
