"A tokenizer as a service uses it: whatever is sent gives the right codes or one line, in any thread and in little memory"
import inspect, json, math, resource, shutil, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np, pytest, soundfile as sf, torch, yaml
from quantizer.all import FEATURES, LogMel, MFCC, QUANTIZERS, QuantizerError, Tokenizer, build_model, check_model, load_audio
from quantizer.all import load_config, load_published, load_tokens, save_tokens
from quantizer.app.build import load_model
from quantizer.data.audio import AudioBytes
from quantizer.models.backbones import DECODERS, ENCODERS
from quantizer.train.checkpoint_files import save_checkpoint

def tokenizer(features=None, **parts):
    "A tokenizer of one training step"
    features = features or MFCC()
    block = dict(encoder=dict(name='conv', width=16), quantizer=dict(name='vq', dim=8, codebook_size=64),
        decoder=dict(name='conv', width=16), losses=dict(mse=1.))
    block = check_model(block | parts)
    torch.manual_seed(0)
    feats,mask = features(torch.tensor(load_wave(0, 4))[None])
    model = build_model(block, feats[0].mean(0), feats[0].std(0))
    model(feats, mask) # places the codes
    return Tokenizer(dict(features=features.settings, model=block), model)

@pytest.fixture(scope='module')
def tok(): return tokenizer()

@pytest.fixture(scope='module')
def wav(): return load_wave(0)

def load_wave(seed, seconds=1.):
    "Noise whose loudness and colour change"
    x = np.random.default_rng(seed).standard_normal(round(16000*seconds), np.float32)
    t = np.arange(len(x), dtype=np.float32)/1600
    return (0.1*x*np.sin(t)**2 + 0.01*np.cumsum(x*np.cos(3*t))/(1+t)).astype(np.float32)

# The same samples in another form, and what they are as float32

def unaligned(x):
    return np.frombuffer(b'.' + x.tobytes(), 'u1')[1:].view(np.float32)

def read_only(x):
    y = x.copy()
    y.flags.writeable = False
    return y

FORMS = dict(
    reversed=lambda x: x[::-1], strided=lambda x: np.repeat(x, 3)[::3], column=lambda x: np.stack([x, x], 1)[:,1],
    big_endian=lambda x: x.astype('>f4'), big_double=lambda x: x.astype('>f8'), half=lambda x: x.astype('f2'),
    longdouble=lambda x: x.astype('g'), read_only=read_only, unaligned=unaligned, tuple=lambda x: tuple(x.tolist()),
    expanded=lambda x: np.broadcast_to(x[:1], x.shape),
    gradient=lambda x: torch.tensor(x, requires_grad=True), bfloat16=lambda x: torch.tensor(x).bfloat16(),
    double=lambda x: torch.tensor(x).double(), parameter=lambda x: torch.nn.Parameter(torch.tensor(x)),
    strided_tensor=lambda x: torch.tensor(x).repeat_interleave(2)[::2], sparse=lambda x: torch.tensor(x).to_sparse(),
    expanded_tensor=lambda x: torch.tensor(x[:1]).expand(len(x)), negated=lambda x: (1j*torch.tensor(x)).conj().imag)

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('form', FORMS)
def test_layouts(tok, wav, form):
    "Codes depend on the samples, not on how they lie in memory"
    x = FORMS[form](wav)
    plain = torch.stack([*x.detach().to_dense()]) if isinstance(x, torch.Tensor) else torch.tensor([float(o) for o in x])
    codes = tok.encode(x, 16000)
    assert torch.equal(codes, tok.encode(plain.float(), 16000)) and ('expanded' in form or len(codes.unique()) > 20)

def test_memmap(tok, wav, tmp_path):
    wav.tofile(tmp_path/'a.raw')
    for mode in 'rc':
        assert torch.equal(tok.encode(np.memmap(tmp_path/'a.raw', 'f4', mode), 16000), tok.encode(wav, 16000))

