"""How many threads torch uses, set once for a process."""

from __future__ import annotations

import torch


def use_threads(count: int) -> None:
    """Limits torch to `count` threads.

    Two processes of two threads each on two cores run many times slower than two of one, so a campaign says
    how many it wants. Results on a CPU are bit-identical only for the same number.
    """
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
