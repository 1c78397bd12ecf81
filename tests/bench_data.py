"""Time and memory of data: `python tests/bench_data.py OUT.json`

Each comparison is interleaved: every round runs each method for some batches or clips, so that what else the machine does hits all alike. Times are
medians over rounds of CPU milliseconds of one thread; what counts are the ratios within a comparison. The store and what its peers read hold the same 20 hours
of random log-mel frames; all of it is in the page cache. Extraction and training are of the recordings below QUANTIZER_DATA, where it is set."""
import io, json, os, platform, shutil, statistics, subprocess, sys, tarfile, tempfile, time, warnings
from pathlib import Path
import numpy as np, torch
from quantizer.all import *
from quantizer.core.files import atomic_path
from quantizer.data.store import commit_store, start_store
from quantizer.data.store_files import Folder, write_shard
warnings.simplefilter('ignore')
torch.set_num_threads(1)

B,CROP,D,RATE = 32,200,80,100 # recordings in a batch, frames in a crop of 2 s, mel bands, frames per second

def recordings(hours, seed=0):
    "Random frames of recordings of 2 to 20 s, until there are so many hours"
    rng,left = np.random.default_rng(seed),hours*3600*RATE
    block = rng.standard_normal((200_000,D), dtype=np.float32)
    while left > 0:
        n = int(rng.integers(2*RATE, 20*RATE))
        at = int(rng.integers(len(block)-n))
        left -= n
        yield block[at:at+n]

def make_store(path, hours, dtype='float32'):
    f = Folder(path)
    m,xs = start_store(f, dict(name='noise'), D, RATE, dtype),enumerate(recordings(hours))
    for k in range(10**6):
        with write_shard(f, k, dtype) as shard:
            for _,(i,x) in zip(range(1000), xs): shard.add([x], id=f'{i:06d}', size=0, duration_s=np.nan, speaker='', text='', language='', split='valid' if i%50 == 0 else 'train')
        if len(shard.rows) < 1000: break
    commit_store(f, m, range(k+1))
    return FeatureStore(path)

def make_tars(path, hours):
    path.mkdir()
    for k,(i,x) in enumerate(enumerate(recordings(hours))):
        if k%1000 == 0:
            if k: tar.close()
            tar = tarfile.open(path/f'{k//1000:05d}.tar', 'w')
        data = io.BytesIO(); np.save(data, x); data = data.getvalue()
        info = tarfile.TarInfo(f'{i:06d}.npy'); info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    tar.close()

def cycle(it):
    while True: yield from it

def crops(xs, rng):
    "What `pad_batch` makes of random crops: for the peers"
    return pad_batch([torch.from_numpy(np.array(x[(a := int(rng.integers(len(x)-CROP+1))):a+CROP])) for x in xs])

def from_webdataset(path):
    import webdataset as wds
    rng = np.random.default_rng(0)
    ds = wds.WebDataset(sorted(map(str, path.glob('*.tar'))), shardshuffle=100, seed=0).shuffle(1000).decode().to_tuple('npy').batched(B, collation_fn=lambda b: crops([x for x, in b], rng), partial=False)
    return cycle(ds)

def from_datasets(path, hours, as_bytes):
    "Frames in an Arrow column: as the arrays that it documents, or as bytes, which is faster and leaves their type and shape to the user"
    import datasets
    datasets.disable_progress_bars()
    columns = datasets.Features(feats=datasets.Value('binary') if as_bytes else datasets.Array2D((None,D), 'float32'))
    ds = datasets.Dataset.from_generator(lambda: (dict(feats=x.tobytes() if as_bytes else x) for x in recordings(hours)), columns, cache_dir=str(path))
    if not as_bytes: ds = ds.with_format('numpy')
    def _batches():
        rng = np.random.default_rng(0)
        while True:
            for i in np.split(p := rng.permutation(len(ds)), range(B, len(p), B))[:-1]:
                xs = ds[i.tolist()]['feats']
                yield crops([np.frombuffer(x, np.float32).reshape(-1, D) for x in xs] if as_bytes else xs, rng)
    return _batches()

def per_batch(it, n):
    start = time.process_time()
    for _ in range(n): held = next(it)
    return 1000*(time.process_time()-start)/n

def copies(dtype):
    "The same bytes as a batch, from memory to memory"
    src,out = torch.randn(64, B*CROP*D).to(dtype),torch.empty(B*CROP*D, dtype=dtype)
    while True:
        for x in src: yield out.copy_(x)

