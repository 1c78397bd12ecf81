"Promises where other people's reports say that tools break: one section a kind"
import copy
import csv
import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
import yaml
from quantizer.all import Corpus, FeatureStore, QuantizerError, Tokenizer, load_audio, load_tokens, probe, save_tokens
from quantizer.app.cli import main
from quantizer.app.config import load_config
from quantizer.core.tensors import fingerprint
from quantizer.data.store import commit_store, start_store
from quantizer.data.store_files import Folder, write_shard
from quantizer.models.autoencoder import build_model, check_model
from safetensors.torch import load_file

# A text is read as its writer meant it, and a name that is not read is named

TEXTS = ['plain', 'say "hi"', '"whole"', 'a\ttab', 'two\nlines', "it's", '""', '"']

@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('quoting', [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_tsv_of_pandas(tmp_path, quoting, end):
    df = pd.DataFrame(dict(path=[f'{i}.wav' for i in range(len(TEXTS))], start_s=0.5, text=TEXTS))
    df.to_csv(tmp_path/'m.tsv', sep='\t', index=False, quoting=quoting, lineterminator=end)
    c = Corpus.load(tmp_path/'m.tsv')
    assert list(c.df.text) == TEXTS and list(c.df.path) == list(df.path) and set(c.df.start_s) == {0.5}

@pytest.mark.parametrize('text', ['"Yes," she said', 'say "hi"', '"whole"', '"', '"a""b"" c', '""', 'x "', '"unclosed'])
def test_tsv_with_bare_quotes(tmp_path, text):
    "Quotation marks of a text, in a file whose writer knows no quoting"
    (tmp_path/'m.tsv').write_text(f'path\ttext\na.wav\t{text}\nb.wav\t"both" here\nc.wav\tlast\n')
    assert list(Corpus.load(tmp_path/'m.tsv').df.text) == [text, '"both" here', 'last']

def said(f, *args):
    with warnings.catch_warnings(record=True) as res:
        warnings.simplefilter('always')
        f(*args)
    return [str(o.message) for o in res]

@pytest.mark.parametrize('column', ['Text', ' text', 'text ', 'TEXT', 'texts'])
@pytest.mark.parametrize('suffix', ['tsv', 'csv', 'parquet'])
def test_misspelt_column(tmp_path, column, suffix):
    df,path = pd.DataFrame({'path': ['a.wav','b.wav'], column: ['x','y'], 'label': ['u','v']}),tmp_path/f'm.{suffix}'
    df.to_parquet(path) if suffix == 'parquet' else df.to_csv(path, sep='\t' if suffix == 'tsv' else ',', index=False)
    assert said(Corpus.load, path) == [f"{path}: '{column}' is not read; if it is meant as 'text', rename it"]
    c = Corpus.load(path, {column: 'text'})
    assert list(c.df.text) == ['x','y'] and not said(Corpus.load, path, {column: 'text', 'label': 'speaker'})

def test_misspelt_key(tmp_path):
    "Keys of lhotse's lines and of tar members"
    def _line(i, **more): return dict(id=f'{i}', start=0., duration=0.1, recording=dict(id='r', sources=[dict(type='file', channels=[0], source=f'{i}.wav')]), supervisions=[dict(id='s', **more)])
    for name,more in dict(good=dict(speaker='x', text='y', language='en'), bad=dict(spekaer='x', Text='y', language='en')).items():
        (tmp_path/f'{name}.jsonl').write_text('\n'.join(json.dumps(_line(i, **more)) for i in range(2)))
        wav = io.BytesIO()
        sf.write(wav, np.zeros(800), 8000, format='WAV')
        with tarfile.open(tmp_path/f'{name}.tar', 'w') as t:
            for member,data in (('a.wav', wav.getvalue()), ('a.json', json.dumps(more).encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
    for suffix in ('jsonl','tar'):
        assert not said(Corpus.load, tmp_path/f'good.{suffix}')
        assert said(Corpus.load, tmp_path/f'bad.{suffix}') == [f"{tmp_path}/bad.{suffix}: '{found}' is not read; if it is meant as '{name}', rename it" for found,name in (('spekaer','speaker'), ('Text','text'))]

# An error is one line

def test_one_line(tmp_path):
    "Whatever a file holds: no line break, no command for the terminal, no half of a character, and not a megabyte"
    (tmp_path/'m.csv').write_text('path,start_s\na.wav,"' + 'x\n\x1b[2J'*10**5 + '"\n')
    with pytest.raises(QuantizerError) as e: Corpus.load(tmp_path/'m.csv')
    assert len(str(e.value)) < 1100 and str(e.value).isprintable() and "m.csv: row 1: 'start_s' is" in str(e.value)

# A tilde is the home folder

def test_home(tmp_path, monkeypatch):
    "Wherever a path is given: in a config, on the command line, to a function"
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for i in range(4): (tmp_path/'speech').mkdir(exist_ok=True), sf.write(tmp_path/f'speech/{i}.wav', np.random.default_rng(i).normal(0, 0.1, 8000), 16000)
    pd.DataFrame(dict(path=[f'speech/{i}.wav' for i in range(4)])).to_csv(tmp_path/'m.csv', index=False)
    (tmp_path/'c.yaml').write_text('''
data: {corpus: ~/speech, store: ~/store, batch_size: 2, crop_s: 0.2}
features: {name: logmel, n_mels: 8}
model: {encoder: {name: conv, width: 4}, quantizer: {name: vq, codebook_size: 4, dim: 4}, decoder: {name: conv, width: 4}, losses: {mse: 1}}
train: {epochs: 1}''')
    commands = [['features','~/c.yaml','--out','~/store'], ['train','~/c.yaml','data.valid=0.5','--out','~/run'],
        ['train','~/c.yaml','data.corpus=~/m.csv','data.store=null','data.live=true','data.augment.noise.folder=~/speech','train.init_from=~/run','--out=~/second'], ['info','~/run'], ['info','~/store'], ['info','~/speech'],
        ['encode','~/run','~/speech','~/m.csv','~/speech/0.wav','--out=~/t.safetensors'], ['decode','~/run','~/t.safetensors','--out=~/sound'], ['evaluate','~/run','~/speech','--out=~/m.json'], ['train','--resume','--out','~/run']]
    for o in commands: assert main(o) == 0, o
    assert {'run','second','store','t.safetensors','sound','m.json'} <= {o.name for o in tmp_path.iterdir()} and not (tmp_path/'~').exists()
    cfg = yaml.safe_load((tmp_path/'second/config.yaml').read_text())
    assert (cfg['data']['corpus'], cfg['data']['augment']['noise']['folder'], cfg['train']['init_from']) == (str(tmp_path/'m.csv'), str(tmp_path/'speech'), str(tmp_path/'run'))
    tokenizer,c = Tokenizer.load('~/run'),Corpus.load('~/m.csv')
    codes = load_tokens('~/t.safetensors', tokenizer)
    for o in (tokenizer.encode('~/speech/0.wav'), tokenizer.encode(load_audio('~/speech/0.wav'), 16000), tokenizer.encode(c.audio(0), 16000)): assert (o == codes[f'{tmp_path}/speech/0.wav']).all()
    assert len(FeatureStore('~/store')) == len(Corpus.from_folder('~/speech')) == 4 and probe('~/speech/0.wav').samples == 8000
    tokenizer.save('~/copy')
    save_tokens('~/u.safetensors', codes, tokenizer)
    assert (tmp_path/'copy').is_dir() and (tmp_path/'u.safetensors').is_file()
    with pytest.raises(QuantizerError, match='~no-such-user/x: no such'): Corpus.load('~no-such-user/x')

# ## Every number of a config has a range

import resource
from quantizer.all import Checkpoint, check_config
from quantizer.app.config import Config, DataOptions, TrainOptions, read_config
from quantizer.core.options import check_options, option_parameters, options_schema
from quantizer.data.augment import Augment, band_options, codec_options, noise_options, reverb_options, spec_options
from quantizer.data.features import FEATURES
from quantizer.data.options import ExtractOptions
from quantizer.models.autoencoder import objective_classes
from quantizer.models.backbones import DECODERS, ENCODERS
from quantizer.models.speaker import SpeakerEncoder
from quantizer.quantizers.base import QUANTIZERS
from quantizer.train.loggers import LOGGERS
from quantizer.train.options import FROM_RUN
from quantizer.train.phases import PhaseOptions
from quantizer.train.schedule import SCHEDULES, anneal
from quantizer.train.stopping import EarlyStop

def option_blocks():
    "All that a config can name: key -> class or function, and the arguments that are filled in"
    blocks = {'':(Config,()), 'data':(DataOptions,()), 'data.extract':(ExtractOptions,()), 'data.augment':(Augment,()), 'data.augment.noise':(noise_options,()), 'data.augment.reverb':(reverb_options,()), 'data.augment.band':(band_options,()), 'data.augment.codec':(codec_options,()), 'data.augment.spec':(spec_options,()),
        'train':(TrainOptions,()), 'train.checkpoint':(Checkpoint,FROM_RUN), 'train.early_stop':(EarlyStop,()), 'train.phases.0':(PhaseOptions,()), 'train.anneal.temperature':(anneal,()), 'model.speaker':(SpeakerEncoder,('dim_in','dim_out'))}
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
ZERO = {'seed', 'data.views', 'data.workers', 'data.extract.workers', 'data.extract.batch_s', *(f'data.augment.{o}.p' for o in ('noise','reverb','band','codec')), *(f'data.augment.spec.{o}' for o in ('time_masks','time_width','time_share','freq_masks','freq_width')),
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

# ## An argument has an effect, or is refused

@pytest.fixture(scope='module')
def run_learner(tmp_path_factory):
    "Makes the learner of a config, on a few recordings"
    from quantizer.all import build_store, extractor_from_config, learner_from_config, load_config
    d = tmp_path_factory.mktemp('run')
    cfg = load_config('mfcc-vq', ['model.encoder.width=8', 'model.decoder.width=8', 'model.quantizer.codebook_size=8', 'train.epoch_steps=2'])
    store = build_store(Corpus.sample().select(range(0, 319, 8)).with_split(), extractor_from_config(cfg), d/'store', progress=False)
    return lambda out=None: learner_from_config(cfg, store, out)

def test_rate_of_a_run_learner(run_learner):
    "`fit(1, lr=3e-5)` says where the rate comes from; without the schedule it is 3e-5"
    from fastai.callback.schedule import ParamScheduler
    learn = run_learner()
    with pytest.raises(QuantizerError, match=r'fit\(lr=3e-05\) has no effect, since ParamScheduler sets the rate: change train.lr in the config'): learn.fit(1, lr=3e-5)
    learn.remove_cb(ParamScheduler)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr=3e-5)
    assert set(learn.recorder.lrs) == {3e-5}

def test_resume_needs_a_folder():
    from quantizer.all import learner_from_config
    with pytest.raises(QuantizerError, match="resume=True needs 'out'"): learner_from_config({}, None, resume=True)

def test_run_learner_is_copied_not_pickled(run_learner, tmp_path):
    "With its logs and checkpoints; the copy trains on its own"
    learn = run_learner(tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with pytest.raises(QuantizerError, match='pickle: a learner stays in its process; Tokenizer.save'): pickle.dumps(learn)
    other = copy.deepcopy(learn)
    assert other.validate() == learn.validate() and all(o.learn is other for o in other.cbs)

# A size from outside is not believed

def test_too_large_config(tmp_path):
    "A model of 17 GB is refused by a process that may take 3 GB, before it takes them; in seconds, by name"
    code = '''
import resource, sys
from quantizer.app.config import load_config
from quantizer.core.errors import QuantizerError
used = int(open('/proc/self/statm').read().split()[0])*resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used+3*2**30,)*2)
for o in sys.argv[1:]:
    try: load_config('mfcc-vq', [o])
    except QuantizerError as e: print(e)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//2**10)
'''
    said = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, 'model.decoder.width=65535', 'model.quantizer.codebook_size=100000000', 'model.encoder.width=32'], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [o.rpartition(' GB')[2] for o in said[:-1]] == [', half of the memory there is']*2 and int(said[-1]) < 1500, said

def test_yaml_bomb(tmp_path):
    "Aliases that stand for billions of values, in a file or in a change"
    bomb = '[&a0 [x, x], ' + ', '.join(f'&a{i} [*a{i-1}, *a{i-1}]' for i in range(1, 40)) + ']'
    (tmp_path/'c.yaml').write_text(f'data: {{corpus: {bomb}}}')
    for args in ((tmp_path/'c.yaml',), ('mfcc-vq', [f'data.corpus={bomb}']), ('mfcc-vq', ['data.corpus=&a [*a]'])):
        with pytest.raises(QuantizerError, match='aliases stand for more than'): load_config(*args)

# What a stranger's folder says stays in the folder

def test_store_of_a_stranger(tmp_path):
    "A manifest that names files elsewhere, or an index that names frames outside of its shards"
    store = tmp_path/'store'
    folder = Folder(store)
    manifest = start_store(folder, dict(name='logmel'), 4, 100.)
    with write_shard(folder, 0) as shard:
        for i in range(2): shard.add([np.full((5,4), i, 'f4')], id=f'{i}.wav', size=9, duration_s=np.nan, speaker='', text='', language='', split='train')
    commit_store(folder, manifest, [0])
    good,index = json.loads((store/'manifest.json').read_text()),pd.read_parquet(store/'index-1.parquet')
    assert FeatureStore(store).read(1).tolist() == [[1.]*4]*5
    shutil.copy(store/'index-1.parquet', tmp_path/'index-1.parquet')
    for change in (dict(index=good['index']|dict(file='../index-1.parquet')), dict(index=good['index']|dict(file=f'{tmp_path}/index-1.parquet')), dict(shards={'../x': 1}), dict(dim=10**12), dict(dim='4'*9), dict(features=[1]), dict(frame_rate=-1)):
        (store/'manifest.json').write_text(json.dumps(good|change))
        with pytest.raises(QuantizerError, match='damaged feature store'): FeatureStore(store)
    for change in (dict(frames=6), dict(frames=2**40), dict(offset=-16), dict(offset=96), dict(shard=7), dict(frames=-1), dict(frames='5'), dict(id=['0.wav']*2)):
        index.assign(**change).to_parquet(store/'index-1.parquet')
        (store/'manifest.json').write_text(json.dumps(good|dict(index=dict(file='index-1.parquet', fingerprint=fingerprint((store/'index-1.parquet').read_bytes())))))
        with pytest.raises(QuantizerError, match='damaged'): FeatureStore(store, corpus=Corpus(pd.DataFrame(dict(path=['0.wav']))) if 'id' in change else None)

# A tokenizer of an earlier version keeps its codes

@pytest.mark.parametrize('block', [dict(name='fsq', levels=[5, 4, 3]), dict(name='lfq', codebook_size=8)])
def test_residual_without_scales(tmp_path, block):
    "Levels over a bare grid had no scales, and their files have none"
    model = check_model(dict(encoder=dict(name='conv', width=8), quantizer=dict(name='residual', dim=3, quantizer=block), decoder=dict(name='conv', width=8), losses=dict(mse=1.)))
    made = build_model(model, torch.zeros(13), torch.ones(13))
    config,wav = dict(features=dict(name='mfcc', n_mfcc=13, deltas=0), model=model),np.random.default_rng(0).standard_normal(16000)*0.1
    new = Tokenizer(config, made)
    new.save(tmp_path/'new')
    scaled,made_by = new.encode(wav, 16000),new.fingerprint
    made.quantizer.scales = None
    old = Tokenizer(config, made)
    old.save(tmp_path/'old')
    assert [k for k in load_file(tmp_path/'new/model.safetensors') if k not in load_file(tmp_path/'old/model.safetensors')] == ['quantizer.scales']
    assert torch.equal(Tokenizer.load(tmp_path/'old').encode(wav, 16000), old.encode(wav, 16000))
    assert torch.equal(Tokenizer.load(tmp_path/'new').encode(wav, 16000), scaled) and not torch.equal(scaled, old.encode(wav, 16000))
    assert Tokenizer.load(tmp_path/'old').fingerprint == old.fingerprint != made_by
