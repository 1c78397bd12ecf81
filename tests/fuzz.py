"""Damaged and hostile files for every reader: each gives a result, or one line that says what is wrong

    python tests/fuzz.py                                         # 500,000 inputs over the seven surfaces
    python tests/fuzz.py --surface stores --inputs 2000 --seed 1
    python tests/fuzz.py --replay tests/fuzz_inputs/stores/*     # inputs that were saved

An input is the files of a seed with some of them damaged (fuzz_mutations.py); its number and `--seed` say which. A finding is whatever is neither a result nor a
`QuantizerError` of one line: another exception, 10 seconds of CPU (or a minute without any), 2 GB in use (or 6 GB asked for), the end of the process, anything written outside of the given folder, a connection, a foreign object
unpickled. The damaged files of the smallest input of each kind of finding are saved; the table at the end counts them, and the exit code is 1 if there are any."""
import argparse
import contextlib
import gzip
import hashlib
import io
import json
import multiprocessing as mp
import os
import random
import re
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from multiprocessing.connection import wait
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1', MPLBACKEND='Agg')
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import torch
import yaml
from fuzz_mutations import OUTSIDE, damage
from quantizer.all import Corpus, QuantizerError, Tokenizer, load_audio, load_tokens, probe, save_tokens
from quantizer.app import run as app_run
from quantizer.app.build import init_model, learner_from_config, load_model
from quantizer.app.cli import info
from quantizer.app.config import extractor_from_config, load_config
from quantizer.core.tensors import fingerprint
from quantizer.data.audio import AudioBytes
from quantizer.data.extract import build_store
from quantizer.data.store import FeatureStore, is_finished
from quantizer.tokens.files import decode_file
from quantizer.train.checkpoint import Checkpoint
from quantizer.train.checkpoint_files import latest_checkpoint, load_checkpoint
from safetensors.torch import load as load_tensors

MAX_SECONDS,MAX_BYTES,MAX_RESERVED,CHUNK = 10,2*2**30,6*2**30,2500
DEFAULT = 500_000
SAVED = Path(__file__).parent/'fuzz_inputs'
CONFIG = '''# a small run
seed: 0
data:     {corpus: CORPUS, crop_s: 0.2, batch_size: 2, valid: 0.4}
features: {name: logmel, n_mels: 4, sample_rate: 2000, win_length: 64, hop_length: 32}
model:
  encoder:   {name: conv, width: 4, downsample: 2}
  quantizer: {name: vq, codebook_size: 8, dim: 4}
  decoder:   {name: conv, width: 4}
  losses:    {mse: 1.0, commitment: 0.25}
train:    {epochs: 2, lr: 2.0e-3, schedule: one_cycle, checkpoint: {steps: 1}}
'''
QUANTIZERS = dict(fsq='{name: fsq, levels: [3, 3]}', residual='{name: residual, dim: 4, codebook_size: 4, num_quantizers: 2}', gumbel='{name: gumbel, codebook_size: 4, dim: 4}', grouped='{name: grouped, dim: 4, groups: 2}',
    simvq='{name: simvq, codebook_size: 4, dim: 4}', lfq='{name: lfq, dim: 3}')

def config_text(quantizer='{name: vq, codebook_size: 8, dim: 4}', corpus='sample', **more):
    text = CONFIG.replace('CORPUS', str(corpus)).replace('{name: vq, codebook_size: 8, dim: 4}', quantizer)
    if 'vq, ' not in quantizer: text = text.replace(', commitment: 0.25', '')
    for old,new in more.items(): text = text.replace(f'{old}: ', f'{old}: {new}, #')
    return text

def sound(seconds=0.1, sr=8000, channels=1, **kw):
    "A sound as the bytes of a file"
    n = round(sr*seconds)
    x = 0.3*np.sin(np.arange(n)*0.3)+0.02*np.random.default_rng(0).standard_normal(n)
    out = io.BytesIO()
    sf.write(out, np.stack([x]*channels, 1), sr, **dict(format='WAV') | kw)
    return out.getvalue()

def tree(folder):
    "The files of a folder as an input"
    return {str(o.relative_to(folder)): o.read_bytes() for o in sorted(Path(folder).rglob('*')) if o.is_file()}

