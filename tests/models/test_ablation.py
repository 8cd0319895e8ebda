"""Blocks replaced by the identity."""

import pytest
import torch
from monai.networks import nets

from raum_lightning.errors import ConfigError
from raum_lightning.models import UNETRV2
from raum_lightning.models.ablation import without_blocks
from raum_lightning.models.accelerate import accelerate, slow_down
from tests.helpers.networks import SMALL, small


@pytest.mark.parametrize("make", [small, lambda: UNETRV2(**SMALL, position="rope", layer_scale=0.5)])
def test_a_block_that_adds_nothing_is_the_identity(make) -> None:
    """A pre-norm block whose last layers are 0 adds 0 to its input."""
    network = make().eval()
    image = torch.randn(1, 3, 16, 16, 16)
    with torch.no_grad():
        whole = network(image)
        accelerate(network, "cpu")
        with without_blocks(network, [0, 2]):
            found = network(image)
        torch.testing.assert_close(network(image), whole)
        slow_down(network)
        for index in (0, 2):
            block = network.vit.blocks[index]
            for layer in (block.attn.proj, block.mlp[3]):
                layer.weight.zero_()
                layer.bias.zero_()
        torch.testing.assert_close(found, network(image))
        assert not torch.allclose(found, whole)


def test_monais_unetr_has_blocks_too_and_others_are_refused() -> None:
    network = nets.UNETR(3, 4, (16, 16, 16), feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2).eval()
    image = torch.randn(1, 3, 16, 16, 16)
    with torch.no_grad():
        whole = network(image)
        with without_blocks(network, range(12)):
            assert not torch.allclose(network(image), whole)
        assert torch.equal(network(image), whole)
    with pytest.raises(ConfigError, match="SegResNet has no transformer blocks"), without_blocks(nets.SegResNet(), [0]):
        pass
