"A training that is killed anywhere and resumed ends with the bits of one that was not; two processes train as one"
import json, os, random, shutil, subprocess, sys, time
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from quantizer.all import Corpus, extract_features
from quantizer.train.checkpoint_files import step_checkpoints, verify_checkpoint
from quantizer.train.logging import TIMINGS

from quantizer.train.checkpoint_files import _state_sha256, _file_sha256
from safetensors.torch import load_file, save_file

SMALL = ['model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.dim=8', 'data.crop_s=0.5', 'data.batch_size=8', 'train.epochs=4', 'train.lr=4e-3', 'train.log_steps=2', 'train.checkpoint.steps=4', 'train.checkpoint.keep=2']
DROPOUT = ['model.encoder.dropout=0.1', 'model.decoder.dropout=0.1']
QUANTIZERS = dict(
    vq=['model.quantizer.codebook_size=64', 'model.quantizer.revive_below=0.5'],
    gumbel=['model.quantizer={name: gumbel, dim: 8, codebook_size: 32}', 'model.losses={mse: 1.0, diversity: 0.1}', 'train.anneal={temperature: {start: 2.0, end: 0.3}}', 'train.precision=bf16'],
    fsq=['model.quantizer={name: fsq, levels: [5, 5, 5, 5, 5, 5, 5, 5]}', 'model.losses={mse: 1.0}', 'train.schedule=plateau', 'train.epoch_steps=5', 'train.early_stop={monitor: valid_mse, patience: 9}'],
    residual=['model.quantizer={name: residual, dim: 8, codebook_size: 32, num_quantizers: 3, dropout: 0.5}', 'train.anneal={dropout: {start: 0.8, end: 0.2, shape: linear}}', 'train.accumulate=2', 'train.schedule=wsd', 'train.checkpoint.steps=3'])

