"Extraction that is killed, shared out, or done elsewhere ends in the same store"
import os, signal, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path

import numpy as np, pytest
from quantizer.all import Corpus, MFCC, build_store, extract_features
from quantizer.data.store import is_finished
from quantizer.app.cli import main

CODE = """
import sys
from quantizer.all import *
build_store(Corpus.sample(), MFCC(), sys.argv[1], shard_mb=0.3, workers=int(sys.argv[2]), progress=False)
print('done')"""

def files(p): return {o.name:o.read_bytes() for o in Path(p).iterdir()}

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A store that was made without a break"
    d = tmp_path_factory.mktemp('whole')/'store'
    build_store(Corpus.sample(), MFCC(), d, shard_mb=0.3, progress=False)
    return files(d)

def children(pid): return [int(o) for o in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]

def gone(pid):
    "Has a process ended?"
    try: return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    except FileNotFoundError: return True

@pytest.mark.parametrize('workers', [0, 2])
def test_killed(tmp_path, whole, workers):
    "Killed without warning at any point, again and again, and run again: the same bytes; no process stays behind, nothing that was finished is done again"
    assert len([o for o in whole if o.endswith('.bin')]) > 10
    rng,store,left,kills = np.random.default_rng(workers),tmp_path/'store',{},0
    while not is_finished(store):
        if not (pid := os.fork()):
            try: build_store(Corpus.sample(), MFCC(), store, shard_mb=0.3, workers=workers, progress=False)
            finally: os._exit(0)
        more = len(left)+rng.integers(0, 3)
        while len([*store.glob('shard-*.parquet')]) < more and not gone(pid): time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        others = [] if gone(pid) else children(pid)
        os.kill(pid, signal.SIGKILL)
        kills += os.waitpid(pid, 0)[1] == signal.SIGKILL
        end = time.time()+20
        while not all(map(gone, others)): # they see that their parent has gone
            assert time.time() < end
            time.sleep(0.02)
        now = {o.stem:o.with_suffix('.bin').stat().st_mtime_ns for o in store.glob('shard-*.parquet')} # its rows are there: it is finished
        if not is_finished(store): assert {k:now.get(k) for k in left} == left
        left = now
    assert kills > 1 # on a busy machine several shards are finished before a kill
    build_store(Corpus.sample(), MFCC(), store, shard_mb=0.3, progress=False) # sweeps up
    assert files(store) == whole

def test_sigint(tmp_path, whole):
    "Ctrl-C ends all processes with exit code 130 and one line; the same command goes on"
    args = [sys.executable, '-m', 'quantizer', 'features', 'mfcc-vq', 'data.extract.workers=2', 'data.extract.shard_mb=0.3', '--out', str(tmp_path/'store')]
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while p.poll() is None and not any(tmp_path.rglob('*.tmp-*')): time.sleep(0.002)
    os.killpg(p.pid, signal.SIGINT)
    _,err = p.communicate(timeout=60)
    assert (p.returncode, err.strip().splitlines()[-1]) == (130, 'quantizer: interrupted') and 'Traceback' not in err
    assert main(args[3:]) == 0
    assert files(tmp_path/'store') == whole

def test_elsewhere(tmp_path, whole):
    "A store at an fsspec address holds the same shards, and trains"
    store = build_store(Corpus.sample(), MFCC(), 'memory://test/mfcc', shard_mb=0.3, progress=False)
    assert {o:store.folder.read(o) for o in store.folder.names()} == whole
    assert store.verify() == []
    args = ['train.epochs=1', 'model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.codebook_size=16']
    assert main(['train', 'mfcc-vq', *args, 'data.store=memory://test/mfcc', '--out', str(tmp_path/'run')]) == 0

@pytest.mark.skipif(not find_spec('ray'), reason='needs Ray: pip install quantizer[ray]')
def test_ray(tmp_path, whole):
    code = CODE.replace('workers=int(sys.argv[2])', "workers=2, launcher='ray'")
    subprocess.run([sys.executable, '-c', code, tmp_path/'store'], check=True, capture_output=True, env={**os.environ, 'RAY_AUTH_MODE':'disabled'})
    assert files(tmp_path/'store') == whole

def test_another_config(tmp_path, capsys):
    "A store of other settings is refused by the name of the setting; two extractions into one folder too"
    extract_features('mfcc-vq', tmp_path/'store', progress=False)
    for change,told in (('features.deltas=1','deltas=2, not deltas=1'), ('features.name=logmel','name=mfcc, not name=logmel'), ('data.dtype=float16','float32, not float16')):
        changes = [change] if 'logmel' not in change else ['features={name: logmel}']
        assert main(['features', 'mfcc-vq', *changes, '--out', str(tmp_path/'store')]) == 1
        assert told in capsys.readouterr().err

@pytest.mark.slow
@pytest.mark.skipif('QUANTIZER_DATA' not in os.environ, reason='set QUANTIZER_DATA to a folder with more speech data')
def test_more_data(tmp_path):
    "All of some hours of recordings, in two processes, and an epoch of training"
    manifest = Path(os.environ['QUANTIZER_DATA'])/'data/dev/manifest.tsv'
    if not manifest.is_file(): pytest.skip(f'{manifest} is not there')
    store = extract_features('logmel-vq', tmp_path/'store', [f'data.corpus={manifest}', 'data.rename={label: text}', 'data.extract.workers=2'], progress=False)
    assert len(store) == len(Corpus.load(manifest, dict(label='text'))) and not store.problems
    assert main(['train', 'logmel-vq', f'data.corpus={manifest}', 'data.rename={label: text}', f'data.store={tmp_path/"store"}', 'train.epochs=1', '--out', str(tmp_path/'run')]) == 0