WRONG = {
    'int16': (lambda x: (32767*x).astype('i2'), 'got a waveform of int16: expected floats between -1 and 1 (divide 16-bit'),
    'bool': (lambda x: x > 0, 'got a waveform of bool'), 'complex': (lambda x: x*1j, 'got a waveform of complex64'),
    'object': (lambda x: x.astype(object), 'got a waveform of object'), 'text': (lambda x: x[:9].astype(str), 'got a waveform of <U32'),
    'record': (lambda x: x.view([('a', 'f4')]), "got a waveform of [('a', '<f4')]"), 'date': (lambda x: x.astype('M8[s]'), 'got a waveform of datetime64[s]'),
    'int tensor': (lambda x: torch.tensor(x).int(), 'got a waveform of torch.int32'), 'complex tensor': (lambda x: torch.tensor(x)*1j, 'got a waveform of torch.complex64'),
    'none': (lambda x: None, 'got a waveform of object'), 'dict': (lambda x: dict(array=x), 'got a waveform of object'), 'bytes': (lambda x: x.tobytes(), 'got a waveform of |S'),
    'ragged': (lambda x: ([1.], [1., 2.]), 'got a waveform in rows of different lengths'), 'number': (lambda x: 0.5, 'got a waveform of shape (), expected (S,)'),
    'stereo': (lambda x: np.stack([x, x]), 'got a waveform of shape (2, 16000), expected (S,): mix channels down'),
    'nan': (lambda x: x*math.nan, 'the waveform: holds NaN or infinite samples'), 'inf': (lambda x: x-math.inf, 'the waveform: holds NaN or infinite samples'),
    'huge': (lambda x: x.astype('f8')*1e300, 'the waveform: holds NaN or infinite samples'),
    'scaled': (lambda x: np.round(32767*x), 'expected floats between -1 and 1 (divide 16-bit samples by 32768)'),
    'none at all': (lambda x: x[:0], 'shorter than one frame (0 samples; mfcc needs 400'), 'one': (lambda x: x[:1], 'shorter than one frame (1 samples'),
    'endless': (lambda x: np.broadcast_to(x[:1], 10**13), 'the waveform lasts 173,611 hours: expected up to 24'),
    'endless tensor': (lambda x: torch.zeros(1).expand(10**13), 'the waveform lasts 173,611 hours')}

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('kind', WRONG)
def test_refusals(tok, wav, kind):
    "What is no waveform is refused in one line, also in a list"
    make,said = WRONG[kind]
    for audio in (make(wav), [wav, make(wav)]):
        with pytest.raises(QuantizerError) as e: tok.encode(audio, 16000)
        assert said in str(e.value) and '\n' not in str(e.value)

def test_sizes(tok, wav):
    "The shortest recordings, at the tokenizer's rate and at another one"
    assert tok.encode(wav[:400], 16000).shape == (2,1) and tok.encode(wav[:1200], 48000).shape == (2,1)
    for n,sr in ((399,16000), (0,48000), (1,8000), (1197,48000)):
        with pytest.raises(QuantizerError, match='shorter than one frame'): tok.encode(wav[:n], sr)
    assert tok.encode([], 16000) == []
    with pytest.raises(QuantizerError, match='got an empty list'): tok.features([], 16000)
    with pytest.raises(QuantizerError, match='batch_size is 0: expected 1 or more'): tok.encode([wav], 16000, batch_size=0)

@pytest.mark.parametrize('sr', ['16000', ' 16e3 ', 16000., np.int64(16000), np.float32(16000), np.array(16000), torch.tensor(16000)], ids=repr)
def test_rates(tok, wav, sr): assert torch.equal(tok.encode(wav, sr), tok.encode(wav, 16000))

@pytest.mark.parametrize('sr', [0, -16000, 0.5, math.nan, math.inf, True, np.True_, '', 'fast', '16 kHz', 1j, [16000, 16000], b'\0'], ids=repr)
def test_wrong_rates(tok, wav, sr):
    with pytest.raises(QuantizerError) as e: tok.encode(wav, sr)
    assert 'sample rate' in str(e.value) and '\n' not in str(e.value)
    with pytest.raises(QuantizerError): load_audio('x.wav', sr)

def test_one_guard(tok, wav, tmp_path):
    "Files and arrays are refused for the same reasons"
    odd,scaled = tmp_path/'odd.wav',tmp_path/'scaled.wav'
    sf.write(odd, wav[:1000], 44101)
    sf.write(scaled, 20000*wav, 16000, subtype='FLOAT')
    for path,x,sr in ((odd, wav[:1000], 44101), (scaled, 20000*wav, 16000)):
        with pytest.raises(QuantizerError) as of_file: tok.encode(path)
        with pytest.raises(QuantizerError) as of_array: tok.encode(x, sr)
        assert str(of_file.value) == str(of_array.value).replace('the waveform', str(path))
    assert of_file.value.kind == 'scale'
    sf.write(odd, 3*wav, 16000, subtype='FLOAT') # loud, and right
    assert torch.equal(tok.encode(AudioBytes('odd.wav', odd.read_bytes())), tok.encode(3*wav, 16000))

