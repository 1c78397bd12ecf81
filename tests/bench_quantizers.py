"""Time and memory of a training step of the quantizers: `python tests/bench_quantizers.py OUT.json [KIND...]`; with kinds, the others stay as they are

Each comparison is interleaved: every round runs each method once, so that what else the machine does hits all alike. Times are medians of
CPU milliseconds of one thread; what counts are the ratios within a comparison. Extra memory is the peak of a process of its own above what
it held before the step; a process that wants more than LIMIT is reported as out of memory. "vqt" is vector-quantize-pytorch."""
import json, platform, resource, statistics, subprocess, sys, time, warnings
from pathlib import Path
import torch, vector_quantize_pytorch as vqt
from quantizer.all import FSQ, LFQ, Residual, SimVQ, VQ
from quantizer.core.files import atomic_path

warnings.simplefilter('ignore')
LIMIT = 16 # GB
CASES = [('vq', D, K, 16384) for K in (1024,8192,65536) for D in (64,256,512)] + [('fsq', 4, 1000, 16384), ('fsq', 4, 1000, 262144), ('fsq', 8, 2**24, 262144),
    ('lfq', 64, 1024, 16384), ('lfq', 64, 2**16, 16384), ('simvq', 64, 8192, 16384), ('rotation', 256, 1024, 16384), ('residual', 64, 1024, 16384)]

class Floor(torch.nn.Module):
    "The bare search: chunks of `x @ codebook.T`, 4 MB at a time, and the best of each row; no gradient, no update"
    def __init__(self, D, K):
        super().__init__()
        self.register_buffer('codebook', torch.randn(K, D))
    def forward(self, z):
        x,rows = z.detach().view(-1, z.shape[-1]),max(1, 2**20//len(self.codebook))
        codes = torch.empty(len(x), dtype=torch.long)
        for i in range(0, len(x), rows): codes[i:i+rows] = (x[i:i+rows] @ self.codebook.T).argmax(1)

class TanhRound(torch.nn.Module):
    "What FSQ cannot do without, straight through as it is usually written"
    def forward(self, z):
        t = torch.tanh(z)
        return t + (t.round()-t).detach()

def makers(kind, D, K, n):
    "What a case compares: name -> maker of a module; ratios are to the first"
    ste = dict(decay=0.95, rotation_trick=False)
    if kind == 'vq': return dict(floor=lambda: Floor(D, K), quantizer=lambda: VQ(D, K, kmeans_iters=1), vqt=lambda: vqt.VectorQuantize(dim=D, codebook_size=K, **ste))
    if kind == 'fsq':
        levels = [8,5,5,5] if D == 4 else [8]*D
        return dict(floor=TanhRound, quantizer=lambda: FSQ(D, levels=levels), vqt=lambda: vqt.FSQ(levels))
    return dict(lfq=dict(quantizer=lambda: LFQ(D, K), vqt=lambda: vqt.LFQ(dim=D, codebook_size=K)),
        simvq=dict(quantizer=lambda: SimVQ(D, K), vqt=lambda: vqt.SimVQ(dim=D, codebook_size=K, rotation_trick=False)),
        rotation=dict(quantizer=lambda: VQ(D, K, estimator='rotation', kmeans_iters=1), vqt=lambda: vqt.VectorQuantize(dim=D, codebook_size=K, decay=0.95, rotation_trick=True)),
        residual=dict(quantizer=lambda: Residual(D, K, 8, dict(name='vq', kmeans_iters=1)), vqt=lambda: vqt.ResidualVQ(dim=D, codebook_size=K, num_quantizers=8, **ste)))[kind]

def step(q, z, g):
    "Forward and backward"
    z = z.detach().requires_grad_()
    out = q(z)
    if out is None: return
    z_q,loss = (out, None) if isinstance(out, torch.Tensor) else (out[0], out[2] if len(out) > 2 else None) if isinstance(out, tuple) else (out.z_q, out.loss)
    roots = [(z_q, g)] + ([(loss.sum(), torch.ones(()))] if loss is not None and loss.requires_grad else [])
    torch.autograd.backward(*map(list, zip(*roots)))

def inputs(case):
    torch.manual_seed(0)
    z = torch.randn(8, case[3]//8, case[1])
    return z,torch.randn_like(z)

def memory(case, name):
    "Megabytes that a step takes at its peak, above what the process held before it"
    def held(key): return next(int(o.split()[1])/1024 for o in open('/proc/self/status') if o.startswith(key))
    z,g = inputs(case)
    q = makers(*case)[name]().train()
    step(q, z[:,:8].contiguous(), g[:,:8]) # what is allocated once
    Path('/proc/self/clear_refs').write_text('5') # from here on, a new peak
    before = held('VmRSS')
    step(q, z, g)
    return held('VmHWM')-before

def child(case, name):
    "`memory` in a process of its own; `None` if it runs out of memory"
    p = subprocess.run([sys.executable, __file__, '--memory', json.dumps([case, name])], capture_output=True, text=True)
    if p.returncode == 0: return round(float(p.stdout))
    assert 'memory' in p.stderr.splitlines()[-1], p.stderr
    return None

def measure(case, rounds):
    extra = {k:child(case, k) for k in makers(*case)}
    torch.manual_seed(0)
    made = {k:make().train() for k,make in makers(*case).items() if extra[k] is not None}
    z,g = inputs(case)
    for q in made.values(): step(q, z, g)
    times = {k:[] for k in made}
    for _ in range(rounds):
        for k,q in made.items():
            t = time.process_time()
            step(q, z, g)
            times[k].append(1000*(time.process_time()-t))
    ms = {k:statistics.median(v) for k,v in times.items()}
    return dict(zip(('kind','dim','codes','vectors'), case), ms={k:round(v, 2) for k,v in ms.items()}, extra_mb=extra)

def show(r):
    base,ms = next(iter(r['ms'])),r['ms']
    cells = [f"{k} " + (f"{ms[k]:.1f} ms, {ms[k]/ms[base]:.2f}x, {r['extra_mb'][k]} MB" if k in ms else f'out of memory (over {LIMIT} GB)') for k in r['extra_mb']]
    print(f"{r['kind']:9} D={r['dim']:<4} K={r['codes']:<9,} N={r['vectors']:<8,} " + ' | '.join(cells) + (f" | quantizer is {ms['vqt']/ms['quantizer']:.1f}x faster than vqt" if 'vqt' in ms else ''), flush=True)

if __name__ == '__main__':
    torch.set_num_threads(1)
    if sys.argv[1] == '--memory':
        case,name = json.loads(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT*2**30,)*2)
        print(memory(case, name))
    else:
        out,kinds = Path(sys.argv[1]),sys.argv[2:]
        rows = {tuple(r[k] for k in ('kind','dim','codes','vectors')):r for r in json.loads(out.read_text())['rows']} if kinds else {}
        for case in CASES:
            if kinds and case[0] not in kinds: continue
            small = case[1]*case[2] < 2**17 or case[0] in ('fsq','lfq')
            rows[case] = measure(case, 15 if small else 7 if case[2] < 8192 else 3)
            show(rows[case])
        cpu = next((o.split(':')[1].strip() for o in open('/proc/cpuinfo') if o.startswith('model name')), platform.processor())
        about = dict(cpu=cpu, torch=torch.__version__, vqt=__import__('importlib.metadata').metadata.version('vector-quantize-pytorch'), limit_gb=LIMIT)
        with atomic_path(out) as tmp: tmp.write_text(json.dumps(dict(about=about, rows=[rows[o] for o in CASES]), indent=1)+'\n')
