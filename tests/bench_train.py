"""Speed of training: `python tests/bench_train.py OUT.json [PART...]`; with parts (overhead, precision, options, batching, workers, gpu), the others stay as they are

Whatever is compared is interleaved in one process: every round lets each training go on for some steps, so that what else the machine does hits all alike. Our
trainings are those of `learner_from_config`, with every callback that a run has, each in a thread of its own that waits while it is not its turn. Times are CPU milliseconds
of one thread, medians over rounds, in a process that keeps the memory that it has had (by default it may give it back and get it anew in every step or never, as chance has it: 5 ms of 50); where processes read the data, or a GPU computes, those of the wall clock. What counts are the ratios within a comparison."""
import os, sys
KEEP = dict(OMP_NUM_THREADS='1', MALLOC_ARENA_MAX='1', MALLOC_MMAP_THRESHOLD_='33554432', MALLOC_TRIM_THRESHOLD_='17179869184')
if __name__ == '__main__' and not KEEP.items() <= os.environ.items(): os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP) # such are read when a process begins
os.environ.setdefault('TORCHINDUCTOR_CACHE_DIR', f'/tmp/quantizer-bench-{os.getpid()}') # compiled anew, to see what it takes
import json, math, platform, random, shutil, statistics, tempfile, threading, time, warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.torch_core import defaults
from quantizer.all import *
from quantizer.app.build import store_from_config
from quantizer.core.files import atomic_path
from quantizer.data.batch_plans import RandomCrops
from quantizer.train.learner import decay_groups
from quantizer.train.schedule import cosine
from bench_data import D, RATE, make_store
warnings.simplefilter('ignore')
torch.set_num_threads(1)

class Gate(Callback):
    "Lets a training go on for some steps at a time"
    order = math.inf # last
    def __init__(self, count): self.go,self.paused,self.left,self.over,self.count,self.frames,self.size = threading.Semaphore(0),threading.Semaphore(0),0,False,count,0,0
    def wait(self):
        self.paused.release()
        self.go.acquire()
        if self.over: raise CancelFitException
    def before_train(self): self.wait()
    def after_batch(self):
        if self.count: self.frames,self.size = self.frames+int(self.pred.frames),self.size+self.pred.mask.numel()
        self.left -= 1
        if not self.left: self.wait()

class Training:
    "A training that takes steps when it is called"
    def __init__(self, cfg, store, out=None, change=lambda learn: None, count=False):
        if out: out.mkdir()
        self.learn,self.error,self.gate = learner_from_config(cfg, store, out),None,Gate(count)
        self.learn.add_cb(self.gate)
        change(self.learn)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.gate.paused.acquire()
        if self.error: raise self.error
    def _run(self):
        try:
            with self.learn.no_bar(), self.learn.no_logging(): self.learn.fit(1)
        except BaseException as e: self.error = e
        self.gate.paused.release()
    def __call__(self, n):
        self.gate.left = n
        self.gate.go.release()
        self.gate.paused.acquire()
        if self.error: raise self.error
    def close(self):
        self.gate.over = True
        self.gate.go.release()
        self.thread.join()

def bare(cfg, store, device):
    "The same model, batches, optimizer and schedule, in a loop as one writes it by hand"
    t,data = cfg['train'],cfg['data']
    model = build_model(cfg['model'], *store.mean_std(store.part('train'))).to(device).train()
    it = iter(feature_loaders(store, data['batch_size'], data['crop_s'], epoch_steps=t['epoch_steps']).train)
    opt = torch.optim.AdamW([dict(params=p, weight_decay=wd) for p,wd in zip(decay_groups(model), (t['wd'],0.))], t['lr'], betas=(0.9,0.99), fused=True)
    params,lr,done = list(model.parameters()),cosine(t['lr']),[0]
    def _steps(n):
        for _ in range(n):
            feats,mask,_ = next(it)
            feats,mask = feats.to(device, non_blocking=True),mask.to(device, non_blocking=True)
            for g in opt.param_groups: g['lr'] = lr(done[0]/t['epoch_steps'])
            model(feats, mask).loss.backward()
            torch.nn.utils.clip_grad_norm_(params, t['clip'])
            opt.step()
            opt.zero_grad()
            done[0] += 1
    own = ThreadPoolExecutor(1) # in a thread, as ours: memory of one's own
    return lambda n: own.submit(_steps, n).result()