class Refusals(list):
    "Messages of `QuantizerError` that did not end an input"
    def attempt(self, f, *args, **kwargs):
        try: return f(*args, **kwargs)
        except QuantizerError as e: self.append(str(e))

class Surface:
    "One kind of file: what is damaged, and what reads it"
    changed = () # suffixes of the files that are damaged
    weight = 1. # share of the inputs
    def __init__(self, folder): self.folder = folder
    def seal(self, rng, files): "Set checksums right, as whoever wants to be believed does"
    def read(self, rng, refused): raise NotImplementedError

class Manifests(Surface):
    changed = ('.tsv','.csv','.parquet','.jsonl','.gz','.tar')
    weight = 1.1
    @classmethod
    def seeds(cls, _):
        wav = {'a.wav': sound(), 'b.wav': sound(0.05)}
        df = pd.DataFrame(dict(path=['a.wav','b.wav','a.wav'], start_s=['','','0.02'], duration_s=['0.1','','0.03'], speaker=['x','y','x'], text=['one','two "2"','drei'], split=['train','valid','train']))
        few = df[['path','speaker','text']].iloc[:2]
        lines = [dict(id=f'r{i}', sources=[dict(type='file', channels=[0], source=p)], sampling_rate=8000, num_samples=800, duration=0.1, channel_ids=[0]) for i,p in enumerate(wav)]
        cuts = [dict(id=f'c{i}', start=0.01*i, duration=0.02, channel=0, supervisions=[dict(id='s', recording_id=f'r{i}', start=0, duration=0.02, text='x', speaker='y', language='en')], recording=o, type='MonoCut') for i,o in enumerate(lines)]
        said = [dict(id=f's{i}', recording_id=f'r{i}', start=0., duration=0.02, channel=0, text='x', speaker='y') for i in range(2)]
        def _lines(items): return b'\n'.join(json.dumps(o).encode() for o in items)
        def _parquet(table):
            out = io.BytesIO()
            pq.write_table(table, out)
            return out.getvalue()
        typed = few.assign(start_s=0., duration_s=[0.05, np.nan], split=['train','valid'])
        cells = pa.table(dict(audio=[dict(bytes=wav['a.wav'], path='a.wav'), dict(bytes=None, path='b.wav')], text=['x','y'], speaker=['s','t'], row_number=[1, 2]))
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode='w') as t:
            for name,data in (('a.wav', wav['b.wav']), ('a.json', b'{"text": "x", "speaker": 1}'), ('d/b.wav', wav['b.wav']), ('d/b.txt', b'hello')):
                m = tarfile.TarInfo(name)
                m.size = len(data)
                t.addfile(m, io.BytesIO(data))
        mains = {'m.tsv': df.to_csv(sep='\t', index=False, quoting=3).encode(), 'm.csv': df.to_csv(index=False).encode(), 'few.csv': few.to_csv(index=False).encode(), 'm.parquet': _parquet(pa.Table.from_pandas(typed)),
            'hf.parquet': _parquet(cells), 'cuts.jsonl': _lines(cuts), 'cuts.jsonl.gz': gzip.compress(_lines(cuts), mtime=0), 'shard.tar': out.getvalue()}
        return {**{k: wav | {k: v} for k,v in mains.items()}, 'recordings.jsonl': wav | {'recordings.jsonl': _lines(lines), 'supervisions.jsonl': _lines(said)}}
    def read(self, rng, refused):
        rename = rng.choice([None]*9+[dict(text='speaker'), dict(speaker='language'), {'x': 'path'}])
        name = min((o for o in os.listdir(self.folder) if o.endswith(self.changed)), default='m.tsv') # recordings before supervisions
        c = Corpus.load(self.folder/name, None if 'jsonl' in name else rename)
        c.describe(), list(c.ids), repr(c[0]), c.problems
        refused.attempt(c.with_split, 0.5)
        for i in range(min(2, len(c))): refused.attempt(c.audio, i, 8000)