def bench_batches(d, hours, rounds):
    its,n = {},{}
    for dtype in ('float32','float16'):
        store = make_store(d/dtype, hours, dtype)
        its |= {f'memcpy {dtype}':copies(getattr(torch, dtype)), f'store {dtype}':cycle(feature_loaders(store, B, CROP/RATE).train)}
    make_tars(d/'tars', hours)
    its |= {'webdataset':from_webdataset(d/'tars'), 'HF datasets, arrays':from_datasets(d/'arrays', hours, False), 'HF datasets, bytes':from_datasets(d/'bytes', hours, True)}
    for k,it in its.items():
        per_batch(it, 60) # into the page cache, and past the filling of a shuffle buffer
        n[k] = 4 if k.startswith(('webdataset','HF')) else 100
    ms = {k:[] for k in its}
    for _ in range(rounds):
        for k,it in its.items(): ms[k].append(per_batch(it, n[k]))
    return {k:round(statistics.median(v), 4) for k,v in ms.items()}

def resident(): return next(int(o.split()[1])/1024 for o in open('/proc/self/status') if o.startswith('RssAnon'))

def epoch_memory(path):
    "Megabytes of a process that has opened a store, after 50 batches of an epoch, and after all of it"
    store = FeatureStore(path)
    dls,res = feature_loaders(store, B, CROP/RATE),[]
    for i,b in enumerate(dls.train):
        if i == 50: res.append(resident())
    return [*res, resident()]

def bench_memory(d, hours):
    "In a process of its own, for a store and one of a quarter of the hours"
    make_store(d/'quarter', hours/4)
    def _run(path): return json.loads(subprocess.run([sys.executable, __file__, '--memory', path], capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return {h:dict(zip(('after 50 batches MB','after the epoch MB'), map(round, _run(p)))) for h,p in ((f'{hours/4:g} h', d/'quarter'), (f'{hours:g} h', d/'float32'))}

def bench_extraction(corpus, d, rounds):
    "CPU seconds to decode a corpus, to decode and extract it, and to build a store of it"
    mel,res = LogMel(),{k:[] for k in ('decode','decode + features','store')}
    def _time(k, f): start = time.process_time(); f(); res[k].append(time.process_time()-start)
    with torch.no_grad():
        for r in range(rounds):
            _time('decode', lambda: [corpus.audio(i) for i in range(len(corpus))])
            _time('decode + features', lambda: [mel(corpus.audio(i)[None]) for i in range(len(corpus))])
            _time('store', lambda: build_store(corpus, mel, d/f'extract-{r}', progress=False))
    s = {k:statistics.median(v) for k,v in res.items()}
    hours = float(FeatureStore(d/'extract-0').frames.sum())/RATE/3600
    return {k:round(v, 2) for k,v in s.items()} | dict(recordings=len(corpus), hours=round(hours, 3), lost=round(1-s['decode + features']/s['store'], 4))

def bench_training(manifest, d):
    "Extraction and an epoch of training on a whole corpus: the share of time that the trainer waits for data, and peak memory"
    code = "import sys; from quantizer.app.cli import main; code = main(sys.argv[1:]); print(next(int(o.split()[1])//1024 for o in open('/proc/self/status') if o.startswith('VmHWM'))); sys.exit(code)"
    args = ['train', 'logmel-vq', f'data.corpus={manifest}', 'data.rename={label: text}', 'train.epochs=1', '--out', str(d/'run')]
    p = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, check=True)
    log = (d/'run/log.csv').read_text().splitlines()
    row = dict(zip(log[0].split(','), log[1].split(',')))
    return dict(steps=int(row['step']), time_s=float(row['time_s']), data_wait=float(row['data_wait']), peak_mb=int(p.stdout.splitlines()[-1]))

if __name__ == '__main__':
    if sys.argv[1] == '--memory': print(json.dumps(epoch_memory(sys.argv[2]))); sys.exit()
    from bench_features import bench_features
    hours = float(sys.argv[2]) if len(sys.argv) > 2 else 20.
    res = dict(about=dict(cpu=platform.processor() or platform.machine(), torch=torch.__version__, hours=hours, batch=f'{B} x {CROP/RATE:g} s'))
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        res['batches'] = bench_batches(d, hours, 15); print(res['batches'], flush=True)
        res['memory'] = bench_memory(d, hours); print(res['memory'], flush=True)
    res['features'] = bench_features(); print(res['features'], flush=True)
    more = Path(os.environ.get('QUANTIZER_DATA', ''))/'data/dev/manifest.tsv'
    if more.is_file():
        with tempfile.TemporaryDirectory() as d:
            res['extraction'] = bench_extraction(Corpus.load(more, dict(label='text')), Path(d), 3); print(res['extraction'], flush=True)
            res['training'] = bench_training(more, Path(d)); print(res['training'], flush=True)
    with atomic_path(sys.argv[1]) as tmp: tmp.write_text(json.dumps(res, indent=1))
