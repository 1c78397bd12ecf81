"Every registered encoder and decoder keeps the contract; a new one is checked as soon as it is registered"
import pytest, torch
from quantizer.all import QuantizerError, build_model, check_model, quantizer_learner
from quantizer.models import contract
from quantizer.models.backbones import DECODERS, ENCODERS

# Options beside the defaults that take other paths; `stack` needs dimensions that fit
DIMS = dict(stack=dict(quantizer_dim=48))
ENCODER_OPTIONS = [('conv', dict(kernel=3, blocks=2)), ('transformer', dict(window=7, layers=2)), ('conv', dict(instance_norm=True)), ('transformer', dict(instance_norm=True)),
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

def test_nothing_to_train():
    "Stacked frames with a codebook that learns by moving averages leave nothing to the optimizer"
    block = dict(encoder=dict(name='stack'), quantizer=dict(name='vq', dim=16), decoder=dict(name='stack'), losses=dict(mse=1.))
    model = build_model(check_model(block), torch.zeros(8), torch.ones(8))
    with pytest.raises(QuantizerError, match='the model has no parameters for the optimizer'):
        quantizer_learner(None, model, frame_rate=100.)
