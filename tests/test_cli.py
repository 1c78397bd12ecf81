"The command as a user meets it: good recordings of all kinds, bad ones, typos, Ctrl-C"
import os, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from quantizer.all import Corpus, Tokenizer, check_config, load_config, load_tokens
from quantizer.train.logging import TIMINGS
from command import refused, run
from quantizer.app.cli import main

SMALL = ['train.epochs=2', 'model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.codebook_size=16', 'model.quantizer.dim=8']

def tone(path, sr=16000, seconds=1., channels=1, **kwargs):
    x = 0.3*np.sin(2*np.pi*300*np.arange(int(sr*seconds))/sr) + 0.01*np.random.default_rng(0).standard_normal(int(sr*seconds))
    sf.write(path, np.stack([x]*channels, 1), sr, **kwargs)
    return path

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A small run on the bundled sample"
    out = tmp_path_factory.mktemp('runs')/'run'
    assert main(['train', 'logmel-vq', *SMALL, '--out', str(out)]) == 0
    return out

BAD = dict(
    text=(lambda p: p.write_text('These are words.'), 'not an audio file'),
    zero=(lambda p: p.write_bytes(b''), 'the file is empty (0 bytes)'),
    truncated_wav=(lambda p: p.write_bytes(tone(p).read_bytes()[:9000]) if tone(p) else None, 'truncated'),
    short=(lambda p: tone(p, seconds=0.02), 'shorter than one frame'),
    nan=(lambda p: sf.write(p, np.full(16000, np.nan), 16000, subtype='FLOAT'), 'NaN'))

def bad_file(folder, kind):
    folder.mkdir(exist_ok=True)
    p = folder/f'{kind}.wav'
    BAD[kind][0](p)
    return p

@pytest.mark.parametrize('kind', BAD)
def test_bad_recording(capsys, tmp_path, trained, kind):
    "A folder with nothing but a bad file: refused by name, nothing written"
    p = bad_file(tmp_path/'in', kind)
    shutil.copy(p, p.with_name('again.wav'))
    for args in (['train', 'mfcc-vq', f'data.corpus={tmp_path/"in"}', '--out', tmp_path/'out'], ['encode', trained, tmp_path/'in', '--out', tmp_path/'out.safetensors'], ['encode', trained, p, '--out', tmp_path/'out.safetensors']):
        err = refused(capsys, *args)
        assert BAD[kind][1] in err and str(tmp_path/'in') in err, err
    assert [o.name for o in tmp_path.iterdir()] == ['in']

def test_truncated_flac(capsys, tmp_path, trained):
    p = tone(tmp_path/'a.flac', seconds=3)
    p.write_bytes(p.read_bytes()[:20000])
    assert f'{p}: ' in refused(capsys, 'encode', trained, p, '--out', tmp_path/'out.safetensors')
    assert [o.name for o in tmp_path.iterdir()] == ['a.flac']

def test_bad_among_good(capsys, tmp_path, trained):
    "Named, counted and skipped"
    for kind in BAD: bad_file(tmp_path/'in', kind)
    for i in range(4): tone(tmp_path/f'in/good{i}.wav', seconds=1+i/4)
    code,out,err = run(capsys, 'train', 'mfcc-vq', *SMALL, 'model.quantizer.codebook_size=4', f'data.corpus={tmp_path/"in"}', '--out', tmp_path/'run')
    assert code == 0 and f'skipped {len(BAD)} of {len(BAD)+4} recordings' in err and str(tmp_path/'in/zero.wav') in err
    assert 'zero.wav' in (tmp_path/'run/report.html').read_text()
    code,out,err = run(capsys, 'encode', trained, tmp_path/'in', '--out', tmp_path/'t.safetensors')
    assert code == 0 and f'skipped {len(BAD)} of' in err
    assert sorted(Path(o).name for o in load_tokens(tmp_path/'t.safetensors')) == [f'good{i}.wav' for i in range(4)]

def test_missing_and_empty_folder(capsys, tmp_path):
    (tmp_path/'empty').mkdir()
    assert 'no such folder' in refused(capsys, 'train', 'mfcc-vq', f'data.corpus={tmp_path/"gone"}', '--out', tmp_path/'out')
    assert 'no audio files' in refused(capsys, 'train', 'mfcc-vq', f'data.corpus={tmp_path/"empty"}', '--out', tmp_path/'out')
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('change,said', [('model.quantizer.codebok_size=8', "did you mean 'codebook_size'"), ('model.quantizer.codebook_size=abc', 'expected a whole number'),
    ('features.n_mfc=13', "did you mean 'n_mfcc'"), ('train.lr=fast', 'expected a number'), ('nonsense', 'key.sub=value'), ('model.losses.commitmint=1', "did you mean 'commitment'")])