def test_codes_and_features(tok, wav):
    "Codes of any integer type and layout decode alike; what are no codes is refused"
    codes = tok.encode(wav, 16000)
    feats,x = tok.decode(codes),codes.numpy()
    for o in (x.astype('>i2'), x.astype('u1'), x[::-1].copy()[::-1], x.astype('u8'), codes.int(), x.tolist() and tuple(x.tolist())):
        assert torch.equal(tok.decode(o), feats)
    for o,said in ((x*1., 'got codes of float64: expected whole numbers'), (codes > 3, 'got codes of torch.bool'), (x[:,0], r'got codes of shape \(51,\)'), ([[1],[2]], r'got codes of shape \(1,\), expected'), (None, 'got codes of object')):
        with pytest.raises(QuantizerError, match=said): tok.decode(o)
    loud = tokenizer(LogMel())
    feats = loud.features(wav, 16000)[0][0]
    assert torch.equal(loud.to_audio(feats.numpy()[::-1].astype('>f8')[::-1]), loud.to_audio(feats))
    for o in (feats[:0], feats[:,:3], feats[0], feats.int()):
        with pytest.raises(QuantizerError, match='got features of'): loud.to_audio(o)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize('name', sorted(QUANTIZERS))
def test_types(name, dtype, wav, tmp_path):
    "A tokenizer in another type gives the features of float32, to rounding, and is still there when it is saved and loaded"
    tok = tokenizer(quantizer=dict(name=name, dim=8, codebook_size=64), encoder=dict(name='transformer', width=16))
    codes = tok.encode(wav, 16000)
    exact = tok.decode(codes)
    tok.model.to(dtype)
    tolerance = {torch.float16:0.01, torch.bfloat16:0.05, torch.float64:1e-5}[dtype]
    assert (tok.decode(codes)-exact).abs().max() < tolerance*exact.abs().max()
    assert (tok.encode(wav, 16000) == codes).float().mean() > 1-10*tolerance
    tok.save(tmp_path/'tok')
    assert (tok.decode(codes)-Tokenizer.load(tmp_path/'tok').decode(codes)).abs().max() < tolerance*exact.abs().max()

@pytest.mark.parametrize('parts', [dict(), dict(encoder=dict(name='transformer', width=16), quantizer=dict(name='residual', dim=8, codebook_size=16, beam=2)),
    dict(quantizer=dict(name='fsq', dim=8)), dict(encoder=dict(name='bottleneck'), quantizer=dict(name='grouped', dim=8, codebook_size=16))], ids=['vq','residual','fsq','grouped'])
def test_threads(parts, tmp_path):
    "Eight threads at once give the codes, the features and the refusals of one"
    tok,files = tokenizer(**parts),[tmp_path/f'a.{suffix}' for suffix in ('flac','mp3','ogg')]
    for o in files: sf.write(o, load_wave(9, 0.7), 44100)
    jobs = [*files, *(load_wave(i, 0.3+0.1*i) for i in range(4)), load_wave(7)[::-1].astype('>f8')]
    def _work(x): return tok.encode(x, 16000), tok.decode(tok.encode(x, 16000)), tok.encode([x, load_wave(8)], 16000)
    alone = [_work(o) for o in jobs]
    start = threading.Barrier(8)
    def _thread(k):
        start.wait()
        with pytest.raises(QuantizerError): tok.encode(np.zeros(9), 16000)
        return [_work(o) for o in jobs[k:]+jobs[:k]]
    with ThreadPoolExecutor(8) as pool: found = [*pool.map(_thread, range(8))]
    for k,results in enumerate(found):
        for (codes,feats,listed),(a,b,c) in zip(results, alone[k:]+alone[:k]):
            assert torch.equal(codes, a) and torch.equal(feats, b) and all(map(torch.equal, listed, c))

# Memory: what a recording takes beside the model, in a process of its own

