"""A replay of a compiled model, compiled again: does it give the same gradient as the eager replay?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from gradwatch.analysis.replays.result import CompiledReplay
from gradwatch.recording.capture.forwards import compiled_around
from gradwatch.replaying.passes import Played, Player
from gradwatch.replaying.recurrence import compare


def replay_compiled(player: Player, eager: Played) -> CompiledReplay:
    """Replay once more with what `torch.compile` made of the model, and compare with the training and with ``eager``.

    What the script has compiled is taken, with its options; else the modules that were called are compiled with the
    options that `torch.compile` has by default.

    Raises:
        Exception: whatever compiling or the model raises.
    """
    with torch.compiler.set_stance("default"):  # within `prepared`, which runs everything eagerly
        player.calls = _compiled_calls(player)
        try:
            played = player.play()
        finally:
            player.calls = {}
    again, beside = compare(player.capture.gradients, played.gradients), compare(eager.gradients, played.gradients)
    return CompiledReplay(
        recurs=again.recurs,
        max_ulp=again.max_ulp,
        total_norm=played.total_norm,
        differs=beside.recurs != "bitwise",
        max_ulp_from_eager=beside.max_ulp,
    )


def _compiled_calls(player: Player) -> Mapping[str, Callable[..., Any]]:
    """What is called in the place of each module, by name; nothing where the model holds compiled modules itself."""
    known = compiled_around(player.model)
    if known or any(_holds_compiled(one) for one in player.model.modules()):
        return known
    names = {forward.module for group in player.capture.groups for forward in group.forwards}
    compile_: Any = torch.compile
    return {name: compile_(player.model.get_submodule(name)) for name in names}


def _holds_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None