def test_wrong_config(capsys, tmp_path, change, said):
    assert said in refused(capsys, 'train', 'mfcc-vq', change, '--out', tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_another_class():
    "A new name leaves out what belonged to the old class, and says so"
    with pytest.warns(UserWarning, match="model.quantizer.name=gumbel: left out commitment, which 'gumbel' does not have"):
        cfg = load_config('mfcc-vq', ['model.quantizer.name=gumbel'])
    assert (cfg['model']['quantizer']['name'], cfg['model']['quantizer']['codebook_size'], cfg['model']['losses']) == ('gumbel', 256, dict(mse=1.0))

def test_no_command(capsys):
    "`quantizer` alone prints its help"
    code,out,err = run(capsys)
    assert (code, err) == (0, '') and 'train a tokenizer' in out

def test_out_holds_a_run(capsys, trained):
    before = {o:o.stat().st_mtime for o in trained.rglob('*')}
    assert 'holds a run already' in refused(capsys, 'train', 'mfcc-vq', '--out', trained)
    assert before == {o:o.stat().st_mtime for o in trained.rglob('*')}

def test_formats(capsys, tmp_path, trained):
    "Stereo, other rates and other sample types just work, and hold the same second of sound"
    kinds = [dict(channels=2), dict(sr=8000), dict(sr=44100), dict(sr=44100, channels=2, subtype='PCM_24'), dict(subtype='FLOAT'), dict(subtype='PCM_24')]
    files = [tone(tmp_path/f'{i}.wav', **k) for i,k in enumerate(kinds)] + [tone(tmp_path/'f.flac', sr=48000, subtype='PCM_24'), tone(tmp_path/'o.ogg')]
    code,_,err = run(capsys, 'encode', trained, *files, '--out', tmp_path/'t.safetensors')
    assert code == 0 and not err
    assert {len(o) for o in load_tokens(tmp_path/'t.safetensors').values()} == {51}
    code,_,err = run(capsys, 'train', 'mfcc-vq', *SMALL, f'data.corpus={tmp_path}', '--out', tmp_path/'run')
    assert code == 0 and not err

def test_shards(capsys, tmp_path, trained):
    "A tar of recordings is a corpus for every verb: what cannot be used in it is named, the rest gives the codes of the files"
    import tarfile
    p = tone(tmp_path/'a.wav')
    with tarfile.open(tmp_path/'s.tar', 'w') as t:
        for o in ('a.wav','b.wav','../c.wav'): t.add(p, arcname=o)
    code,_,err = run(capsys, 'encode', trained, p, tmp_path/'s.tar', '--out', tmp_path/'t.safetensors')
    codes = load_tokens(tmp_path/'t.safetensors')
    assert code == 0 and 's.tar/../c.wav' in err and 'skipped 1 of 4' in err
    assert torch.equal(codes[str(p)], codes[str(tmp_path/'s.tar/b.wav')]) and len(codes) == 3
    code,out,_ = run(capsys, 'info', tmp_path/'s.tar', '--levels')
    assert code == 0 and 'recordings: 2' in out and 'measured: 2' in out and 'leads out of the archive' in out
    assert "--levels is -1" in refused(capsys, 'info', tmp_path/'s.tar', '--levels', '-1')

def test_alone_and_in_a_batch(trained):
    "The same codes for all recordings, alone and in padded batches"
    tok,c = Tokenizer.load(trained),Corpus.sample()
    files = [c.file(i) for i in range(len(c))]
    for f,codes in zip(files, tok.encode(files, batch_size=24)): assert torch.equal(codes, tok.encode(f)), f

def test_round_trip_through_files(capsys, tmp_path, trained):
    "`decode(encode(x))` from the command line is what Python gives"
    from safetensors.torch import load_file
    p = tone(tmp_path/'a.wav')
    assert run(capsys, 'encode', trained, p, '--out', tmp_path/'t.safetensors')[0] == 0
    assert run(capsys, 'decode', trained, tmp_path/'t.safetensors', '--out', tmp_path/'d')[0] == 0
    tok = Tokenizer.load(trained)
    assert torch.equal(load_file(tmp_path/'d/features.safetensors')[str(p)], tok.decode(tok.encode(p)))
    wav, = (tmp_path/'d').glob('*.wav')
    assert abs(sf.info(wav).duration-1) < 0.05

def test_same_seed_same_numbers(tmp_path, trained):
    assert main(['train', str(trained/'config.yaml'), '--out', str(tmp_path/'again')]) == 0
    for f in ('log.csv','steps.csv'):
        a,b = (pd.read_csv(o/f, dtype=str).drop(columns=[*TIMINGS], errors='ignore') for o in (trained, tmp_path/'again'))
        pd.testing.assert_frame_equal(a, b)

def test_interrupted(tmp_path):
    "Ctrl-C ends with code 130 and one line; checkpoints stay, and the folder is recognised"
    p = subprocess.Popen([sys.executable, '-m', 'quantizer', 'train', 'mfcc-vq', *SMALL, 'train.epochs=10000', 'train.checkpoint.steps=5', '--out', tmp_path/'run'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path/'run/checkpoints/best').is_dir(): break
        time.sleep(0.1)
    p.send_signal(signal.SIGINT)
    out,err = p.communicate(timeout=60)
    assert p.returncode == 130 and err.splitlines()[-1].startswith('quantizer: interrupted') and 'Traceback' not in err, err
    Tokenizer.load(tmp_path/'run')
    assert (tmp_path/'run/checkpoints/best/state.json').is_file() and len(pd.read_csv(tmp_path/'run/log.csv')) > 0
    assert (tmp_path/'run/checkpoints').is_dir() and not list((tmp_path/'run/checkpoints').glob('.*'))

def test_encode_never_overwrites_audio(capsys, tmp_path, trained):
    p = tone(tmp_path/'a.wav')
    before = p.read_bytes()
    assert 'ends in .safetensors' in refused(capsys, 'encode', trained, p, '--out', p)
    assert p.read_bytes() == before

def test_shared_store_keeps_splits_apart(capsys, tmp_path):
    "A second run with another split of the same store trains on none of its held-out recordings"
    for i in range(12): tone(tmp_path/f'in/{i}.wav' if (tmp_path/'in').mkdir(exist_ok=True) is None else '', seconds=1+i/10)
    args = ['mfcc-vq', *SMALL, 'model.quantizer.codebook_size=4', f'data.corpus={tmp_path/"in"}', f'data.store={tmp_path/"store"}']
    assert run(capsys, 'train', *args, '--out', tmp_path/'a')[0] == 0
    assert run(capsys, 'train', *args, 'data.valid=0.5', 'seed=5', '--out', tmp_path/'b')[0] == 0
    from quantizer.all import FeatureStore, corpus_from_config
    import yaml
    corpus = corpus_from_config(yaml.safe_load((tmp_path/'b/config.yaml').read_text()))
    store = FeatureStore(tmp_path/'store', corpus=corpus)
    assert [store.index.id[i] for i in store.part('valid')] == list(corpus.part('valid').df.path) and len(store.part('valid')) == 6
    tone(tmp_path/'in/3.wav', seconds=3)
    assert 'or they have changed (the first: 3.wav)' in refused(capsys, 'train', *args, '--out', tmp_path/'c')
    assert run(capsys, 'features', *args, '--out', tmp_path/'store')[0] == 0
    assert run(capsys, 'train', *args, '--out', tmp_path/'c')[0] == 0
    raw = bytearray((tmp_path/'store/shard-00001.bin').read_bytes()); raw[100] ^= 1
    (tmp_path/'store/shard-00001.bin').write_bytes(raw)
    for o in (['train', *args, '--out', tmp_path/'d'], ['info', tmp_path/'store', '--verify']): assert '1 of its recordings are damaged (the first: 3.wav)' in refused(capsys, *o)
    code,out,_ = run(capsys, 'evaluate', tmp_path/'b', tmp_path/'in', '--split', 'valid')
    assert code == 0

def test_help_examples(capsys):
    for verb in ('train','features','encode','decode','evaluate','compare','info','watch','sweep','adapt'):
        with pytest.raises(SystemExit) as e: main([verb, '--help'])
        assert e.value.code == 0 and f'example: quantizer {verb}' in ' '.join(capsys.readouterr().out.split())

@pytest.mark.slow # nbs/train/714_learner.ipynb does the same with 64 codes
def test_dead_start():
    "A whole model whose codes all start equal has over 90 % of 256 in use within 100 steps"
    from quantizer.all import build_store, extractor_from_config, learner_from_config
    import tempfile
    cfg = load_config('mfcc-vq', ['model.quantizer.kmeans_iters=0', 'train.schedule=constant', 'model.encoder.width=64', 'model.decoder.width=64'])
    with tempfile.TemporaryDirectory() as d:
        store = build_store(Corpus.sample(), extractor_from_config(cfg), f'{d}/store', progress=False)
        learn = learner_from_config(cfg, store)
        learn.model.quantizer.codebook.zero_()
        learn.logger = lambda row: None
        with learn.no_bar(): learn.fit(100//len(learn.dls.train))
    assert learn.train_iter <= 100 and learn.codebook_health.health['usage'] > 0.9, learn.codebook_health.verdict

@pytest.mark.skipif('QUANTIZER_DATA' not in os.environ, reason='set QUANTIZER_DATA to a folder with more speech data')
def test_more_data(tmp_path, capsys):
    "A manifest of some hours with its own column names, split by speaker"
    manifest = Path(os.environ['QUANTIZER_DATA'])/'data/dev/manifest.tsv'
    if not manifest.is_file(): pytest.skip(f'{manifest} is not there')
    c = Corpus.from_manifest(manifest, dict(label='text')).with_split()
    assert not set(c.part('train').df.speaker) & set(c.part('valid').df.speaker)
    few = c.select(range(0, len(c), 25))
    few.df.drop(columns='split').assign(path=[str(few.file(i)) for i in range(len(few))]).to_csv(tmp_path/'few.tsv', sep='\t', index=False)
    code,_,err = run(capsys, 'train', 'mfcc-vq', *SMALL, f'data.corpus={tmp_path/"few.tsv"}', '--out', tmp_path/'run')
    assert code == 0 and not err
