"""What the whole room stands on, asked for before anything else, so that its absence is one sentence."""

from jostle.core.errors import optional

optional("gymnasium", "observation")
