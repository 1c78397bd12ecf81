"A sweep: killed anywhere and started again, no run is trained twice; processes and Ray give what one process gives"
import os, signal, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path

import numpy as np, pandas as pd, pytest, yaml
from quantizer.all import Corpus, QuantizerError
from quantizer.app.cli import main
from quantizer.app.sweep import plan_sweep, train_sweep

OVER = ['model.quantizer.codebook_size=8,16', 'seed=0,1']
NAMES = [f'codebook_size={k},seed={s}' for k in (8,16) for s in (0,1)]

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "Changes for runs of a second on twenty recordings"
    c,path = Corpus.sample().select(range(0, 319, 16)),tmp_path_factory.mktemp('data')/'few.tsv'
    c.df.assign(path=[str(c.file(i)) for i in range(len(c))], split=np.where(np.arange(len(c))%5 == 0, 'valid', 'train')).to_csv(path, sep='\t', index=False)
    return [f'data.corpus={path}', 'model.encoder.width=16', 'model.decoder.width=16', 'train.epochs=2', 'train.epoch_steps=2']

@pytest.fixture(scope='module')
def whole(small, tmp_path_factory):
    "The folder of an undisturbed sweep in this process"
    out = tmp_path_factory.mktemp('whole')/'sweep'
    train_sweep('mfcc-vq', OVER, out, small, progress=False)
    return out