@pytest.fixture(scope='module')
def worker():
    p = subprocess.Popen([sys.executable, '-W', 'ignore', Path(__file__).with_name('resume_worker.py')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    assert p.stdout.readline() == 'ready\n'
    def _run(**job):
        p.stdin.write(json.dumps(job)+'\n'); p.stdin.flush()
        return json.loads(p.stdout.readline())
    yield _run
    p.stdin.close()
    assert p.wait(timeout=20) == 0

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Sixty recordings, and their features"
    d = tmp_path_factory.mktemp('data')
    c = Corpus.sample().select(range(0, 319, 5))
    (d/'sample').symlink_to(c.root) # ids, and with them random numbers, shall not depend on where the package lies
    c.df.assign(path=[f'sample/{o}' for o in c.df.path], split=np.where(np.arange(len(c))%5 == 0, 'valid', 'train')).to_csv(d/'few.tsv', sep='\t', index=False)
    other = Corpus.sample().select(range(3, 319, 10))
    other.df.assign(path=[f'sample/{o}' for o in other.df.path], split='').to_csv(d/'other.tsv', sep='\t', index=False)
    extract_features('mfcc-vq', d/'store', [f'data.corpus={d/"few.tsv"}'], progress=False)
    return d

AUGMENT = 'data.augment={gain: [-6, 6], speed: [0.9, 1.1]}'
NOISY = 'data.store={}/noisy','data.views=2','data.augment={noise: {snr: [5, 20]}}','data.batching=buckets'
SOURCES = dict(store=['data.store={}/store'], parts=['data.store={}/parted', 'data.valid={other: {}/other.tsv}', 'train.checkpoint.monitor=mean/mse'],
    live=['data.live=true', AUGMENT], views=['data.store={}/viewed', 'data.views=2', AUGMENT],
    consistency=[*NOISY, 'model.losses.consistency=0.5'],
    denoising=[*NOISY, 'model.losses.denoising=1.0'],
    masked=['data.store={}/store', 'model.losses.masked_prediction=0.5', 'model.masking={width: 16, layers: 1, codebook_size: 32}'],
    own=['data.store={}/store', 'model.losses.masked_prediction=0.5', 'model.masking={targets: own, width: 16, layers: 1, decay: 0.9}'],
    contrastive=['data.store={}/store', 'model.losses.contrastive=0.5', 'model.contrastive={steps: 3, negatives: 8, width: 16, temperature: 0.5}'],
    speaker=['data.store={}/store', 'model.speaker={dim: 8, width: 16}', 'model.jitter=0.2', 'model.losses.speaker_adversary=0.1'])

def changes(data, quantizer, source='store', workers=0, world=1, more=()):
    where = [o.replace('{}', str(data)) for o in SOURCES[source]]
    return [*SMALL, *DROPOUT, *QUANTIZERS[quantizer], f'data.corpus={data/"few.tsv"}', *where, f'data.workers={workers}', f'data.batch_size={8//world}', *more]

def table(path): return pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=[*TIMINGS], errors='ignore')
def tensors(run):
    "All that a run ends with: name -> tensor"
    last = step_checkpoints(run/'checkpoints')[-1]
    return {f'{o.parent.name}/{o.stem}/{k}':v for o in [*last.glob('*.safetensors'), *(run/'checkpoints/best').glob('*.safetensors')] for k,v in load_file(o).items()}
def differing(a, b):
    "Names of what is not the same in two runs, to the bit"
    x,y = tensors(a),tensors(b)
    if x.keys() != y.keys(): return sorted(x.keys() ^ y.keys())
    def _bytes(v): return v.reshape(-1).contiguous().view(torch.uint8)
    return [k for k in x if not torch.equal(_bytes(x[k]), _bytes(y[k]))] + [f for f in ('log.csv','steps.csv') if not table(a/f).equals(table(b/f))]
def errors(run): return ''.join(o.read_text() for o in sorted(run.parent.glob(f'{run.name}.err*')))

# In all: 20 kills. `time` is a share of what the undisturbed run takes.
EVENTS = ('before_batch','after_pred','after_backward','after_step','after_batch','before_validate','after_validate','after_epoch','before_train')
CASES = dict(vq=dict(quantizer='vq', kills=5), vq2=dict(quantizer='vq', world=2, workers=2, kills=3), gumbel=dict(quantizer='gumbel', world=2, kills=4), fsq=dict(quantizer='fsq', source='live', workers=2, kills=4), residual=dict(quantizer='residual', source='live', world=2, kills=4), views=dict(quantizer='vq', source='views', workers=2, kills=3), consistency=dict(quantizer='fsq', source='consistency', world=2, kills=3), denoising=dict(quantizer='vq', source='denoising', world=2, kills=2),
    parts=dict(quantizer='vq', source='parts', world=2, kills=3),
    masked=dict(quantizer='fsq', source='masked', kills=2), own=dict(quantizer='vq', source='own', world=2, kills=3), contrastive=dict(quantizer='vq', source='contrastive', workers=2, kills=3),
    speaker=dict(quantizer='vq', source='speaker', world=2, workers=2, kills=3))

def kill_point(rng, world, i, seconds):
    "At random: a third within the writing of a checkpoint, the others in the steps and between them; a run takes `seconds`"
    if i%3 == 1: return [0, 'write', rng.randint(1, 60)]
    if i%3 == 2: return ['all', 'time', rng.uniform(0.2, 0.5)*seconds]
    what = rng.choice(EVENTS)
    return [rng.randrange(world), what, rng.randint(1, 14) if 'batch' in what or what in ('after_pred','after_backward','after_step') else 1]

@pytest.mark.parametrize('case', [pytest.param(o, marks=[pytest.mark.slow]*(o in ('vq2','gumbel'))) for o in CASES])
def test_killed(worker, data, tmp_path, case):
    "Killed again and again, resumed, and not a bit is different"
    c = dict(CASES[case])
    n,world = c.pop('kills'),c.get('world', 1)
    ch,began = changes(data, **c),time.monotonic()
    assert worker(args=['mfcc-vq', str(tmp_path/'straight'), ch], world=world) == [0]*world, errors(tmp_path/'straight')
    seconds = time.monotonic()-began
    rng,ended = random.Random(case),[]
    for i in range(n):
        kill = kill_point(rng, world, i, seconds)
        codes = worker(args=['mfcc-vq', str(tmp_path/'killed'), ch], world=world, kill=kill)
        ended.append((kill, codes))
        if set(codes) == {0}: shutil.rmtree(tmp_path/'killed') # it was done before it could be killed: from the start again
    assert sum(-9 in o for _,o in ended) >= n-1, (ended, errors(tmp_path/'killed'))
    assert worker(args=['mfcc-vq', str(tmp_path/'killed'), ch], world=world) == [0]*world, errors(tmp_path/'killed')
    assert differing(tmp_path/'straight', tmp_path/'killed') == [], ended
    assert len(table(tmp_path/'killed/log.csv')) == 4 and not list((tmp_path/'killed/checkpoints').glob('.*'))

def resign(path, **state):
    "Make a changed checkpoint whole again"
    s = json.loads((path/'state.json').read_text()) | state
    s.pop('self')
    s['sha256'] = {o.name:_file_sha256(o) for o in path.glob('*.safetensors')}
    (path/'state.json').write_text(json.dumps(s | dict(self=_state_sha256(s))))

def forget(path, what):
    "A checkpoint that lacks something: it is as at the start"
    def _edit(name, f):
        t = load_file(path/f'{name}.safetensors')
        save_file({k:f(k, v) for k,v in t.items()}, path/f'{name}.safetensors')
    state = verify_checkpoint(path)
    if what == 'codebook averages': _edit('model', lambda k,v: torch.ones_like(v) if k in ('quantizer.counts','quantizer.sums') else v)
    elif what == 'count of draws': _edit('model', lambda k,v: torch.zeros_like(v) if k == 'quantizer.draws' else v)
    elif what == 'random generators': _edit('rng', lambda k,v: torch.manual_seed(0).get_state() if k == '0.torch' else v)
    elif what == 'optimizer': _edit('optimizer', lambda k,v: torch.zeros_like(v))
    elif what == 'schedule': return resign(path, pct_train=0.)
    elif what == 'place in the data': return resign(path, done=state['done']-1)
    elif what == 'sums of the log': _edit('callbacks', lambda k,v: torch.zeros_like(v) if k == 'run_log.sums' else v)
    resign(path)

PARTS = ('codebook averages','count of draws','random generators','optimizer','schedule','place in the data','sums of the log')

@pytest.mark.slow
def test_controls(worker, data, tmp_path):
    "The comparison would see each thing that a checkpoint could lack"
    ch = changes(data, 'vq')
    assert worker(args=['mfcc-vq', str(tmp_path/'straight'), ch], world=1) == [0]
    assert worker(args=['mfcc-vq', str(tmp_path/'killed'), ch], world=1, kill=[0, 'before_batch', 24])[0] == -9
    for what in ('nothing',*PARTS):
        run = tmp_path/what
        shutil.copytree(tmp_path/'killed', run)
        last = step_checkpoints(run/'checkpoints')[-1]
        assert 0 < verify_checkpoint(last)['done'] < verify_checkpoint(last)['batches'] # in the middle of an epoch
        forget(last, what)
        assert worker(args=['mfcc-vq', str(run), ch], world=1) == [0], errors(run)
        assert bool(differing(tmp_path/'straight', run)) == (what != 'nothing'), what

@pytest.mark.parametrize('quantizer,batching,source', [*((q,'crops','store') for q in QUANTIZERS), ('vq','buckets','store'), ('gumbel','packed','store'), ('vq','buckets','views'), ('vq','packed','views'), ('vq','buckets','consistency'), ('vq','buckets','denoising'), ('vq','crops','masked'), ('vq','packed','own'), ('vq','packed','contrastive'), ('vq','crops','parts'), ('vq','crops','speaker')])
def test_two_are_one(worker, data, tmp_path, quantizer, batching, source):
    "Two processes with half the batch each follow one for fifty steps. In validation the diversity of codes is that of each batch, so it is left out"
    more = ['model.encoder.dropout=0', 'model.decoder.dropout=0', f'data.batching={batching}', 'train.epoch_steps=10', 'train.epochs=5', 'train.log_steps=1', 'train.checkpoint.steps=1000', 'train.precision=fp32', 'train.accumulate=1', 'data.longest_s=2']
    for world in (1,2): assert worker(args=['mfcc-vq', str(tmp_path/str(world)), changes(data, quantizer, source, world=world, more=more)], world=world) == [0]*world, errors(tmp_path/str(world))
    one,two = (pd.read_csv(tmp_path/o/'steps.csv') for o in '12')
    assert len(one) == 50
    predicted = [k for k in ('masked_prediction','contrastive') if k in one]
    assert bool(predicted) == (source in ('masked','own','contrastive'))
    adversary = ['speaker_adversary','speaker_accuracy'] if source == 'speaker' else []
    for k in ('loss','mse','grad_norm','usage','perplexity',*predicted,*adversary): np.testing.assert_allclose(one[k], two[k], rtol=1e-4 if k != 'grad_norm' else 2e-3, err_msg=k)
    one,two = (pd.read_csv(tmp_path/o/'log.csv') for o in '12')
    parts = ['other/mse','other/nre','other/usage','mean/loss'] if source == 'parts' else []
    for k in ('train_loss','valid_mse','nre','usage','perplexity', *parts, *(f'valid_{k}' for k in predicted)): np.testing.assert_allclose(one[k], two[k], rtol=1e-4, err_msg=k)
    a,b = (load_file(step_checkpoints(tmp_path/o/'checkpoints')[-1]/'model.safetensors') for o in '12')
    for k in a:
        if 'codebook' in k or 'counts' in k: torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-3, msg=lambda m: f'{k}: {m}')