def config(kind='conv', width=192, data={}, model={}, **train):
    layers = dict(layers=4) if kind == 'transformer' else {}
    return check_config(dict(data=dict(corpus='sample', batch_size=8) | data, features=dict(name='logmel', n_mels=D), model=dict(encoder=dict(name=kind, width=width, **layers),
        quantizer=dict(name='vq', codebook_size=1024), decoder=dict(name=kind, width=width, **layers), losses=dict(mse=1., commitment=0.25)) | model, train=dict(epochs=1, epoch_steps=10**6, schedule='cosine') | train))

def rounds(runs, n, count, wall=False):
    "Milliseconds a step of each, for each round"
    cuda = torch.cuda.is_available() and defaults.use_cuda is not False
    clock,ms,draw = time.perf_counter if cuda or wall else time.process_time,{k:[] for k in runs},random.Random(0)
    for _ in range(count):
        for k,run in draw.sample(list(runs.items()), len(runs)): # who comes after whom should not matter
            start = clock()
            run(n)
            if cuda: torch.cuda.synchronize()
            ms[k].append(1000*(clock()-start)/n)
    return ms

def ratios(a, b):
    "Median and quartiles of `a/b`, round by round"
    q = statistics.quantiles([x/y for x,y in zip(a, b)], n=4)
    return [round(q[i], 4) for i in (1,0,2)]

def tell(name, **row):
    print(f'{name:28}', ', '.join(f'{k} {v}' for k,v in row.items()), flush=True)
    return row

def overhead(store, d, device='cpu', target=50., width=192, times=6):
    "Our loop against the bare one, with batches that make a bare step as long as wanted; and a second bare one. All anew some times: where in memory its tensors lie makes a loop faster or slower by some percent"
    B,rows = 2,[]
    for _ in range(2): # the second guess starts from the first
        run = bare(config(width=width, data=dict(batch_size=B)), store, device)
        run(5)
        B = max(1, round(B*target/statistics.median(rounds(dict(bare=run), 5, 5)['bare'])))
    cfg = config(width=width, data=dict(batch_size=B))
    for i in range(times):
        make = dict(bare=lambda: bare(cfg, store, device), again=lambda: bare(cfg, store, device), quantizer=lambda: Training(cfg, store, d/f'overhead-{device}-{width}-{i}'))
        runs = {k:make[k]() for k in random.Random(i).sample(list(make), 3)}
        for run in runs.values(): run(10) # from here on, a row of the log falls into each round
        rows.append({k:statistics.median(v) for k,v in rounds(runs, 10, 14).items()})
        start = time.perf_counter()
        runs['quantizer'].learn.checkpoint.save(0, 0)
        rows[-1]['checkpoint'] = 1000*(time.perf_counter()-start)
        runs['quantizer'].close()
    ms = {k:[o[k] for o in rows] for k in rows[0]}
    mid = {k:round(statistics.median(v), 2) for k,v in ms.items()}
    return tell(f'overhead, {device}, width {width}', batch_size=B, **{f'{k}_ms':v for k,v in mid.items()}, extra_ms=round(statistics.median(y-x for x,y in zip(ms['bare']+ms['again'], 2*ms['quantizer'])), 2),
        ratio=ratios(2*ms['quantizer'], ms['bare']+ms['again']), control=ratios(ms['again'], ms['bare']), checkpoint_share=round(mid['checkpoint']/500/mid['quantizer'], 5), rows=[{k:round(v, 2) for k,v in o.items()} for o in rows]) # a checkpoint every 500 steps