class Audio(Surface):
    changed = ('.wav','.flac','.mp3','.ogg','.opus','.aiff','.au')
    weight = 1.3
    @classmethod
    def seeds(cls, _):
        res = {'pcm.wav': sound(), 'float.wav': sound(subtype='FLOAT'), 'ulaw.wav': sound(subtype='ULAW'), 'adpcm.wav': sound(subtype='IMA_ADPCM'), 'gsm.wav': sound(subtype='GSM610'), 'stereo.wav': sound(0.05, channels=2),
            'extensible.wav': sound(0.05, format='WAVEX', channels=2), 'rf64.wav': sound(0.05, format='RF64'), 'caf.wav': sound(0.05, format='CAF'), 'w64.wav': sound(0.05, format='W64'), 'x.flac': sound(format='FLAC'), 'x.mp3': sound(0.2, 16000, format='MP3'),
            'x.ogg': sound(format='OGG'), 'x.opus': sound(format='OGG', subtype='OPUS'), 'two.ogg': sound(format='OGG')+sound(0.05, format='OGG'), 'x.aiff': sound(format='AIFF'), 'x.au': sound(format='AU'), 'aac.wav': b'\xff\xf1'+bytes(60)}
        return {k: {k: v} for k,v in res.items()}
    def read(self, rng, refused):
        path = self.folder/min(os.listdir(self.folder), default='a.wav')
        refused.attempt(probe, path)
        start,duration = rng.choice([(0., None), (0.03, 0.02), (0.5, None), (1e9, 1.), (0., 1e-9)])
        refused.attempt(load_audio, path, rng.choice([8000, 16000, None, 44100]), start, duration)
        source = AudioBytes(path.name, path.read_bytes()) if path.is_file() else path
        x = load_audio(source, rng.choice([8000, 16000, None]))
        assert x.ndim == 1 and len(x) and x.isfinite().all()

class Configs(Surface):
    changed = ('.yaml','.txt')
    weight = 0.6
    @classmethod
    def seeds(cls, _):
        texts = dict(vq=config_text(), **{k: config_text(v) for k,v in QUANTIZERS.items()},
            transformer=config_text().replace('{name: conv, width: 4, downsample: 2}', '{name: transformer, width: 8, depth: 1, heads: 1, downsample: 2}'), mfcc=config_text().replace('name: logmel, n_mels: 4', 'name: mfcc, n_mfcc: 2, n_mels: 4'),
            full=config_text().replace('epochs: 2', 'phases: [{epochs: 1, losses: {mse: 1}}, {epochs: 1}], early_stop: {patience: 2}, anneal: {quantized: {start: 0, end: 1}}')
                .replace('valid: 0.4', 'live: true, augment: {gain_db: 6, spec: {freq_masks: 1}}, extract: {workers: 0, device: cpu}, rename: {a: text}'))
        return {k: {'c.yaml': v.encode(), 'changes.txt': b''} for k,v in texts.items()} | {'changes': {'c.yaml': config_text().encode(), 'changes.txt': b'data.valid=0.5\nmodel.quantizer.name=fsq'}}
    def read(self, rng, refused):
        file = self.folder/'changes.txt'
        changes = file.read_bytes().decode('utf-8', 'surrogateescape').split('\n') if file.is_file() else []
        cfg = load_config(self.folder/'c.yaml', [o for o in changes if o] if rng.random() < 0.9 else [])
        json.dumps(cfg), yaml.safe_dump(cfg)

class Tokens(Surface):
    changed = ('.safetensors',)
    weight = 1.3
    @classmethod
    def seeds(cls, made):
        return {k: {'t.safetensors': made[f'tokens-{k}']['t.safetensors'], 'which': k.encode()} for k in ('vq','residual','fsq')}
    def __init__(self, folder, made):
        self.folder,self.out,self.tokenizers = folder,folder/'out',{}
        for k in ('vq','residual','fsq'):
            write_files(folder, made[f'tokenizer-{k}'], {})
            self.tokenizers[k] = Tokenizer.load(folder)
            empty(folder)
    def read(self, rng, refused):
        tokenizer,path = self.tokenizers[(self.folder/'which').read_text()],self.folder/'t.safetensors'
        codes = refused.attempt(load_tokens, path)
        for o in (codes or {}).values():
            assert o.dtype == torch.int64
            refused.attempt(tokenizer.decode, o)
        if codes is None or rng.random() < 0.2:
            try: decode_file(tokenizer, path, self.out)
            finally: shutil.rmtree(self.out, ignore_errors=True)
        load_tokens(path, tokenizer)

