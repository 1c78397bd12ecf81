"Promises that other people's bug reports put to the test: each kind with the right value"
import resource

import pytest
from quantizer.all import Checkpoint, QuantizerError, check_config
from quantizer.app.config import Config, DataOptions, TrainOptions, read_config
from quantizer.core.options import check_options, option_parameters, options_schema
from quantizer.data.augment import Augment, noise_options, spec_options
from quantizer.data.features import FEATURES
from quantizer.data.options import ExtractOptions
from quantizer.models.autoencoder import objective_classes
from quantizer.models.backbones import DECODERS, ENCODERS
from quantizer.quantizers.base import QUANTIZERS
from quantizer.train.loggers import LOGGERS
from quantizer.train.options import FROM_RUN
from quantizer.train.phases import PhaseOptions
from quantizer.train.schedule import SCHEDULES, anneal
from quantizer.train.stopping import EarlyStop

# ## Every number of a config has a range

def option_blocks():
    "All that a config can name: key -> class or function, and the arguments that are filled in"
    blocks = {'':(Config,()), 'data':(DataOptions,()), 'data.extract':(ExtractOptions,()), 'data.augment':(Augment,()), 'data.augment.noise':(noise_options,()), 'data.augment.spec':(spec_options,()),
        'train':(TrainOptions,()), 'train.checkpoint':(Checkpoint,FROM_RUN), 'train.early_stop':(EarlyStop,()), 'train.phases.0':(PhaseOptions,()), 'train.anneal.temperature':(anneal,())}
    dims = ('dim_in','dim_out','upsample')
    for key,registry,filled_in in (('train.schedule', SCHEDULES, ('lr',)), ('train.loggers.0', LOGGERS, ('out','config','resume','step')), ('features', FEATURES, ()), ('model.encoder', ENCODERS, dims), ('model.quantizer', QUANTIZERS, ()), ('model.decoder', DECODERS, dims)):
        blocks |= {f'{key}={name}':(o, tuple(k for k in filled_in if k in option_parameters(o))) for name,o in registry.items()}
    return blocks | {f'model.{o.block}':(o.options, ()) for o in objective_classes() if o.block}

BLOCKS = option_blocks()

def numbers(key):
    "Name of each number of a block -> its part of the JSON schema"
    found = {}
    for name,o in options_schema(*BLOCKS[key]).get('properties', {}).items():
        found |= {name:part for part in o.get('anyOf', [o]) if part.get('type') in ('number','integer')}
    return found

def refused(key, name, value):
    "The line with which a value is refused, or `None`"
    target,filled_in = BLOCKS[key]
    others = dict(corpus='sample', data={}, features={}, model='x' if '=' in key else {}, train={}, epochs=1, start=1., end=1.)
    needed = {k for k,p in option_parameters(target, filled_in).items() if p.default is p.empty}
    try: check_options(target, {k:v for k,v in others.items() if k in needed} | {name:value}, key, filled_in)
    except QuantizerError as e: return str(e)

@pytest.mark.parametrize('key', [o for o in BLOCKS if numbers(o)])
def test_every_number_has_a_range(key):
    "NaN, infinity and whole numbers beyond those of a float are refused by name; the schema that editors read knows the range"
    for name,schema in numbers(key).items():
        whole = schema['type'] == 'integer'
        if whole: assert 'minimum' in schema and schema['maximum'] <= 2**53, name
        for value in ('.nan', float('nan'), float('inf'), '-.inf', 'much', True, *([2**63, 10**30, -10**30, 1.5] if whole else [])):
            said = refused(key, name, value)
            assert said and said.startswith(f"'{key}.{name}' is ".replace("'.", "'")) and '\n' not in said, (name, value, said)

# What 0 and -1 mean where they are accepted; all other numbers of these blocks refuse them
ZERO = {'seed', 'data.workers', 'data.extract.workers', 'data.extract.batch_s', 'data.augment.noise.p', *(f'data.augment.spec.{o}' for o in ('time_masks','time_width','time_share','freq_masks','freq_width')),
    'train.wd', 'train.profile', 'train.wer', 'train.early_stop.min_delta', 'train.schedule=one_cycle.pct_start', *(f'train.schedule={o}.{k}' for o in ('cosine','linear','wsd','plateau') for k in ('warmup','final')),
    'train.schedule=wsd.decay', 'train.schedule=plateau.factor', 'train.schedule=plateau.min_delta', *(f'train.anneal.temperature.{o}' for o in ('start','end','begin','finish'))}

def test_zero_and_less():
    "An option that takes 0 or less has a meaning for it"
    for key in BLOCKS:
        if key.startswith(('features','model.')): continue # the classes themselves refuse: below
        for name in numbers(key):
            where = f'{key}.{name}'.lstrip('.')
            assert (refused(key, name, 0) is None) == (where in ZERO), where
            assert refused(key, name, -1) or key == 'train.anneal.temperature', where

@pytest.fixture
def little_memory():
    "At most 8 GB for this process"
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8*2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)

SMALL = {'width':16, 'dim':8, 'codebook_size':8}

@pytest.mark.slow
@pytest.mark.parametrize('value', (0, -1, 2**31-1, 1e30, 1e-30))
@pytest.mark.parametrize('key', [o for o in BLOCKS if numbers(o) and o.startswith(('features','model.encoder','model.quantizer','model.decoder'))])
def test_class_refuses_or_works(key, value, little_memory):
    "The numbers of a class: refused in one line, or it computes a batch"
    kind,name = key.split('=')
    for option,schema in numbers(key).items():
        if schema['type'] == 'integer' and isinstance(value, float): continue
        cfg = read_config('mfcc-vq')
        parameters = option_parameters(BLOCKS[key][0])
        block = dict(name=name) | {k:v for k,v in SMALL.items() if k in parameters} | {option:value}
        if name == 'residual' or name == 'grouped': block['quantizer'] = dict(name='vq')
        if kind == 'features': cfg['features'] = block
        else: cfg['model'][kind.split('.')[1]] = block
        if kind == 'model.quantizer': cfg['model']['losses'] = dict(mse=1.)
        try: check_config(cfg)
        except QuantizerError as e: assert '\n' not in str(e), option