def precision(store, d):
    "bfloat16 against float32"
    rows = []
    for kind,width in (('conv',384), ('conv',768), ('transformer',384), ('transformer',512)):
        runs = {p:Training(config(kind, width, dict(batch_size=16 if width == 384 else 8), precision=p), store, d/f'{kind}-{width}-{p}') for p in ('fp32','bf16')}
        for run in runs.values(): run(2)
        ms = rounds(runs, 1, 10)
        for run in runs.values(): run.close()
        frames = RATE*2*(16 if width == 384 else 8)
        params = sum(p.numel() for p in runs['fp32'].learn.model.parameters())
        rows.append(tell(f'precision, {kind} {width}', model=kind, width=width, params=params, **{f'{k} frames/s':round(1000*frames/statistics.median(v)) for k,v in ms.items()}, ratio=ratios(ms['fp32'], ms['bf16'])))
    return rows

def saved_mb(learn, cfg):
    "What the forward pass keeps for the backward pass, but for the weights"
    model,kept,x = learn.model,{},learn._set_device(next(iter(learn.dls.train)))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    def _pack(t): kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes(); return t
    with torch.autograd.graph.saved_tensors_hooks(_pack, lambda t: t), torch.autocast(x[0].device.type, torch.bfloat16, enabled=cfg['train']['precision'] == 'bf16'): out = model(*x[:2])
    return round(sum(v for k,v in kept.items() if k not in weights)/2**20, 1)

OPTIONS = {'fp32':{}, 'fp32 again':{}, 'bf16':dict(precision='bf16'), 'accumulate 4':dict(accumulate=4), 'activation checkpointing':dict(activation_checkpointing=True), 'AdamW not fused':{}, 'compile':dict(compile=True)}

def options(store, d, name='conv', count=12, **base):
    "Each option alone, against the same training without it"
    runs,rows,made = {},{},{k:config(**base, **v) for k,v in OPTIONS.items()}
    def _unfuse(learn): learn.opt_func = partial(learn.opt_func, fused=False)
    for k,cfg in made.items():
        rows[k] = dict(option=k)
        try:
            runs[k] = Training(cfg, store, d/f'{name}-{k}', _unfuse if 'not fused' in k else lambda learn: None)
            start = time.perf_counter()
            runs[k](1)
            if k == 'compile': rows[k]['first_step_s'] = round(time.perf_counter()-start, 1)
            if torch.cuda.is_available(): torch.cuda.reset_peak_memory_stats()
            runs[k](7)
            if torch.cuda.is_available(): rows[k]['peak_mb'] = round(torch.cuda.max_memory_allocated()/2**20)
        except Exception as e:
            if k != 'compile': raise
            runs.pop(k, None)
            rows[k]['left_out'] = tell(k, left_out=f"no compiler that works ({' '.join(str(e).split())[:100]})")['left_out']
    ms,frames = rounds(runs, 4, count),made['fp32']['data']['batch_size']*round(made['fp32']['data']['crop_s']*RATE)
    for k,run in runs.items():
        run.close()
        rows[k] |= {'ms':round(statistics.median(ms[k]), 2), 'frames/s':round(1000*frames/statistics.median(ms[k])), 'speed':ratios(ms['fp32'], ms[k])}
        if k in ('fp32','bf16','activation checkpointing'): rows[k]['kept_mb'] = saved_mb(run.learn, made[k])
        tell(f'{name}, {k}', **{a:b for a,b in rows[k].items() if a != 'option'})
    return list(rows.values())

def batching(store, d):
    "Whole recordings of 2 to 20 s: in random order, padded to the longest; of like length; and packed"
    made = {'random order':dict(batching='crops', crop_s=20.), 'buckets':dict(batching='buckets'), 'packed':dict(batching='packed')}
    def _random(learn): # `RandomCrops` sorts within a few batches; not here
        if learn.dls.train.dataset.plan.__class__ is RandomCrops: learn.dls.train.dataset.plan.window = 1
    runs = {k:Training(config(width=96, data=dict(longest_s=20., **v)), store, d/k, _random, count=True) for k,v in made.items()}
    for run in runs.values():
        run(2)
        run.gate.frames = run.gate.size = 0
    ms,rows = rounds(runs, 2, 20),[]
    for k,run in runs.items():
        run.close()
        rows.append(tell(f'batching, {k}', **{'batches':k, 'real frames/s':round(1000*run.gate.frames/(2*sum(ms[k]))), 'padding':round(1-run.gate.frames/run.gate.size, 4)}))
    return rows