# Through Whisper: phases that change losses and grow the codebook, texts, transcripts
WHISPER = ['data.batching=buckets', 'model.encoder={name: bottleneck, dropout: 0.1}', 'model.decoder={name: bottleneck, layers: 1, dropout: 0.1}', 'model.quantizer={name: vq, dim: features, codebook_size: 32, revive_below: 0.5}',
    'model.losses={mse: 1.0, kl: 0.0, ce: 0.0, commitment: 0.25}', 'train.phases=[{epochs: 1}, {epochs: 1, losses: {kl: 1.0}}, {epochs: 1, codebook_size: 80}, {epochs: 1, losses: {kl: 0.0, ce: 0.5}}]', 'train.wer=2', 'train.lr=4e-3', 'train.log_steps=2',
    'train.checkpoint={steps: 3, keep: 2, monitor: valid_kl}']

@pytest.fixture(scope='module')
def spoken(data, tmp_path_factory):
    "The same recordings for a small Whisper, which knows English and Spanish"
    from quantizer.whisper.teacher import random_whisper
    d = tmp_path_factory.mktemp('spoken')
    (d/'sample').symlink_to(data/'sample')
    c = Corpus.load(data/'few.tsv')
    c = c.select(c.df.language.isin(['en','es']).to_numpy() & (c.df.duration_s < 3).to_numpy())
    c.df.to_csv(d/'few.tsv', sep='\t', index=False)
    other = Corpus.load(data/'other.tsv')
    other.select(other.df.language.isin(['en','es']).to_numpy()).df.to_csv(d/'other.tsv', sep='\t', index=False)
    (d/'whisper').mkdir()
    random_whisper(d/'whisper', layers=1)
    return d

