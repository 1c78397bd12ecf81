"""This version reads what an earlier one wrote, and computes the same numbers

make_golden.py made the files in `golden`, and tests never make them anew: a change that has to touch a number
says so by replacing them. On a processor like the one they were made on, numbers must be equal to the last
digit. Others round otherwise, and training spreads that: there, numbers are compared within the tolerances
below. `test_machine` says which of the two holds."""
import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from golden_tools import machine, rows, summary
from quantizer.all import (FEATURES, MFCC, QUANTIZERS, Corpus, FeatureStore, QuantizerError, Tokenizer,
                           load_config, load_tokens)
from safetensors.torch import load_file, save_file

golden = Path(__file__).with_name('golden')
TIMINGS = {'time_s', 'step_s', 'data_wait', 'frames_per_s', 'memory_mb'}  # no two runs have them alike

# How far apart numbers may be on another processor
FRAMES = 2e-3  # features, some of which are float16
FIGURES = 1e-3  # figures of short trainings
LOOSE = 0.05  # of long ones, and of those in bfloat16
COUNTED = 0.1  # of what counts codes or words, and jumps where one is another
CODES = 0.02  # share of the codes that are others
COUNTS = ('usage', 'dead', 'perplexity', 'entropy', 'purity', 'wer', 'cer', 'hallucin', 'accuracy', 'whisper')


def read(name):
    "A JSON file of the golden ones"
    return json.loads((golden/name).read_text())


EXACT = machine() == read('machine.json')


def is_number(o):
    "A number, or a text that is one?"
    try:
        return not isinstance(o, bool) and (math.isfinite(float(o)) or math.isnan(float(o)))
    except (TypeError, ValueError):
        return False


def close(a, b, tolerance):
    "Are two numbers the same, or near on another processor?"
    a, b = float(a), float(b)
    if a == b or math.isnan(a) and math.isnan(b):
        return True
    return not EXACT and abs(a-b) <= tolerance*max(1, abs(a), abs(b))


def differing(new, old, tolerance=FIGURES):
    "The numbers of `old`, by name, that `new` has not, or has otherwise; `new` may have more"
    res = []
    for k, v in old.items():
        if k in TIMINGS or not is_number(v):
            continue
        most = max(tolerance, COUNTED) if any(o in k for o in COUNTS) else tolerance
        if not is_number(new.get(k)) or not (k == 'dead' and not EXACT or close(new[k], v, most)):
            res.append(f'{k} is {new.get(k)}, was {v}')
    return res


def differing_rows(new, old, tolerance=FIGURES):
    "The same of tables, row by row"
    if len(new) != len(old):
        return [f'{len(new)} rows, were {len(old)}']
    return [f'row {i+1}: {o}' for i, (a, b) in enumerate(zip(new, old)) for o in differing(a, b, tolerance)]


def differing_tensors(new, old, tolerance=FIGURES):
    "Names of tensors, as `summary` tells of them, whose bytes are others; elsewhere, whose size is"
    def _same(a, b):
        return a[0] == b[0] if EXACT else close(a[1], b[1], tolerance)
    return [k for k, v in old.items() if k not in new or not _same(new[k], v)]


def check_tensor(new, old, tolerance=FRAMES):
    "Equal to the last digit, or near"
    assert new.shape == old.shape and new.dtype == old.dtype
    if EXACT:
        assert torch.equal(new, old)
    else:
        torch.testing.assert_close(new, old, rtol=tolerance, atol=tolerance)


def check_tensors(new, old):
    "The same of files"
    now, was = load_file(new), load_file(old)
    assert now.keys() == was.keys()
    for k, v in was.items():
        check_tensor(now[k], v)


def check_config(new, old, at):
    "Every key has the value that it had; there may be more keys"
    for k, v in old.items():
        if isinstance(v, dict):
            check_config(new[k], v, f'{at}.{k}')
        else:
            assert new[k] == v, f'{at}.{k}'


RUNS = read('runs.json')
TOKENIZERS = sorted(o.name for o in (golden/'tokenizers').iterdir())


@pytest.fixture(autouse=True)
def one_thread():
    "Sums are cut by threads, and so rounded"
    was = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(was)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with what the golden files speak of: two corpora, and features"
    to = tmp_path_factory.mktemp('golden')
    sample = Corpus.sample()
    (to/'words').mkdir()
    for o in ('few.tsv', 'spoken.tsv'):
        shutil.copy(golden/o, to)
    used = {*Corpus.load(to/'few.tsv').df.path, *Corpus.load(to/'spoken.tsv').df.path}
    for o in used.union(load_file(golden/'tokenizers/vq/tokens.safetensors')):
        shutil.copy(sample.root/o, to/o)
    shutil.copytree(golden/'store', to/'store')
    return to