class Tokenizers(Surface):
    changed = ('config.json','.safetensors')
    @classmethod
    def seeds(cls, made): return {k.removeprefix('tokenizer-'): v for k,v in made.items() if k.startswith('tokenizer-')}
    def seal(self, rng, files):
        try:
            config,weights = json.loads(files['config.json']),load_tensors(files['model.safetensors'])
            config['fingerprint'] = fingerprint({k: config[k] for k in ('features','model')}, *[weights[k] for k in sorted(weights)])
            files['config.json'] = json.dumps(config).encode()
        except Exception: pass # too damaged for a fingerprint
    def read(self, rng, refused):
        tokenizer = Tokenizer.load(self.folder)
        refused.attempt(repr, tokenizer)
        codes = refused.attempt(tokenizer.encode, 0.1*torch.randn(2000), 2000)
        if codes is not None: refused.attempt(tokenizer.decode, codes)
        if rng.random() < 0.1: refused.attempt(info, self.folder)

class Stores(Surface):
    changed = ('manifest.json','.parquet','.bin')
    @classmethod
    def seeds(cls, made): return dict(store=made['store'])
    def __init__(self, folder, made):
        self.folder,self.corpus,self.extractor = folder,folder.parent/'corpus',None
        write_files(self.corpus, made['corpus'], {})
        self.extractor = extractor_from_config(load_config(write_config(folder, config_text())))
        empty(folder)
    def seal(self, rng, files):
        try:
            manifest = json.loads(files['manifest.json'])
            manifest['index']['fingerprint'] = fingerprint(files[manifest['index']['file']])
            for k in manifest['shards']: manifest['shards'][k] = len(files[k]) if rng.random() < 0.9 else manifest['shards'][k]
            files['manifest.json'] = json.dumps(manifest).encode()
        except Exception: pass
    def read(self, rng, refused):
        if rng.random() < 0.06: return build_store(Corpus.load(self.corpus), self.extractor, self.folder, progress=False)
        refused.attempt(is_finished, self.folder)
        if rng.random() < 0.2: refused.attempt(info, self.folder, True)
        if rng.random() < 0.2: refused.attempt(FeatureStore, self.folder, self.extractor.identity, Corpus.load(self.corpus))
        store = FeatureStore(self.folder)
        try:
            refused.attempt(lambda: (repr(store), store.index, store.problems))
            refused.attempt(store.verify)
            refused.attempt(lambda: store.mean_std(store.part('train')))
            if len(store): refused.attempt(store.read, len(store)-1, 0, min(1, int(store.frames[-1])))
        finally: store.close()

class Checkpoints(Surface):
    changed = ('state.json','.safetensors','config.yaml','.csv','data.json')
    @classmethod
    def seeds(cls, made): return dict(run=made['run'])
    def __init__(self, folder, made):
        self.folder = folder
        write_files(folder, made['run'] | {f'features/{k}': v for k,v in made['store'].items()}, {})
        cfg = yaml.safe_load((folder/'config.yaml').read_text())
        self.model = load_model(folder)
        self.learn = learner_from_config(cfg, FeatureStore(folder/'features'))
        self.callback = Checkpoint(folder/'checkpoints', resume=True)
        self.learn.add_cb(self.callback)
        self.learn.create_opt()
        self.learn.n_epoch = 3
        empty(folder)
    def seal(self, rng, files):
        for name in [o for o in files if o.endswith('state.json')]:
            try:
                state = json.loads(files[name])
                for k in list(state['sha256']): state['sha256'][k] = hashlib.sha256(files[name.replace('state.json', k)]).hexdigest()
                state.pop('self', None)
                own = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
                files[name] = json.dumps(state | dict(self=own)).encode()
            except Exception: pass
    def resume(self):
        self.learn.epoch,self.learn.train_iter,self.learn.pct_train,self.learn.is_fitting = 0,0,0.,True
        self.learn('before_fit')
        self.callback.before_train()
    def read(self, rng, refused):
        run = self.folder
        path = latest_checkpoint(run/'checkpoints', refused.append)
        if path: refused.attempt(load_checkpoint, path, self.model)
        if rng.random() < 0.3: refused.attempt(self.resume)
        if rng.random() < 0.2: refused.attempt(init_model, self.model, run)
        if rng.random() < 0.2: refused.attempt(info, run)
        load_model(rng.choice([run, run/'checkpoints/best', run/'checkpoints/step-00000002']))

