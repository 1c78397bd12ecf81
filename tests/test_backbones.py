"Every registered encoder and decoder keeps the contract; a new one is checked as soon as it is registered"
import pytest
from quantizer.models import contract
from quantizer.models.backbones import DECODERS, ENCODERS

# Options beside the defaults that take other paths; `stack` needs dimensions that fit
DIMS = dict(stack=dict(quantizer_dim=48))
ENCODER_OPTIONS = [('conv', dict(kernel=3, blocks=2)), ('transformer', dict(window=7, layers=2)),
                   ('bottleneck', dict(pool='conv', layers=1)), ('bottleneck', dict(pool='stride')),
                   ('whisperspeech', dict(pool='conv')), ('whisperspeech', dict(pool='stride'))]
DECODER_OPTIONS = [('conv', dict(kernel=3, blocks=2)), ('transformer', dict(window=7, layers=2)),
                   ('bottleneck', dict(silence=7)), ('whisperspeech', dict(rope=False))]

def cases(registry, more):
    for name, options in [(name, {}) for name in registry] + more:
        yield pytest.param(registry[name], DIMS.get(name, {}) | options, id='-'.join([name, *map(str, options.values())]))

@pytest.mark.parametrize('cls,options', cases(ENCODERS, ENCODER_OPTIONS))
def test_encoder(cls, options): contract.check_backbone(cls, downsample=3, **options)

@pytest.mark.parametrize('cls,options', cases(DECODERS, DECODER_OPTIONS))
def test_decoder(cls, options): contract.check_backbone(cls, downsample=3, **options)