PEAK = '''
import resource, sys
import quantizer, numpy as np, torch
from quantizer.tokens.tokenizer import Tokenizer
tok = Tokenizer.load(sys.argv[1])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
sr,samples,dtype,n = int(sys.argv[2]),int(sys.argv[3]),sys.argv[4],int(sys.argv[5])
x = np.zeros(samples, dtype)
x[:] = np.resize(0.1*np.random.default_rng(0).standard_normal(999_983, np.float32), samples)
tok.encode(x[:2*sr], sr)
before = peak()
codes = tok.encode([x[i:][::-1] for i in range(n)] if n else x[::-1], sr)
print(peak()-before, sum(map(len, codes)) if n else len(codes))
'''

@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    d = tmp_path_factory.mktemp('saved')
    tokenizer(encoder=dict(name='conv'), quantizer=dict(name='vq', codebook_size=1024)).save(d/'conv')
    tokenizer(encoder=dict(name='transformer', layers=1, width=64)).save(d/'transformer')
    return d

@pytest.mark.parametrize('sr,dtype', [(16000,'f4'), (48000,'>f8')])
def test_memory(saved, sr, dtype):
    "A recording takes 0.3 GB, and two copies of it and of its features, whatever its rate and type"
    minutes = 10
    args = ['conv', str(sr), str(minutes*60*sr), dtype, '0']
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', PEAK, saved/args[0], *args[1:]], capture_output=True, text=True, check=True)
    extra,tokens = map(int, out.stdout.split())
    copy = 4*minutes*60*max(sr, 16000)
    assert tokens == minutes*3000+1
    assert extra < 3e8 + 2*copy + 2*4*minutes*6000*39, extra

def test_memory_of_a_list(saved):
    "Long recordings in a list are not padded into one batch, where attention would look at all pairs of frames"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', PEAK, saved/'transformer', '16000', str(170*16000), 'f4', '4'],
        capture_output=True, text=True, check=True)
    extra,tokens = map(int, out.stdout.split())
    assert tokens == 4*8501-3 and extra < 3e8, extra

# A folder of a stranger: every number in `config.json` may be anything

PARTS = [('features', FEATURES, name, dict(name=name)) for name in ('logmel', 'mfcc', 'fbank', 'whisper_logmel')]
PARTS += [('encoder', ENCODERS, 'stack', dict(name='stack')), ('encoder', ENCODERS, 'conv', dict(name='conv', width=16)),
    ('encoder', ENCODERS, 'transformer', dict(name='transformer', width=16, layers=1)), ('encoder', ENCODERS, 'bottleneck', dict(name='bottleneck', layers=1, heads=1)),
    ('encoder', ENCODERS, 'whisperspeech', dict(name='whisperspeech')), ('decoder', DECODERS, 'stack', dict(name='stack')), ('decoder', DECODERS, 'conv', dict(name='conv', width=16)),
    ('decoder', DECODERS, 'transformer', dict(name='transformer', width=16, layers=1)), ('decoder', DECODERS, 'bottleneck', dict(name='bottleneck', layers=1)),
    ('decoder', DECODERS, 'whisperspeech', dict(name='whisperspeech', heads=2))]
PARTS += [('quantizer', QUANTIZERS, name, dict(name=name, codebook_size=64)) for name in QUANTIZERS]
PARTS += [('quantizer', QUANTIZERS, 'residual', dict(name='residual', quantizer=dict(name='fsq', levels=[4]*16), shared=True)),
    ('quantizer', QUANTIZERS, 'vq', dict(name='vq', codebook_size=64, codebook_dim=1)),
    ('quantizer', QUANTIZERS, 'grouped', dict(name='grouped', codebook_size=64, quantizer=dict(name='residual', quantizer='lfq')))]
SIZES = (10**8, 10**12+39, 10**30, -1, math.nan, 'many', [10**9]*3)

def numbers(block, path=()):
    "Where numbers and lists are in a block"
    for k,v in block.items():
        if isinstance(v, dict): yield from numbers(v, (*path, k))
        elif isinstance(v, (int, float, list, type(None))) and not isinstance(v, bool): yield (*path, k)