@pytest.fixture(scope='module')
def command(place):
    "Runs the command in `place`"
    worker = [sys.executable, '-W', 'ignore', Path(__file__).with_name('golden_tools.py')]
    env = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', MPLBACKEND='Agg')
    p = subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def _do(args, world=1, whisper=None):
        given = [o.replace('/PLACE/', f'{place}/') for o in args]
        whisper = whisper and whisper.replace('/PLACE/', f'{place}/')
        p.stdin.write(json.dumps(dict(args=given, cwd=str(place), world=world, whisper=whisper))+'\n')
        p.stdin.flush()
        codes = json.loads(p.stdout.readline())
        assert codes == [0]*world, (place/'said.txt').read_text()[-3000:]
    assert p.stdout.readline() == 'ready\n'
    yield _do
    p.stdin.close()
    assert p.wait(timeout=20) == 0


def test_machine(capsys):
    "Says how closely numbers are compared"
    was = read('machine.json')
    others = [k for k, v in machine().items() if v != was[k]]
    how = 'to the last digit'
    if others:
        how = f"within tolerances, as this machine has another {', '.join(others)}"
    with capsys.disabled():
        print(f'\ngolden files: numbers are compared {how}')
    if others:
        warnings.warn(f'golden files: numbers are compared {how}')


@pytest.mark.parametrize('name', read('configs.json'))
def test_configs(name):
    "A packaged config says what it said"
    check_config(load_config(name), read('configs.json')[name], name)


@pytest.mark.parametrize('name', read('fronts.json'))
def test_fronts(name, tmp_path):
    "Frames of a recording"
    c, was = Corpus.sample(), read('fronts.json')[name]
    i = list(c.df.path).index('words/en_allison_10.flac')
    x = FEATURES[name](**was['args'])(c.audio(i, 16000)[None])[0][0]
    assert list(x.shape) == was['shape']
    check_tensor(x.mean(0), torch.tensor(was['means']))
    save_file(dict(x=x), tmp_path/'frames.safetensors')
    assert not differing_tensors(summary(tmp_path/'frames.safetensors'), dict(x=was['frames']), FRAMES)


def test_names():
    "Quantizers go by the names they had"
    old = [read(f'tokenizers/{o}/tokenizer/config.json')['model']['quantizer']['name'] for o in TOKENIZERS]
    assert {*old} <= QUANTIZERS.keys()


@pytest.mark.parametrize('name', TOKENIZERS)
def test_tokenizer(name):
    "It loads with its fingerprint, takes its token file, and gives the same codes and the same features"
    folder = golden/'tokenizers'/name
    t = Tokenizer.load(folder/'tokenizer')
    assert t.fingerprint == read(f'tokenizers/{name}/tokenizer/config.json')['fingerprint']
    tokens, features = load_tokens(folder/'tokens.safetensors', t), load_file(folder/'features.safetensors')
    assert tokens.keys() == features.keys() and len(tokens) == 2
    c = Corpus.sample()
    for k, codes in tokens.items():
        now = t.encode(c.audio(list(c.df.path).index(k), t.sample_rate), t.sample_rate)
        assert now.shape == codes.shape and now.dtype == codes.dtype
        assert (now != codes).float().mean() <= (0 if EXACT else CODES)
        check_tensor(t.decode(codes), features[k])


def test_tokens_of_another():
    "A token file is refused by a tokenizer that did not make it"
    other = Tokenizer.load(golden/'tokenizers/fsq/tokenizer')
    with pytest.raises(QuantizerError, match='was made by'):
        load_tokens(golden/'tokenizers/vq/tokens.safetensors', other)


def test_commands(command, place):
    "`encode` and `decode` write what they wrote"
    old = golden/'tokenizers/vq'
    folder = str(old/'tokenizer')
    tokens, features = (str(old/f'{o}.safetensors') for o in ('tokens', 'features'))
    command(['encode', folder, *load_tokens(tokens), '--out', 'tokens.safetensors'])
    command(['decode', folder, tokens, '--out', 'decoded'])
    check_tensors(place/'tokens.safetensors', tokens)
    check_tensors(place/'decoded/features.safetensors', features)