SURFACES = dict(manifests=Manifests, audio=Audio, configs=Configs, tokens=Tokens, tokenizers=Tokenizers, stores=Stores, checkpoints=Checkpoints)

def write_config(folder, text):
    path = folder/'c.yaml'
    path.write_text(text)
    return path

def make_files():
    "What a small run leaves: its folder, store, tokenizers and tokens"
    warnings.simplefilter('ignore')
    torch.manual_seed(0)
    res,sounds = {},{f'{i}.wav': sound(0.3+0.05*i, 2000) for i in range(4)}
    app_run.report_run = lambda *args: None
    with tempfile.TemporaryDirectory() as d, open(os.devnull, 'w') as sys.stdout:
        d = Path(d)
        write_files(d/'c', sounds, {})
        app_run.train_run(write_config(d, config_text(corpus=d/'c')), d/'run', progress=False)
        files = tree(d/'run')
        res['corpus'],res['store'] = sounds,{k.removeprefix('features/'): v for k,v in files.items() if k.startswith('features/')}
        res['run'] = {k: v for k,v in files.items() if k.startswith(('checkpoints/best','checkpoints/step-00000002','config.yaml','log.csv','data.json'))}
        for name,quantizer in dict(vq='{name: vq, codebook_size: 8, dim: 4}', **QUANTIZERS).items():
            cfg = load_config(write_config(d, config_text(quantizer)))
            tokenizer = Tokenizer(cfg, build(cfg))
            tokenizer.save(d/name)
            save_tokens(d/'t.safetensors', {o: tokenizer.encode(0.1*torch.randn(700), 2000) for o in ('a.wav','d/b.wav')}, tokenizer)
            res[f'tokenizer-{name}'],res[f'tokens-{name}'] = tree(d/name),{'t.safetensors': (d/'t.safetensors').read_bytes()}
    sys.stdout = sys.__stdout__
    return res

def build(cfg):
    from quantizer.models.autoencoder import build_model
    model = build_model(cfg['model'], torch.zeros(4), torch.ones(4))
    with torch.no_grad(): model(torch.randn(2, 20, 4), torch.ones(2, 20, dtype=torch.bool)) # k-means start
    return model.eval()

def empty(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

def remove(path):
    if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
    else: path.unlink(missing_ok=True)

def write_files(folder, files, before):
    "Bring a folder from the files `before` to `files`"
    for name in before:
        if before[name] is not files.get(name): remove(folder/name)
    for name,data in files.items():
        if before.get(name) is data: continue
        path = folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes): path.write_bytes(data)
        elif data == 'fifo': os.mkfifo(path)
        elif data == 'folder': path.mkdir()
        else: path.symlink_to(data.removeprefix('link '))

def make_input(surface, seeds, seed, n):
    "Input `n`: its files, the seed that it began as, and the generator of further choices"
    rng = random.Random(f'{seed}/{surface}/{n}')
    name = rng.choice(sorted(seeds))
    cls,files = SURFACES[surface],seeds[name]
    res = damage(rng, files, [o for o in files if o.endswith(cls.changed)])
    if rng.random() < 0.7: cls.seal(None, rng, res)
    return res,name,rng

class Watch:
    "Notes what this process writes outside of a folder, where it connects to, and what it unpickles"
    WRITES = {'os.mkdir','os.rename','os.remove','os.rmdir','os.link','os.symlink','os.truncate','os.chmod','shutil.rmtree','shutil.move','shutil.copyfile'}
    FORBIDDEN = {'pickle.find_class','os.system','subprocess.Popen','os.exec','os.posix_spawn','socket.connect','socket.getaddrinfo'}
    def __init__(self, folder):
        self.folder,self.on,self.seen = os.path.realpath(folder),False,[]
        sys.addaudithook(self)
    def __call__(self, event, args):
        if not self.on: return
        if event == 'open':
            path,mode,flags = args
            if isinstance(path, int) or not (flags & (os.O_WRONLY|os.O_RDWR|os.O_CREAT)): return
            self.check(event, path)
        elif event in self.WRITES:
            fd = args[-1] if event != 'os.rename' and isinstance(args[-1], int) and args[-1] >= 0 else None # of the folder that names are relative to
            for path in args[:2]:
                if isinstance(path, (str,bytes,os.PathLike)): self.check(event, path if fd is None else os.path.join(f'/proc/self/fd/{fd}', os.fsdecode(path)))
        elif event in self.FORBIDDEN: self.seen.append(f'{event} {str(args)[:200]}')
    def check(self, event, path):
        path = os.path.realpath(os.fsdecode(path))
        if not f'{path}/'.startswith(f'{self.folder}/') and not path.startswith(('/dev/null','/dev/shm/pym-')): self.seen.append(f'{event} {path}')

