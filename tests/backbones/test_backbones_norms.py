"""BatchNorm statistics measured on other images."""

import pytest
import torch
from torch import nn

from zsbir.backbones.norms import adapt_norms, batch_norms
from zsbir.errors import ZsbirError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_statistics_are_the_share_of_the_measured_ones(share):
    module = net().eval()
    batches = [2 * torch.randn(6, 3, 9, 9) + 1 for _ in range(3)]
    with torch.no_grad():
        first = [module[0](b) for b in batches]
        mean = torch.stack([x.mean((0, 2, 3)) for x in first]).mean(0)
        var = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in first]).mean(0)
        scale, shift = module[1].weight, module[1].bias
        hidden = [nn.functional.batch_norm(x, None, None, scale, shift, training=True) for x in first]
        second = torch.stack([module[3](x.relu()).mean((0, 2, 3)) for x in hidden]).mean(0)
    weights = {k: v.clone() for k, v in module.named_parameters()}
    adapt_norms(module, batches, share)
    assert torch.allclose(module[1].running_mean, share * mean, atol=1e-5)
    assert torch.allclose(module[1].running_var, (1 - share) + share * var, atol=1e-4)
    assert torch.allclose(module[4].running_mean, share * second, atol=1e-5)
    assert all(torch.equal(v, weights[k]) for k, v in module.named_parameters())
    assert not any(m.training for m in module.modules())
    assert all(m.momentum == 0.1 for m in batch_norms(module))


def test_what_cannot_be_adapted_is_refused_and_left_as_it_was():
    with pytest.raises(ZsbirError, match="no BatchNorm"):
        adapt_norms(nn.Linear(2, 2), [])
    with pytest.raises(ZsbirError, match="between 0 and 1"):
        adapt_norms(net(), [], 2.0)
    module = net().train()
    with pytest.raises(ZsbirError, match="no batch"):
        adapt_norms(module, [])
    assert torch.equal(module[1].running_mean, torch.zeros(4))
    assert torch.equal(module[1].running_var, torch.ones(4))
    assert module.training
    assert module[1].training