@pytest.mark.parametrize('where,dtype', [('store', 'float32'), ('stopped/plateau/features', 'float16')])
def test_store(place, where, dtype):
    "It is whole, of these features and recordings, and has the frames that are extracted today"
    mfcc = MFCC(n_mfcc=4, deltas=1)
    corpus = Corpus.load(place/'few.tsv')
    store = FeatureStore(golden/where, mfcc.identity, corpus)
    assert len(store) == len(corpus) and str(store.dtype) == dtype and store.verify() == []
    stored = [store.read(i) for i in range(len(store))]
    for i, x in enumerate(stored):
        now = mfcc(corpus.audio(i, 16000)[None])[0][0]
        check_tensor(now.to(getattr(torch, dtype)).float(), x)
    raw = np.fromfile(golden/where/'shard-00000.bin', dtype).astype(np.float32)
    assert np.array_equal(torch.cat(stored).numpy().ravel(), raw)


def test_store_of_others(place):
    "Other features are refused, and so are recordings that it has not"
    with pytest.raises(QuantizerError, match='n_mfcc'):
        FeatureStore(golden/'store', MFCC(n_mfcc=5, deltas=1).identity)
    with pytest.raises(QuantizerError, match='has not'):
        FeatureStore(golden/'store', MFCC(n_mfcc=4, deltas=1).identity, Corpus.sample())


def check_run(run, log, steps, measures, weights, tolerance=FIGURES):
    "A run ends as it did: tables, measures, weights, and the moments of the optimizer"
    assert not differing_rows(rows(run/'log.csv')[-len(log):], log, tolerance)
    assert steps is None or not differing_rows(rows(run/'steps.csv'), steps, tolerance)
    found = json.loads((run/'measures.json').read_text())
    for k, v in measures.items():
        assert not differing(found[k], v, tolerance), k
    for k in ('model', 'optimizer'):
        now = summary(run/'checkpoints'/weights['checkpoint']/f'{k}.safetensors')
        assert not differing_tensors(now, weights[k], tolerance), k


def check_golden_run(run, name):
    "The same against the record in `golden/runs`"
    old = golden/'runs'/name
    measures, weights = (json.loads((old/f'{o}.json').read_text()) for o in ('measures', 'weights'))
    log = rows(old/'log.csv')
    assert len(rows(run/'log.csv')) == len(log)
    tolerance = LOOSE if 'train.precision=bf16' in RUNS[name]['args'] else FIGURES
    check_run(run, log, rows(old/'steps.csv'), measures, weights, tolerance)


def marked(name):
    "A run as a parameter; some are run with `--slow` only"
    return pytest.param(name, marks=pytest.mark.slow if RUNS[name].get('slow') else ())


@pytest.mark.parametrize('name', map(marked, RUNS))
def test_run(command, place, name):
    "A training from its beginning"
    job = RUNS[name]
    command([*job['args'], '--out', f'runs/{name}'], job.get('world', 1), job.get('whisper'))
    if 'whisper' in job:
        other = differing_tensors(summary(place/'whisper/model.safetensors'), read('whisper.json'))
        if other:
            pytest.skip(f'transformers makes another random Whisper: {other[0]}')
    check_golden_run(place/'runs'/name, name)


@pytest.mark.parametrize('name', ['plateau', 'phases', 'two'])
def test_resumes(command, place, name):
    "A run that was stopped goes on to where one ended that was not"
    run = place/'stopped'/name
    shutil.copytree(golden/'stopped'/name, run)
    settings = (run/'config.yaml').read_text().replace('/PLACE/', f'{place}/')
    stored = yaml.safe_load(settings)
    assert stored['train'].pop('wd') == 0.01 # a key with its default may be missing: older versions did not have all
    (run/'config.yaml').write_text(yaml.safe_dump(stored, sort_keys=False))
    (place/'sorted.yaml').write_text(yaml.safe_dump(stored)) # the same in another order
    last, = (run/'checkpoints').glob('step-*')
    command(['train', 'sorted.yaml', '--resume', '--out', f'stopped/{name}'], RUNS[name].get('world', 1))
    check_config(yaml.safe_load((run/'config.yaml').read_text()), yaml.safe_load(settings), name)
    kinds = [o['kind'] for o in rows(run/'events.csv')]
    assert kinds.count('started') == kinds.count('resumed') == 1
    assert int(rows(run/'events.csv')[kinds.index('resumed')]['step']) == int(last.name[5:])
    check_golden_run(run, name)


@pytest.mark.slow
@pytest.mark.parametrize('name', read('demo.json'))
def test_demo(command, place, name):
    "`make demo`"
    was = read('demo.json')[name]
    command([*was['args'], '--out', f'demo/{name}'])
    check_run(place/'demo'/name, was['log'], None, was['measures'], was['weights'], LOOSE)