def message_problem(message):
    "What is wrong with a message; empty if it is one line that can be printed"
    if not message.strip(): return 'an empty message'
    if len(message) > 2000: return f'a message of {len(message)//1000},000 characters'
    if re.search(r'[\x00-\x1f\x7f\ud800-\udfff]', message): return 'a message with control characters or halves of characters'
    if re.search(r'allocate|out of memory|MemoryError', message, re.I): return f'memory: {message[:150]}'
    return ''

def where(error):
    "Type of an exception, and where in the package it came from"
    frames = traceback.extract_tb(error.__traceback__)
    own = [o for o in frames if '/quantizer/' in o.filename] or frames
    place = f'{Path(own[-1].filename).parent.name}/{Path(own[-1].filename).name}:{own[-1].name}' if own else ''
    return f'{type(error).__name__} in {place}'

def explain(error):
    "The message of an exception, and the last places that it came through"
    frames = [f'  {o.filename}:{o.lineno} {o.name}: {o.line}' for o in traceback.extract_tb(error.__traceback__)[-4:]]
    return '\n'.join([*frames, f'{type(error).__name__}: {str(error)[:300]}'])

def run_input(surface, rng, watch):
    "`(status, kind of finding, details)` of the input in the folder of a surface"
    refused,status,kind,details = Refusals(),'accepted','',''
    t0,watch.on,watch.seen = time.process_time(),True,[]
    try: surface.read(rng, refused)
    except QuantizerError as e: refused.append(str(e)); status = 'refused'
    except BaseException as e: kind,details = where(e),explain(e)
    watch.on = False
    problems = [o for o in map(message_problem, refused) if o]
    if not kind and problems: kind,details = f'{surface.folder.name}: {problems[0]}',max(refused, key=len)[:1000]
    if watch.seen: kind,details = f'forbidden: {watch.seen[0].split()[0]}',str(watch.seen)
    if time.process_time()-t0 > MAX_SECONDS: kind = f'hang of {surface.folder.name}'
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 > MAX_BYTES: kind,details = f'memory of {surface.folder.name}',kind+details
    return ('finding' if kind else status),kind,details

class Sandbox:
    "A folder that inputs are written to, with neighbours that nobody may touch"
    def __init__(self, name, made):
        self.top = Path(tempfile.mkdtemp(prefix='quantizer-fuzz-', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None))
        self.folder = self.top/name
        self.folder.mkdir()
        (self.top/'outside').mkdir()
        (self.top/'outside/x').write_text('x')
        os.chdir(self.top/'outside')
        cls = SURFACES[name]
        self.surface = cls(self.folder, made) if cls.__init__ is not Surface.__init__ else cls(self.folder)
        self.watch,self.before = Watch(self.folder),{}
        self.around = self.listing()
    def listing(self): return sorted(str(o) for o in self.top.rglob('*') if not o.is_relative_to(self.folder)), os.path.lexists(OUTSIDE)
    def run(self, files, rng):
        present = {str(o.relative_to(self.folder)) for o in self.folder.rglob('*') if not o.is_dir() or o.is_symlink()}
        if present != {k for k,v in self.before.items() if v != 'folder'}: # what was read has written or removed something
            empty(self.folder)
            self.before = {}
        write_files(self.folder, files, self.before)
        self.before = files
        res = run_input(self.surface, rng, self.watch)
        if self.listing() != self.around:
            self.around = self.listing()
            return 'finding','forbidden: files outside',str(self.around)
        return res
    def close(self):
        os.chdir('/')
        shutil.rmtree(self.top, ignore_errors=True)

