"Corpora as the world makes them: every broken recording is named, counted, skipped or refused, and the rest can be read"
import io, json, os, pickle, struct, subprocess, sys, tarfile, time
from pathlib import Path

import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from quantizer.all import Corpus, LogMel, QuantizerError, build_store, load_audio, probe
from quantizer.data.audio import AudioBytes
from quantizer.app.cli import info, main

KINDS = dict(wav={}, flac={}, mp3={}, ogg={}, opus=dict(format='OGG', subtype='OPUS'), aiff={}, au={})

def sound(seconds=1., sr=16000, channels=1):
    x = 0.3*np.sin(2*np.pi*300*np.arange(round(sr*seconds))/sr) + 0.05*np.random.default_rng(0).standard_normal(round(sr*seconds))
    return np.stack([x]*channels, 1)

def write(path, x=None, sr=16000, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    if x is None: x = sound()
    with sf.SoundFile(path, 'w', sr, x.shape[1] if x.ndim == 2 else 1, **{**KINDS.get(path.suffix[1:], {}), **kw}) as f:
        for k in range(0, len(x), 2**16): f.write(x[k:k+2**16])
    return path

def data(suffix, **kw):
    f = io.BytesIO()
    with sf.SoundFile(f, 'w', 16000, 1, **{**dict(format=suffix.upper()), **KINDS[suffix]}) as o: o.write(sound(**kw))
    return f.getvalue()

def change(path, f):
    b = bytearray(path.read_bytes())
    path.write_bytes(f(b) or b)
    return path

BAD = dict( # name -> how to make it, and what is said
    empty=(lambda d: (d/'empty.wav').write_bytes(b''), 'empty.wav: the file is empty (0 bytes)'),
    text=(lambda d: (d/'text.mp3').write_bytes(b'words '*1000), 'text.mp3: '),
    head=(lambda d: change(write(d/'head.flac'), lambda b: b[:40]), 'head.flac: '),
    nan=(lambda d: write(d/'nan.wav', np.full(999, np.nan), subtype='FLOAT'), 'nan.wav: holds NaN'),
    inf=(lambda d: write(d/'inf.wav', np.full(999, np.inf), subtype='FLOAT'), 'inf.wav: holds NaN or infinite'),
    none=(lambda d: write(d/'none.wav', np.zeros(0)), 'none.wav: holds no samples'),
    link=(lambda d: (d/'link.wav').symlink_to('gone'), 'link.wav: a link to gone, which is not there'),
    circle=(lambda d: (d/'circle.wav').symlink_to(d/'circle.wav'), 'circle.wav: a link to '),
    film=(lambda d: (d/'film.m4a').write_bytes(b'\0\0\0\x18ftypM4A '+bytes(99)), 'film.m4a: '),
    lies=(lambda d: change(write(d/'lies.flac'), lambda b: b.__setitem__(slice(22, 26), b'\xff'*4)), 'lies.flac: its header claims'),
    **{f'cut_{k}': (lambda d, k=k: change(write(d/f'cut.{k}'), lambda b: b[:len(b)*2//3]), f'cut.{k}: truncated') for k in KINDS},
    **{f'hole_{k}': (lambda d, k=k: change(write(d/f'hole.{k}', sound(20)), lambda b: b.__setitem__(slice(len(b)//2, len(b)//2+3000), bytes(3000))), f'hole.{k}: ') for k in ('flac','mp3','ogg','opus')})

@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    d = tmp_path_factory.mktemp('hostile')
    for make,_ in BAD.values(): make(d)
    write(d/'good.flac')
    write(d/'silent.flac', np.zeros(16000))
    write(d/'one.wav', np.full(1, 0.5))
    write(d/'five.wav', sound(channels=5))
    write(d/'named.wav').write_bytes(data('flac'))
    write(d/'named.mp3').write_bytes(data('wav'))
    write(d/'named.ogg').write_bytes(data('mp3'))
    (d/'sub').mkdir()
    (d/'sub/up').symlink_to(d)
    os.replace(write(d/'x.wav'), os.path.join(os.fsencode(d), b'caf\xe9\n.wav'))
    return d

GOOD = {'good.flac':16000, 'silent.flac':16000, 'one.wav':1, 'five.wav':16000, 'named.wav':16000, 'named.mp3':16000, 'named.ogg':16000, r'caf\xe9\x0a.wav':16000}

def test_folder(hostile, capsys):
    "Each bad recording is refused by name, each good one is read, and `info` counts them all"
    c = Corpus.load(hostile)
    assert len(c) == len(BAD)+len(GOOD)
    read,refused = {},[]
    for i in range(len(c)):
        try: read[c.id(i)] = len(c.audio(i))
        except QuantizerError as e: refused.append(str(e).removeprefix(f'{hostile}/'))
    assert read == GOOD
    for _,said in BAD.values(): assert sum(o.startswith(said) for o in refused) == 1, (said, refused)
    res = info(hostile, verify=True)
    assert len(res['problems']) == len(BAD) == sum(res['problem_kinds'].values()) and 'left out' not in res['problem_kinds']
    assert res['levels']['silent_recordings'] == 1 and res['channels'] == {1:len(GOOD)-1, 5:1}
    assert main(['info', str(hostile), '--verify']) == 0
    assert r'caf\xe9\x0a.wav' not in capsys.readouterr().out  # a good one is not among the problems

@pytest.mark.parametrize('workers', [0, 2])
def test_extraction(hostile, tmp_path, workers):
    "The features of all good recordings, and why there are none of each bad one"
    store = build_store(Corpus.load(hostile), LogMel(), tmp_path/'store', workers=workers, progress=False)
    assert set(store.index.id) == GOOD.keys()-{'one.wav'} and not store.verify()
    assert set(store.problems) == set(Corpus.load(hostile).ids)-set(store.index.id)
    for _,said in BAD.values(): assert sum(o.startswith(f'{hostile}/{said}') for o in store.problems.values()) == 1, said
    assert store.problems['one.wav'].startswith(f'{hostile}/one.wav: shorter than one frame (1 samples')

def test_training(hostile, tmp_path, capsys):
    "The command trains on what can be used, and counts the rest; live too, where what a header hides is found on the way"
    small = ['train.epochs=1', 'data.valid=0.4', 'model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.codebook_size=16']
    assert main(['train', 'logmel-vq', f'data.corpus={hostile}', *small, '--out', str(tmp_path/'run')]) == 0
    assert f'skipped {len(BAD)+1} of {len(BAD)+len(GOOD)} recordings' in capsys.readouterr().err
    with pytest.warns(UserWarning, match='hole.flac: '): assert main(['train', 'logmel-vq', f'data.corpus={hostile}', 'data.live=true', *small, '--out', str(tmp_path/'live')]) == 0

def test_found_by_headers(hostile):
    "What a header tells needs no decoding"
    named = set(info(hostile)['problems'])
    assert named >= {'empty.wav','head.flac','link.wav','circle.wav','lies.flac'} | {f'cut.{k}' for k in KINDS}
    assert not named & GOOD.keys()

def test_names_travel(hostile, tmp_path):
    "A name that is not UTF-8 survives TSV, JSON, Parquet, print and pickle, and still finds its file"
    c = Corpus.load(hostile)
    i, = [i for i,o in enumerate(c.ids) if 'caf' in o]
    few = c.df.iloc[[i]].assign(path=[f'{hostile}/{c.id(i)}'])
    few.to_csv(tmp_path/'m.tsv', sep='\t', index=False)
    few.to_parquet(tmp_path/'m.parquet')
    assert json.loads(json.dumps(c.id(i))) == c.id(i) and c.id(i).encode('utf-8').isascii()
    for o in (Corpus.load(tmp_path/'m.tsv'), Corpus.load(tmp_path/'m.parquet'), pickle.loads(pickle.dumps(c.select([i])))): assert torch.equal(o.audio(0), c.audio(i))

def test_folder_with_odd_name(tmp_path):
    d = Path(os.fsdecode(os.fsencode(tmp_path)+b'/\xff'))
    write(tmp_path/'a.wav')
    d.mkdir()
    os.replace(tmp_path/'a.wav', d/'a.wav')
    (d/'b.wav').write_bytes(b'')
    c = Corpus.load(d)
    assert len(c.audio(0)) == 16000 and r'\xff/b.wav' in c.describe()['problems']['b.wav'].encode('utf-8').decode()

def test_duplicates(tmp_path):
    (tmp_path/'m.csv').write_text('path,start_s\na.wav,0\nb.wav,0\na.wav,0\na.wav,0.0\n')
    with pytest.raises(QuantizerError, match='row 3 repeats the recording a.wav, and 1 more'): Corpus.load(tmp_path/'m.csv')

def test_fifo_and_device(tmp_path):
    "Nothing waits for what never ends"
    os.mkfifo(tmp_path/'pipe.wav')
    (tmp_path/'zero.wav').symlink_to('/dev/zero')
    write(tmp_path/'a.wav')
    assert list(Corpus.load(tmp_path).ids) == ['a.wav']
    (tmp_path/'m.csv').write_text('path\npipe.wav\nzero.wav\n')
    c = Corpus.load(tmp_path/'m.csv')
    for i in range(2):
        with pytest.raises(QuantizerError, match='no such file'): c.audio(i)

def test_three_hours(tmp_path):
    "A span of a long file takes what a span takes, in memory too"
    with open(tmp_path/'long.wav', 'wb') as f:  # 8 kHz, 8 bits, a hole on the disk
        n = 3*3600*8000
        f.write(b'RIFF'+struct.pack('<I', 36+n)+b'WAVEfmt '+struct.pack('<IHHIIHH', 16, 1, 1, 8000, 8000, 1, 8)+b'data'+struct.pack('<I', n))
        f.truncate(44+n)
    assert probe(tmp_path/'long.wav').duration_s == 3*3600
    t0 = time.perf_counter()
    assert len(load_audio(tmp_path/'long.wav', 16000, 9000, 2)) == 32000
    assert time.perf_counter()-t0 < 0.5
    assert info(tmp_path)['lengths']['60 s and more'] == 1

@pytest.mark.slow
def test_extraction_of_hours(tmp_path):
    "Hours in one file, at another rate and with five channels, take no more memory than minutes"
    peak = {}
    for minutes in (4, 180):
        with sf.SoundFile(tmp_path/f'{minutes}.flac', 'w', 8000, 5) as f:
            for k in range(minutes): f.write(np.repeat((1000*np.sin(np.arange(60*8000)*(k+1)/99)).astype(np.int16)[:,None], 5, 1))
        code = """
import sys
from quantizer.all import *
store = build_store(Corpus(pd.DataFrame(dict(path=[sys.argv[1]]))), LogMel(), sys.argv[1]+'-store', progress=False)
print(int(store.frames[0]), next(int(o.split()[1])//1024 for o in open('/proc/self/status') if o.startswith('VmHWM')))"""
        frames,peak[minutes] = map(int, subprocess.run([sys.executable, '-W', 'ignore', '-c', 'import pandas as pd'+code, tmp_path/f'{minutes}.flac'], capture_output=True, text=True, check=True).stdout.split())
        assert frames == minutes*6000+1
    assert peak[180] < peak[4]+150, peak

def test_spans_of_ogg(hostile, tmp_path):
    "A span that a hole moved is refused, those before and after it are read; no span of a good file is refused"
    for suffix in ('ogg','opus'):
        hole,whole = hostile/f'hole.{suffix}',load_audio(write(tmp_path/f'whole.{suffix}', sound(20)))
        with pytest.raises(QuantizerError, match='damaged'): load_audio(hole, start_s=1, duration_s=17)
        for p,s,n in [(hole, 2, 3), (hole, 17, 2), *((tmp_path/f'whole.{suffix}', s, 0.5) for s in np.arange(0, 19.5, 0.7))]:
            assert (load_audio(p, 16000, s, n)-whole[round(s*16000):round((s+n)*16000)]).abs().mean() < 0.01, (suffix, s)

CHILD = '''
import resource, sys
import quantizer
from quantizer.data.audio import load_audio
from quantizer.core.errors import QuantizerError
load_audio(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for o in sys.argv[2:]:
    try: load_audio(o); print('read')
    except QuantizerError as e: print(e)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)//1024)
'''

def test_bomb(tmp_path):
    "A small file that unpacks to gigabytes is refused before it does, in a corpus too; silence as such is no crime"
    with sf.SoundFile(tmp_path/'bomb.flac', 'w', 16000, 8) as f:
        for _ in range(60): f.write(np.zeros((60*16000, 8), np.int16))
    bomb = tmp_path/'bomb.flac'
    assert bomb.stat().st_size < 2**20
    write(tmp_path/'ok.wav')
    with tarfile.open(tmp_path/'bomb.tar', 'w') as t: t.add(bomb, 'bomb.flac')
    with pytest.raises(QuantizerError, match='bomb.tar/bomb.flac: refused'): Corpus.load(tmp_path/'bomb.tar').audio(0)
    write(tmp_path/'silent.flac', np.zeros(1800*16000, np.int16))
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', CHILD, tmp_path/'ok.wav', bomb, tmp_path/'silent.flac'], capture_output=True, text=True, check=True).stdout.splitlines()
    assert 'bomb.flac: refused' in out[0] and int(out[1]) < 50, out
    assert out[2] == 'read' and int(out[3]) < 400, out

def member(tar, name, b=b'', **kw):
    m = tarfile.TarInfo(name)
    m.size = len(b)
    for k,v in kw.items(): setattr(m, k, v)
    tar.addfile(m, io.BytesIO(b))

def test_tar(tmp_path):
    "Members that lead elsewhere are named and never written; the rest is read; a lying size cannot lead in circles"
    b,flac = io.BytesIO(),data('flac')
    with tarfile.open(fileobj=b, mode='w') as t:
        for o in ('../escape.flac', str(tmp_path/'escape.flac'), 'a/../../escape.flac', 'a/good.flac', os.fsdecode(b'\xff.flac')): member(t, o, flac)
        member(t, 'hard.flac', type=tarfile.LNKTYPE, linkname='a/good.flac')
        member(t, 'dev.flac', type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        member(t, 'a/good.json', b'{"text": "\\ud800 hi", "speaker": 7, "split": null}')
        member(t, 'empty.flac')
    (tmp_path/'in').mkdir()
    (tmp_path/'in/a.tar').write_bytes(b.getvalue())
    before = set(tmp_path.rglob('*'))
    c = Corpus.load(tmp_path/'in/a.tar')
    assert list(c.ids) == ['a.tar/a/good.flac', r'a.tar/\xff.flac', 'a.tar/empty.flac'] and len(c.problems) == 5
    assert (c.df.text[0], c.df.speaker[0]) == ('? hi', '7')
    assert [len(c.audio(i)) for i in range(2)] == [16000]*2 and c.describe()['problem_kinds']['empty'] == 1
    with pytest.raises(QuantizerError, match='a.tar/empty.flac: the file is empty'): c.audio(2)
    assert set(tmp_path.rglob('*')) == before
    h = tarfile.TarInfo('neg.flac').tobuf()
    neg = bytearray(h); neg[124:136] = b'\xff'*10 + b'\xfc\x00'  # -1024, base 256
    chk = sum(neg[:148]) + 8*32 + sum(neg[156:512]); neg[148:156] = f'{chk:06o}\0 '.encode()
    good = b.getvalue()[:b.getvalue().rindex(b'empty.flac')//512*512]
    (tmp_path/'neg.tar').write_bytes(good + bytes(neg)*3)
    c = Corpus.load(tmp_path/'neg.tar')
    assert len(c) == 2 and 'neg.tar' in c.problems

def test_shrinking_tar(tmp_path):
    "An archive that is cut after it was listed"
    with tarfile.open(tmp_path/'a.tar', 'w') as t:
        for o in 'ab': member(t, f'{o}.wav', data('wav'))
    c = Corpus.load(tmp_path/'a.tar')
    os.truncate(tmp_path/'a.tar', 40000)
    assert len(c.audio(0)) == 16000
    with pytest.raises(QuantizerError, match='a.tar/b.wav: truncated'): c.audio(1)
    cut = Corpus.load(tmp_path/'a.tar')
    assert list(cut.ids) == ['a.tar/a.wav'] and set(cut.problems) == {'a.tar/b.wav', 'a.tar'}

def test_flood_of_links(tmp_path):
    "Loops of links between folders end, and nothing is listed twice"
    for i in range(6):
        write(tmp_path/f'{i}/{i}.wav')
        for j in range(6): (tmp_path/f'{i}/to{j}').symlink_to(tmp_path/f'{j}')
    assert list(Corpus.load(tmp_path).ids) == [f'{i}/{i}.wav' for i in range(6)]

BYTES = {k:data(k, seconds=0.4) for k in KINDS}

@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(BYTES)), st.data())
def test_damaged_bytes(kind, draw):
    "Whatever is flipped or cut: a waveform that is finite and not huge, or a `QuantizerError`"
    b = bytearray(BYTES[kind])
    for i,v in draw.draw(st.lists(st.tuples(st.integers(0, len(b)-1) | st.integers(0, 60), st.integers(0, 255)), max_size=4)): b[i] = v
    b = bytes(b[:draw.draw(st.integers(0, len(b)) | st.just(len(b)))])
    try: x = load_audio(AudioBytes(f'a.{kind}', b))
    except QuantizerError as e: assert str(e).startswith(f'a.{kind}: ') and '\n' not in str(e)
    else: assert x.isfinite().all() and 0 < len(x) < 2**24

TAR = io.BytesIO()
with tarfile.open(fileobj=TAR, mode='w') as t:
    for o in 'abc': member(t, f'{o}.wav', data('wav', seconds=0.1)); member(t, f'{o}.json', b'{"text": "x"}')

@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_tar(tmp_path_factory, draw):
    "A tar with anything flipped or cut is read as far as it goes, or refused"
    b = bytearray(TAR.getvalue())
    heads = st.sampled_from([i for i in range(0, len(b), 512) if b[i+257:i+262] == b'ustar'])
    for i,j,v in draw.draw(st.lists(st.tuples(heads, st.integers(0, 511), st.integers(0, 255)), max_size=3)): b[i+j] = v
    p = tmp_path_factory.getbasetemp()/'damaged.tar'
    p.write_bytes(b[:draw.draw(st.integers(0, len(b)) | st.just(len(b)))])
    try:
        c = Corpus.load(p)
        c.describe(verify=True)
    except QuantizerError as e: assert 'damaged.tar' in str(e)
