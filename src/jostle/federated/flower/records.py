"""What travels: tensors as Flower's arrays, everything else as one line of JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from jostle.core.errors import optional
from jostle.federated.server import Reply

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, Message
else:
    ArrayRecord = Message = Any

FLWR = cast(Any, optional("flwr.app", "federated"))

MODEL, NOTE = "model", "note"


def arrays_of(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as a record of arrays."""
    return FLWR.ArrayRecord({k: FLWR.Array(v.detach().cpu().numpy()) for k, v in tensors.items()})


def record(tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> Any:
    """Tensors and a note as the content of a message."""
    return FLWR.RecordDict(
        {MODEL: arrays_of(tensors), NOTE: FLWR.ConfigRecord({"json": json.dumps(dict(note))})}
    )


def read(content: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `record` wrote.

    >>> read(record({"x": torch.ones(2)}, {"round": 1}))
    ({'x': tensor([1., 1.])}, {'round': 1})
    """
    # Arrays over Flower's bytes are read-only: copied, so that torch may write.
    tensors = {k: torch.from_numpy(v.numpy().copy()) for k, v in content[MODEL].items()}
    return tensors, json.loads(content[NOTE]["json"])


def reply_of(message: Message) -> Reply:
    """A client's reply."""
    tensors, facts = read(message.content)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return Reply(
        int(facts["client"]),
        int(facts["round"]),
        tensors["delta"],
        part("upload."),
        int(facts["steps"]),
        int(facts["samples"]),
        float(facts["loss"]),
        part("state."),
        bool(facts["lost"]),
    )