def limit_memory():
    "What asks for more memory than `MAX_RESERVED` gets an error, whether it would use it or not"
    used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used+MAX_RESERVED,)*2)

def work(conn, counts, name, seeds, made, seed, start, stop):
    "Run inputs in this process; `counts`: the current input, accepted, refused"
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    for o in (1, 2): os.dup2(null, o)
    counts[0] = -1
    sandbox = Sandbox(name, made)
    limit_memory()
    try:
        for n in range(start, stop):
            counts[0] = n
            files,origin,rng = make_input(name, seeds, seed, n)
            status,kind,details = sandbox.run(files, rng)
            if status == 'finding': conn.send((n, kind, details, origin, changed_files(files, seeds[origin])))
            else: counts[1 if status == 'accepted' else 2] += 1
            if kind.startswith('memory'): break
        counts[0] = n+1
    finally: sandbox.close()
    conn.send(None)
    os._exit(0)

class Job:
    "A process that runs some inputs of a surface"
    def __init__(self, name, seeds, made, seed, start, stop):
        self.name,self.start,self.stop,self.findings,self.finished = name,start,stop,[],False
        context = mp.get_context('fork')
        self.counts = context.Array('q', 3, lock=False)
        self.conn,child = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(child, self.counts, name, seeds, made, seed, start, stop), daemon=True)
        self.process.start()
        child.close()
        self.last,self.since = None,time.monotonic()
    def poll(self):
        "Take what has come; has the process ended?"
        while self.conn.poll():
            try: o = self.conn.recv()
            except EOFError: return self.died()
            if o is None:
                self.finished = True
                self.process.join()
                return True
            self.findings.append(o)
        now = self.counts[0]
        if now != self.last: self.last,self.since = now,time.monotonic()
        limit = 60 if now >= 0 else 300 # of the clock: the machine may be busy
        if time.monotonic()-self.since > limit:
            self.process.kill()
            self.process.join()
            self.findings.append((now, f'hang of {self.name}', f'no end after {limit} s', None, None))
            return True
        return False
    def died(self):
        self.process.join()
        code = self.process.exitcode
        name = signal.Signals(-code).name if code < 0 else f'exit {code}'
        self.findings.append((self.counts[0], f'end of the process in {self.name}: {name}', '', None, None))
        return True
    @property
    def next(self): return max(self.start, self.counts[0]+(not self.finished))

def changed_files(files, base):
    "What an input changes in its seed; `missing` for what it removes"
    return {k: v for k,v in files.items() if v is not base.get(k)} | {k: 'missing' for k in base if k not in files}

def make_again(*args):
    "The seed and the changes of an input whose process did not come to send them; made in another one, since making it may have been what took so long"
    def _make(conn):
        resource.setrlimit(resource.RLIMIT_AS, (8*2**30,)*2)
        files,origin,_ = make_input(*args)
        conn.send((origin, changed_files(files, args[1][origin])))
    ours,theirs = mp.get_context('fork').Pipe(duplex=False)
    process = mp.get_context('fork').Process(target=_make, args=(theirs,), daemon=True)
    process.start()
    res = ours.recv() if ours.poll(30) else (None, None)
    process.kill()
    return res

def write_finding(folder, surface, origin, changed):
    digest = hashlib.sha256(repr(sorted(changed.items())).encode()).hexdigest()[:8]
    path = folder/surface/f'{origin}-{digest}'
    for k,v in changed.items():
        file = path/(k if isinstance(v, bytes) else f'{k}.special')
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(v if isinstance(v, bytes) else v.encode())
    return path

def read_saved(path, seeds):
    "The input in a folder of `fuzz_inputs`"
    files = dict(seeds[path.name.rpartition('-')[0]])
    for k,v in tree(path).items():
        if k.endswith('.special'): files[k.removesuffix('.special')] = v.decode()
        else: files[k] = v
    return {k: v for k,v in files.items() if v != 'missing'}