def small(kind, registry, name, block):
    "A tokenizer with this part"
    features = FEATURES[name]() if kind == 'features' else LogMel(n_mels=16)
    parts = dict(encoder=dict(name='stack' if name == 'stack' else 'conv'), decoder=dict(name='stack' if name == 'stack' else 'conv')) | {kind:block}
    parts = {k: dict(width=16) | v if v.get('name') == 'conv' else v for k,v in parts.items() if k != 'features'}
    dim = 32 if name == 'stack' else 16
    parts['quantizer'] = parts.get('quantizer', dict(name='vq', codebook_size=64)) | dict(dim=dim)
    model = check_model(parts | dict(losses=dict(mse=1.)))
    return Tokenizer(dict(features=features.settings, model=model), build_model(model, torch.zeros(features.dim), torch.ones(features.dim)))

def try_sizes(folder):
    "Print what is not refused at once in one line, or taken, when a number of a config is replaced"
    limit = next(int(o.split()[1])*1024 for o in open('/proc/self/status') if o.startswith('VmSize')) + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before,tried,slow = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,0,0
    for k,part in enumerate(PARTS):
        path = Path(folder)/str(k)
        small(*part).save(path)
        config = json.loads((path/'config.json').read_text())
        for where in numbers({k:config[k] for k in ('features', 'model')}):
            if part[0] not in where: continue
            for size in SIZES:
                changed = json.loads(json.dumps(config))
                block = changed
                for o in where[:-1]: block = block[o]
                block[where[-1]] = size
                (path/'config.json').write_text(json.dumps(changed))
                start,tried = time.perf_counter(),tried+1
                try: Tokenizer.load(path)
                except QuantizerError as e:
                    if not str(e).startswith(str(path)) or '\n' in str(e): print(part[2], where, size, 'message', str(e)[:300])
                except BaseException as e: print(part[2], where, size, 'raised', type(e), str(e)[:200])
                if time.perf_counter()-start > 2: print(part[2], where, size, 'seconds', round(time.perf_counter()-start, 1))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)//1024
    if grown > 200: print('MB', grown)
    print('tried', tried)

def test_sizes_of_a_stranger(tmp_path):
    "No number in a config costs seconds or 200 MB, and what is wrong is one line"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_service; test_service.try_sizes({str(tmp_path)!r})"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(out) == 1 and int(out[0].split()[1]) > 500, out

def test_saved_codes(tok, wav, tmp_path):
    "Codes as arrays are saved as those that `encode` returns"
    codes = tok.encode(wav, 16000)
    save_tokens(tmp_path/'t.safetensors', dict(a=codes, b=codes.numpy().astype('>u2')[::-1]), tok)
    loaded = load_tokens(tmp_path/'t.safetensors', tok)
    assert torch.equal(loaded['a'], codes) and torch.equal(loaded['b'], codes.flip(0))
    with pytest.raises(QuantizerError, match="got codes of 'a' of float64: expected whole numbers"): save_tokens(tmp_path/'t.safetensors', dict(a=codes.numpy()*1.), tok)

def test_checkpoint_of_a_stranger(tmp_path):
    "The config of a run asks for no more than its checkpoint holds"
    cfg = load_config('mfcc-vq', ['model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.codebook_size=16'])
    model = build_model(cfg['model'], torch.zeros(39), torch.ones(39))
    path = tmp_path/'checkpoints/step-00000001'
    save_checkpoint(path, model)
    def _load(**encoder):
        changed = cfg | dict(model=cfg['model'] | dict(encoder=cfg['model']['encoder'] | encoder))
        (tmp_path/'config.yaml').write_text(yaml.safe_dump(changed))
        return load_model(path)
    assert torch.equal(_load().quantizer.codebook, model.quantizer.codebook)
    start = time.perf_counter()
    for encoder,said in ((dict(blocks=1000), 'asks for a larger model'), (dict(width=10**6), 'asks for a larger model'), (dict(kernel=3), 'size mismatch')):
        with pytest.raises(QuantizerError, match=said) as e: _load(**encoder)
        assert str(e.value).startswith(str(path)) and '\n' not in str(e.value)
    assert time.perf_counter()-start < 2

def test_published_of_a_stranger(tmp_path):
    "Settings that would take minutes to list their tensors"
    config = dict(vq_codes=8, n_head=2, codebook_dim=4, use_cosine_sim=True, downsample=2, whisper_model_name='tiny.en')
    torch.save(dict(config=config | dict(q_depth=1, depth=10**6), tunables={}, state_dict={}), tmp_path/'a.model')
    with pytest.raises(QuantizerError, match="'config.depth' is 1000000: expected a whole number from 1 to 1000"): load_published(tmp_path/'a.model')