def table(folder): return (folder/'sweep.csv').read_text()
def events(run): return list(pd.read_csv(run/'events.csv').kind)
def command(small, out, *more): return ['sweep', 'mfcc-vq', *small, *(f'--over={o}' for o in OVER), '--out', str(out), *more]
def start(*args): return subprocess.Popen([sys.executable, '-m', 'quantizer', *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
def wait_for(what, seconds=60):
    until = time.monotonic()+seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)

def test_folder(whole, small):
    "Ordinary runs, one store, a table"
    assert sorted(o.name for o in whole.iterdir() if not o.name.startswith('features-')) == sorted([*NAMES, 'sweep.csv'])
    (store,) = whole.glob('features-*')
    for name,size,seed in zip(NAMES, (8,8,16,16), (0,1,0,1)):
        cfg = yaml.safe_load((whole/name/'config.yaml').read_text())
        assert (cfg['model']['quantizer']['codebook_size'], cfg['seed'], cfg['data']['store']) == (size, seed, str(store))
        assert not (whole/name/'features').exists() and (whole/name/'tokenizer').is_dir()
    assert list(pd.read_csv(whole/'sweep.csv').bitrate.round()) == [150, 150, 200, 200]

@pytest.mark.parametrize('how', [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_killed(whole, small, tmp_path, how):
    "Stopped while the second run trains: the first is not touched again, the store is not extracted again, the table is the same"
    out = tmp_path/'sweep'
    p = start(*command(small, out))
    wait_for((out/NAMES[1]/'steps.csv').exists)
    p.send_signal(how)
    p.communicate()
    assert p.returncode == (130 if how == signal.SIGINT else -how)
    def _times(): return {o:o.stat().st_mtime_ns for o in [*(out/NAMES[0]).rglob('*'), *out.glob('features-*/*')] if o.name != '.lock'}
    before = _times()
    assert not (out/NAMES[1]/'report.html').exists()
    train_sweep('mfcc-vq', OVER, out, small, progress=False)
    assert _times() == before and table(out) == table(whole)
    assert events(out/NAMES[1]).count('finished') == 1

@pytest.mark.slow # each process imports torch
def test_processes(whole, small, tmp_path):
    "Two at a time, stopped by SIGTERM: the children save and end; continued, the table is the same"
    out = tmp_path/'sweep'
    p = start(*command(small, out, '--jobs', '2'))
    wait_for(lambda: any((out/o/'steps.csv').exists() for o in NAMES))
    p.terminate()
    p.communicate()
    assert p.returncode == 143
    assert not any(train_sweep('mfcc-vq', OVER, out, small, jobs=2).problem) # a child that was left would hold the lock of its run
    assert table(out) == table(whole)

@pytest.mark.skipif(not find_spec('ray'), reason='needs Ray: pip install quantizer[ray]')
def test_ray(whole, small, tmp_path):
    p = subprocess.run([sys.executable, '-m', 'quantizer', *command(small, tmp_path/'sweep', '--engine', 'ray')], env={**os.environ, 'RAY_AUTH_MODE':'disabled'})
    assert p.returncode == 0 and table(tmp_path/'sweep') == table(whole)

@pytest.mark.parametrize('jobs', [[], pytest.param(['--jobs','2'], marks=pytest.mark.slow)])
def test_failures(small, tmp_path, capsys, jobs):
    "A run that diverges and a config that is refused: each has a line, the other run is finished, the exit code is 1"
    out = tmp_path/'sweep'
    over = ['--over=model.quantizer.name=vq,fsq', '--over=model.quantizer.codebook_size=31', '--over=train.lr=1e-3,1e30']
    assert main(['sweep', 'mfcc-vq', *small, *over, '--out', str(out), *jobs]) == 1
    found = pd.read_csv(out/'sweep.csv').set_index('name').problem.fillna('')
    assert [o.split(' in epoch')[0].split(' ')[0] for o in found[:2]] == ['', 'training'] and 'diverged' in found.iloc[1]
    assert all(o.startswith('codebook_size is 31: not a product of levels') for o in found[2:])
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == f'quantizer: 3 of 4 runs failed; the others are in {out}'
    assert [sum(o.startswith(f'{name}: ') for o in err) for name in found.index] == [0, 1, 1, 1]

@pytest.mark.parametrize('over,told', [
    (['model.quantzer.codebook_size=8,16'], 'quantzer'), (['model.quantizer.codebook_size=8,8'], "would be called 'codebook_size=8'"), (['seed'], 'expected key.sub=value,value'),
    (['seed=[1'], 'expected values of YAML'), (['seed=1', 'seed=2'], 'given twice'), (['train.epochs=-1,0'], 'none of the 2 combinations can be trained')])
def test_refused(small, tmp_path, capsys, over, told):
    "Before any work, in one line"
    assert main(['sweep', 'mfcc-vq', *small, *(f'--over={o}' for o in over), '--out', str(tmp_path/'sweep')]) == 1
    err = capsys.readouterr().err
    assert told in err and err.count('\n') == 1 and not (tmp_path/'sweep').exists()

def test_another_folder(small, tmp_path):
    (tmp_path/'mine.txt').touch()
    with pytest.raises(QuantizerError, match="holds 'mine.txt', which is not of a sweep"): plan_sweep('mfcc-vq', OVER, tmp_path, small)
    with pytest.raises(QuantizerError, match='is a file'): plan_sweep('mfcc-vq', OVER, tmp_path/'mine.txt', small)

def test_stores(small, tmp_path):
    "One for each kind of features; none where the config has its own, or features are live"
    def _stores(over, *more): return [o.store for o in plan_sweep('mfcc-vq', over, tmp_path/'sweep', [*small, *more])]
    a,b,c,d = _stores(['features.n_mfcc=13,20', 'seed=0,1'])
    assert a == b != c == d and a.parent == tmp_path/'sweep'
    assert _stores(['seed=0,1'], f'data.store={tmp_path}/store') == _stores(['seed=0,1'], 'data.live=true') == [None, None]
    one,other = _stores(['data.dtype=float32,float16'])
    assert one != other

def test_other_settings(whole, small, capsys):
    "The runs of a sweep keep their settings"
    assert main(['sweep', 'mfcc-vq', *small, 'train.epochs=3', *(f'--over={o}' for o in OVER), '--out', str(whole)]) == 1
    assert "'train.epochs' is 3, and the run was started with 2" in capsys.readouterr().err

@pytest.mark.slow
def test_comparison(whole, small, capsys):
    "The command ends with a page of all runs"
    assert main(command(small, whole)) == 0
    page = whole/'comparison/comparison.html'
    assert f'4 systems: {page}' in capsys.readouterr().out and all(o in page.read_text() for o in NAMES)