def workers(d):
    "Features of the packaged recordings from a store, and computed while training, with processes that read and without"
    cfg = config(data=dict(crop_s=1., batch_size=16))
    corpus = corpus_from_config(cfg)
    sources = dict(store=store_from_config(cfg, corpus, d/'sample', False), live=LiveFeatures(corpus, extractor_from_config(cfg)))
    runs = {(k,n):Training(config(data=dict(crop_s=1., batch_size=16, workers=n)), s, d/f'{k}-{n}') for k,s in sources.items() for n in (0,2)}
    for run in runs.values(): run(10)
    ms,rows = rounds(runs, 5, 15, wall=True),[]
    for (k,n),run in runs.items():
        rows.append(tell(f'{k}, {n} workers', features=k, workers=n, ms=round(statistics.median(ms[k,n]), 2), speed=ratios(ms['store',0], ms[k,n])))
        run.close()
    return rows

def gpu(store, d):
    "The options on a GPU at two sizes, and how much of what it can multiply is used"
    a = torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16)
    peak = 2*8192**3/statistics.median(rounds(dict(matmul=lambda n: [a@a for _ in range(n)]), 10, 10)['matmul'])*1000
    res = dict(device=torch.cuda.get_device_name(), matmul_tflops=round(peak/1e12), overhead=overhead(store, d, 'cuda', target=20.), sizes={})
    for name,base in dict(small=dict(width=512, data=dict(batch_size=32)), large=dict(kind='transformer', width=1024, data=dict(batch_size=64))).items():
        rows,cfg = options(store, d, name, **base),config(**base)
        model,x = build_model(cfg['model'], torch.zeros(D), torch.ones(D)).cuda(),torch.randn(cfg['data']['batch_size'], 2*RATE, D, device='cuda')
        with torch.utils.flop_counter.FlopCounterMode(display=False) as flops: model(x, torch.ones(x.shape[:2], dtype=torch.bool, device='cuda')).loss.backward()
        res['sizes'][name] = [r | ({'of_peak':round(1000*flops.get_total_flops()/r['ms']/peak, 4)} if 'ms' in r else {}) for r in rows]
    return res

def both(store, d): return overhead(store, d) | dict(short=overhead(store, d, target=1., width=16)) # in short steps it is seen best what is added to each

PARTS = dict(overhead=both, precision=precision, options=options, batching=batching, workers=lambda store, d: workers(d), gpu=gpu)

if __name__ == '__main__':
    out,names = Path(sys.argv[1]),sys.argv[2:] or list(PARTS)
    res,start = json.loads(out.read_text()) if sys.argv[2:] and out.exists() else dict(load={}),time.time()
    cpu = next((o.split(':')[1].strip() for o in open('/proc/cpuinfo') if o.startswith('model name')), platform.processor())
    flags = set(open('/proc/cpuinfo').read().split())
    res['about'] = dict(cpu=cpu, cores=os.cpu_count(), bf16='AMX' if 'amx_bf16' in flags else 'AVX-512' if 'avx512_bf16' in flags else 'none', torch=torch.__version__)
    with tempfile.TemporaryDirectory() as d:
        store = make_store(Path(d)/'store', 2)
        for k in names:
            if k == 'gpu' and not torch.cuda.is_available(): continue
            defaults.use_cuda = None if k == 'gpu' else False
            load = os.getloadavg()[0]
            print(f'-- {k} (load {load:.1f}, {time.time()-start:.0f} s so far)', flush=True)
            res[k] = PARTS[k](store, Path(d))
            res['load'][k] = [round(o, 2) for o in (load, os.getloadavg()[0])]
        store.close()
    shutil.rmtree(os.environ['TORCHINDUCTOR_CACHE_DIR'], ignore_errors=True)
    with atomic_path(out) as tmp: tmp.write_text(json.dumps(res, indent=1)+'\n')
    print(f'{time.time()-start:.0f} s')
