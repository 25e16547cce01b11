"""The mean over tokens, where float32 and 16 bits would lose batches."""

import math

import pytest
import torch
from torch import nn

from wdl.metrics.token_mean import TokenMean


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_batch_is_lost(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        mean = TokenMean()
        nn.ModuleDict({"loss": mean}).to("cpu").bfloat16()  # as a strategy does
        mean.update(torch.tensor(3.0, dtype=torch.float32), 10**9)
        for _ in range(1000):
            mean.update(torch.tensor(1 / 3, dtype=torch.float32), 1)
        found = mean.compute()
    finally:
        torch.set_default_dtype(before)
    third = torch.tensor(1 / 3).item()
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx((3e9 + 1000 * third) / (10**9 + 1000), rel=1e-14)


def test_what_is_not_a_number_shows() -> None:
    mean = TokenMean()
    mean.update(torch.tensor(1.0), 5)
    mean.update(torch.tensor(math.nan), 5)
    assert mean.compute().isnan()