def fuzz(plan, seed, jobs, minutes, out):
    "Run the inputs of a plan: surface -> how many; findings: (surface, kind) -> `[count, n, details]`"
    with mp.get_context('fork').Pool(1) as pool: made = pool.apply(make_files)
    seeds = {k: SURFACES[k].seeds(made) for k in plan}
    todo = [(k, a, min(a+CHUNK, n)) for k,n in plan.items() for a in range(0, n, CHUNK)]
    todo.sort(key=lambda o: o[1]/plan[o[0]]) # a run that is cut short has seen all surfaces
    table,kinds,running,t0 = defaultdict(lambda: [0, 0, 0, 0.]),{},[],time.monotonic()
    while todo or running:
        while todo and len(running) < jobs and not (minutes and time.monotonic()-t0 > 60*minutes):
            name,a,b = todo.pop(0)
            running.append(Job(name, seeds[name], made, seed, a, b))
            running[-1].began = time.monotonic()
        if not running: break
        wait([o.conn for o in running], timeout=0.5)
        for job in [o for o in running if o.poll()]:
            running.remove(job)
            row = table[job.name]
            row[0] += job.counts[1]
            row[1] += job.counts[2]
            row[2] += len(job.findings)
            row[3] += time.monotonic()-job.began
            for n,*finding in job.findings:
                kind,details,origin,changed = finding
                size = sum(map(len, (changed or {}).values()))
                count,*smallest = kinds.get((job.name, kind), (0, np.inf))
                if not count: print(f'{job.name}: {kind}: input {n}', file=sys.stderr, flush=True)
                kinds[job.name,kind] = (count+1, size, n, details, origin, changed) if size < smallest[0] else (count+1, *smallest)
            if job.next < job.stop: todo.insert(0, (job.name, job.next, job.stop))
    print(f"{'surface':12} {'inputs':>8} {'accepted':>9} {'refused':>8} {'findings':>8} {'seconds':>8}")
    for k,(accepted,refused,found,seconds) in table.items(): print(f'{k:12} {accepted+refused+found:8,} {accepted:9,} {refused:8,} {found:8,} {seconds:8.0f}')
    print(f"{'all':12} {sum(sum(o[:3]) for o in table.values()):8,} inputs, {sum(o[2] for o in table.values()):,} findings of {len(kinds)} kinds, {time.monotonic()-t0:.0f} s with {jobs} processes, seed {seed}")
    for (name,kind),(count,_,n,details,origin,changed) in sorted(kinds.items(), key=lambda o: -o[1][0]):
        if changed is None and n >= 0: origin,changed = make_again(name, seeds[name], seed, n)
        print(f'\n{name}: {kind}: {count} times; input {n}, {changed and write_finding(out, name, origin, changed)}\n{details.strip()}')
    return kinds

def replay(paths, made):
    "Run saved inputs in this process; path -> finding"
    found = {}
    for name in dict.fromkeys(o.parent.name for o in paths):
        seeds = SURFACES[name].seeds(made)
        sandbox = Sandbox(name, made)
        try:
            for path in [o for o in paths if o.parent.name == name]:
                for k in range(8): # other choices of what is read, with the checksums as they were saved, and set right
                    files,rng = read_saved(path, seeds),random.Random(k)
                    if k % 2: sandbox.surface.seal(rng, files)
                    with contextlib.redirect_stdout(None): status,kind,details = sandbox.run(files, rng)
                    if status == 'finding': found[path] = f'{kind}\n{details}'
        finally: sandbox.close()
    return found

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--surface', action='append', choices=SURFACES, help='only this one; may be given several times')
    p.add_argument('--inputs', type=int, help=f'number of inputs in all ({DEFAULT:,})')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--minutes', type=float, help='begin nothing after this time')
    p.add_argument('--jobs', type=int, default=2, help='processes (%(default)s)')
    p.add_argument('--out', type=Path, default=Path('build/fuzz'), help='folder for the inputs of findings (%(default)s)')
    p.add_argument('--replay', nargs='+', type=Path, help='folders of saved inputs; with --inputs, others after them')
    a = p.parse_args()
    found = replay([o.absolute() for o in a.replay], make_files()) if a.replay else {}
    for k,v in found.items(): print(f'{k}: {v}\n')
    if a.replay and (found or not a.inputs): sys.exit(bool(found))
    names = a.surface or list(SURFACES)
    share = (a.inputs or DEFAULT)/sum(SURFACES[k].weight for k in names)
    plan = {k: -int(-share*SURFACES[k].weight//1) for k in names}
    sys.exit(bool(fuzz(plan, a.seed, a.jobs, a.minutes, a.out.absolute())))

if __name__ == '__main__': main()