def through_whisper(d, world=1, topk=8, more=()):
    return [f'data.corpus={d/"few.tsv"}', f'data.store={d/"features"}', f'features={{name: whisper, model: {d/"whisper"}, pad: true}}', *WHISPER, f'model.teacher={{topk: {topk}, store: {d/f"targets{topk}"}}}', f'data.batch_size={6//world}', *more]

@pytest.mark.parametrize('world,topk,kills', [pytest.param(1, 8, 4, marks=pytest.mark.slow), (2,0,2)])
def test_whisper_killed(worker, spoken, tmp_path, world, topk, kills):
    "Phases, growth and text keep the promise too"
    ch,rng = through_whisper(spoken, world, topk),random.Random(world)
    assert worker(args=['mfcc-vq', str(tmp_path/'straight'), ch], world=world) == [0]*world, errors(tmp_path/'straight')
    log = table(tmp_path/'straight/log.csv')
    assert log.bitrate.astype(float).round(1).tolist() == [125.,125.,158.,158.] # 5, then log2(80) bits at 25 Hz
    assert [o == 'nan' for o in log.train_kl] == [True,False,False,topk == 0] and ['nan' in o for o in log.valid_kl] == [False]*4 and [o == 'nan' for o in log.wer] == [True,False,True,False]
    steps,seen = pd.read_csv(tmp_path/'straight/steps.csv').step.max(),0
    for i in range(kills): # one in each phase, by turns in a step and in the writing of a checkpoint
        kill = [rng.randrange(world), 'before_batch', rng.randint(2, steps//kills+2)] if i % 2 == 0 else [0, 'write', rng.randint(5, 40)]
        seen += -9 in worker(args=['mfcc-vq', str(tmp_path/'killed'), ch], world=world, kill=kill)
    assert seen >= kills-1, errors(tmp_path/'killed')
    assert worker(args=['mfcc-vq', str(tmp_path/'killed'), ch], world=world) == [0]*world, errors(tmp_path/'killed')
    assert differing(tmp_path/'straight', tmp_path/'killed') == []

def test_whisper_two_are_one(worker, spoken, tmp_path):
    "Losses of text are means over the tokens of all processes, in a validation part from another corpus too"
    more = [f'data.valid={{other: {spoken}/other.tsv}}', f'data.store={spoken}/parted', 'model.encoder={name: bottleneck}', 'model.decoder={name: bottleneck, layers: 1}', 'train.phases=null', 'train.epochs=2', 'train.wer=0', 'model.losses={mse: 1.0, kl: 1.0, ce: 0.5, commitment: 0.25}', 'train.epoch_steps=10', 'train.log_steps=1']
    for world in (1,2): assert worker(args=['mfcc-vq', str(tmp_path/str(world)), through_whisper(spoken, world, more=more)], world=world) == [0]*world, errors(tmp_path/str(world))
    one,two = (pd.read_csv(tmp_path/o/'steps.csv') for o in '12')
    assert len(one) == 20
    for k in ('loss','mse','kl','ce','accuracy'): np.testing.assert_allclose(one[k], two[k], rtol=1e-4, atol=1e-6, err_msg=k)
    one,two = (pd.read_csv(tmp_path/o/'log.csv') for o in '12')
    for k in ('valid_mse','valid_kl','valid_ce','valid_accuracy','other/kl','other/ce','other/accuracy','mean/kl'): np.testing.assert_allclose(one[k], two[k], rtol=1e-4, atol=1e-6, err_msg=k)
