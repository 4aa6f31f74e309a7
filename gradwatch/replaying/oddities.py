"""Differences between the inputs of a row and those of the other rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradwatch.capture.nested import tensors_in
from gradwatch.capture.record import Forward
from gradwatch.replaying.arguments import named_parts
from gradwatch.replaying.batch import Batch, Padded
from gradwatch.text import count, number

TIMES = 10.0
MOST_IDS = 3
MOST_COMPARED = 2048
"""Other rows that a row is compared with; of more, some from the whole batch."""


def oddities(forward: Forward, batch: Batch, row: int, model: nn.Module, *, of_loss: bool = True) -> tuple[str, ...]:
    """Sentences on the row's inputs beside those of the other rows; empty if nothing is odd.

    With ``of_loss`` also on the gradient that the loss sends to the row.
    """
    found: list[str] = []
    dimensions = iter(batch.inputs)
    compared = sorted({*range(0, batch.size, math.ceil(batch.size / MOST_COMPARED)), row})
    for name, value in named_parts(forward, model):
        for tensor in tensors_in(value):
            dimension = next(dimensions)
            if dimension is None or batch.size < 2:
                continue
            label = "lengths" if isinstance(value, Padded) and tensor.dim() == 1 else name
            rows = [tensor.select(dimension, at).detach().cpu() for at in compared]
            found += _odd(label, rows, compared.index(row), model)
    if of_loss:
        found += _odd_gradient(forward, batch, row)
    return tuple(dict.fromkeys(found))


def _odd(name: str, rows: Sequence[Tensor], row: int, model: nn.Module) -> list[str]:
    others = [one for at, one in enumerate(rows) if at != row]
    own = rows[row]
    if own.dim() == 0:
        return _odd_scalar(name, float(own), [float(one) for one in others])
    if own.numel() == 0:
        return []
    if _is_mask(rows):
        return _odd_mask(name, own, others)
    if own.is_floating_point():
        return _odd_values(name, own, others)
    return _odd_ids(name, own, others, model)


def _odd_scalar(name: str, own: float, others: Sequence[float]) -> list[str]:
    """A length, a label or a weight: one number a row."""
    known = [one for one in others if math.isfinite(one)]
    if not math.isfinite(own):
        return [f"{name} is {number(own)}"] if len(known) == len(others) else []
    if not known or min(known) <= own <= max(known) or not ("len" in name or _is_far(own, known)):
        return []
    return [f"{name} is {number(own)}, in other rows {number(min(known))} to {number(max(known))}"]


def _is_far(own: float, others: Sequence[float]) -> bool:
    """Whether a number is zero, of another sign or of another magnitude than all others."""
    usual = statistics.median(abs(one) for one in others)
    is_small = usual > 0 and abs(own) < usual / TIMES
    return own == 0 or abs(own) > TIMES * usual or is_small or own < 0 <= min(others)


# -------------------------------------------------------------------------------------------- masks


def _is_mask(rows: Sequence[Tensor]) -> bool:
    if rows[0].dtype == torch.bool:
        return True
    values = torch.unique(torch.stack([one.float() for one in rows]))
    if values.numel() > 2:
        return False
    allowed = {0.0, 1.0} if values.max() > 0 else {0.0}
    return all(float(one) in allowed or float(one) < -1e3 for one in values) and values.numel() == 2


def _odd_mask(name: str, own: Tensor, others: Sequence[Tensor]) -> list[str]:
    first = own.reshape(-1)[0]
    if not bool((own == first).all()) or any(torch.equal(own, one) for one in others):
        return []
    size = own.numel()
    hides = float(first) < 0 or (bool(first) == ("padding" in name or "pad" in name.split("_")))
    if hides:
        return [f"{name}: all {size} keys are masked"]
    shown = "True" if bool(first) else "False"
    return [f"{name} is {shown if own.dtype == torch.bool else number(float(first))} at all {size} positions"]


# ------------------------------------------------------------------------------------------ numbers


def _odd_values(name: str, own: Tensor, others: Sequence[Tensor]) -> list[str]:
    found = _odd_nonfinite(name, own, others)
    if found:
        return found
    own = own.double()
    if own.numel() > 1 and _is_constant(own) and not any(_is_constant(one) for one in others):
        value = number(float(own.max()))
        return [f"{name}: all {own.numel()} entries are {value}, in no other row are they alike"]
    found = _odd_magnitude(name, own, others)
    if found:
        return found
    zero, most = int((own == 0).sum()), max(int((one == 0).sum()) for one in others)
    if zero and not most:
        return [f"{name}: {count(zero, 'entry', 'entries')} of {own.numel()} exactly 0, none in other rows"]
    return _odd_slices(name, own, others) or _odd_entry(name, own, others)


def _odd_nonfinite(name: str, own: Tensor, others: Sequence[Tensor]) -> list[str]:
    found = []
    for what, test in (("NaN", torch.isnan), ("infinite", torch.isinf)):
        bad = int(test(own).sum())
        if bad and not any(bool(test(one).any()) for one in others):
            entries = count(bad, "entry", "entries")
            found.append(f"{name}: {entries} of {own.numel()} {'is' if bad == 1 else 'are'} {what}")
    return found


def _odd_magnitude(name: str, own: Tensor, others: Sequence[Tensor]) -> list[str]:
    largest = float(own.abs().max())
    usual = statistics.median(float(one.double().abs().nan_to_num(posinf=0.0).max()) for one in others)
    if usual and largest > TIMES * usual:
        return [f"{name}: largest magnitude {number(largest)}, in other rows about {number(usual)}"]
    if usual and largest < usual / TIMES:
        return [f"{name}: largest magnitude only {number(largest)}, in other rows about {number(usual)}"]
    return []


def _odd_slices(name: str, own: Tensor, others: Sequence[Tensor]) -> list[str]:
    """Of a row of vectors: one that is constant where those of other rows are not."""
    if own.dim() < 2 or own.shape[-1] < 2:
        return []
    flat = own.reshape(-1, own.shape[-1])
    alike = (flat.amax(1) == flat.amin(1)).nonzero().reshape(-1)
    if not alike.numel():
        return []
    for one in others:
        each = one.double().reshape(-1, one.shape[-1])
        if bool((each.amax(1) == each.amin(1)).any()):
            return []
    return [f"{name}: the entries of vector {int(alike[0])} are all {number(float(flat[alike[0], 0]))}"]


def _odd_entry(name: str, own: Tensor, others: Sequence[Tensor]) -> list[str]:
    """A value outside the range of all other rows by several times that range."""
    everything = torch.stack([one.double().nan_to_num(posinf=0.0, neginf=0.0) for one in others])
    low, high = float(everything.min()), float(everything.max())
    margin = high - low
    if float(own.max()) > high + margin or float(own.min()) < low - margin:
        return [
            f"{name}: values from {number(float(own.min()))} to {number(float(own.max()))}, in other rows from"
            f" {number(low)} to {number(high)}"
        ]
    return []


def _is_constant(tensor: Tensor) -> bool:
    return bool((tensor == tensor.reshape(-1)[0]).all())


# ---------------------------------------------------------------------------------------------- ids


def _odd_ids(name: str, own: Tensor, others: Sequence[Tensor], model: nn.Module) -> list[str]:
    found = []
    ids = torch.unique(own)
    seen = torch.unique(torch.cat([one.reshape(-1) for one in others]))
    new = ids[~torch.isin(ids, seen)]
    if own.numel() > 1 and ids.numel() == 1 and not any(_is_constant(one) for one in others):
        found.append(f"{name}: all {own.numel()} ids are {int(ids[0])}")
    found += _odd_embedding(name, own, new, model)
    if not found and 0 < new.numel() <= MOST_IDS and _share_their_ids(others, own):
        told = ", ".join(str(int(one)) for one in new)
        found.append(f"{name}: {count(int(new.numel()), 'id')} in no other row: {told}")
    return found


def _share_their_ids(others: Sequence[Tensor], own: Tensor) -> bool:
    """Whether most of the other rows have no id of their own."""
    alone = [
        int((~torch.isin(torch.unique(one), torch.unique(torch.cat([o.reshape(-1) for o in rest])))).sum())
        for one, rest in _each_with_rest(others, own)
    ]
    return bool(alone) and statistics.median(alone) == 0


def _each_with_rest(others: Sequence[Tensor], own: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
    return [(one, [own, *(o for at, o in enumerate(others) if at != index)]) for index, one in enumerate(others[:16])]


def _odd_embedding(name: str, own: Tensor, new: Tensor, model: nn.Module) -> list[str]:
    """An id whose embedding is far larger than the others."""
    for module in model.modules():
        if not isinstance(module, nn.Embedding) or not new.numel():
            continue
        if int(own.min()) < 0 or int(own.max()) >= module.num_embeddings:
            continue
        norms = module.weight.detach().double().norm(dim=1).cpu()
        usual = float(norms.median())
        large = [int(one) for one in new if not float(norms[int(one)]) <= TIMES * usual]
        if large:
            told = ", ".join(str(one) for one in large[:MOST_IDS])
            return [
                f"{name}: the embedding of id {told} has norm {number(float(norms[large[0]]))},"
                f" the median has {number(usual)}"
            ]
    return []


# --------------------------------------------------------------------------------- the loss's gradient


def _odd_gradient(forward: Forward, batch: Batch, row: int) -> list[str]:
    for gradient, dimension in zip(forward.output_gradients, batch.outputs, strict=True):
        if gradient is None or dimension is None or batch.size < 2:
            continue
        norms = gradient.detach().double().movedim(dimension, 0).reshape(batch.size, -1).norm(dim=1).tolist()
        own = norms.pop(row)
        others = [one for one in norms if math.isfinite(one)]
        usual = statistics.median(others) if others else 0.0
        if not math.isfinite(own) and len(others) == len(norms):
            return ["the gradient that the loss sends to this row is not finite"]
        if usual and own > TIMES * usual:
            return [f"the loss sends this row a gradient {number(own / usual)} times that of other rows"]
    return []
