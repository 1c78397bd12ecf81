"""Speed of training through Whisper: `python tests/bench_whisper.py PEER_PYTHON OUT.json [MODEL]`, against WhisperSpeech's own classes, which PEER_PYTHON has

The same work on both sides: Whisper tiny.en's sizes (and weights, if MODEL is a folder with them; else random ones), 8 recordings, 25 Hz, 512 cosine codes of 64 dimensions, one attention block behind
them, cross-entropy, divergence from the teacher and commitment, AdamW. Theirs runs in a process of its own (`bench_whisper_peer.py`). Steps are interleaved: each round has one of each kind. Times are CPU
seconds of one thread, medians over rounds; what counts are ratios. Both processes keep the memory that they have had, and the first round is not counted."""
import os, sys
KEEP = dict(OMP_NUM_THREADS='1', MALLOC_ARENA_MAX='1', MALLOC_MMAP_THRESHOLD_='33554432', MALLOC_TRIM_THRESHOLD_='17179869184')
if __name__ == '__main__' and not KEEP.items() <= os.environ.items(): os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP)
import json, platform, shutil, statistics, subprocess, tempfile, time, warnings
from pathlib import Path
import numpy as np, torch
from quantizer.all import *
from quantizer.whisper.objective import TextObjective
from quantizer.whisper.text_losses import top_k
from quantizer.whisper.teacher import random_whisper
warnings.simplefilter('ignore')
torch.set_num_threads(1)
ROUNDS,TEXT = 3,(20,24,27,29,31,33,36,40) # tokens of text in each recording
WHOLE,CLIPS = (30,)*8,(4.1,5.6,7.2,8.8,10.3,11.9,13.4,14.9) # seconds

class Peer:
    "WhisperSpeech, asked by lines of JSON"
    def __init__(self, python, folder):
        self.p = subprocess.Popen([python, str(Path(__file__).parent/'bench_whisper_peer.py'), *([folder] if folder else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self.p.stdout.readline())
    def __call__(self, **kwargs):
        self.p.stdin.write(json.dumps(dict(text=TEXT, **kwargs))+'\n'); self.p.stdin.flush()
        res = json.loads(self.p.stdout.readline())
        if 'error' in res: raise SystemExit(f"peer: {res['error']}")
        return res['cpu']

class Ours:
    "Our model, its optimizer, and batches"
    def __init__(self, folder, dtype, stored):
        self.enc,self.teacher,self.dtype,self.stored = WhisperEncoder(folder, pad=True, dtype=dtype),WhisperTeacher(folder, dtype=dtype),dtype,stored
        block = check_model(dict(encoder=dict(name='bottleneck', downsample=2), quantizer=dict(name='vq', dim=384, codebook_size=512, codebook_dim=64, metric='cosine'), decoder=dict(name='bottleneck', layers=1, blocks=0),
            losses=dict(ce=1., kl=1., commitment=1.), teacher=dict(topk=64 if stored else 0)))
        set_seed(0)
        self.model = build_model(block, torch.zeros(384), torch.ones(384)).train()
        self.model.objectives.append(TextObjective(dict(ce=1., kl=1.), self.model, self.teacher, self.teacher.silence_states(self.enc, [torch.zeros(16000)])))
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.opt = torch.optim.AdamW(self.params, 9e-4, fused=True)
    def batch(self, seconds):
        g = torch.Generator().manual_seed(0)
        wavs = [0.1*torch.randn(round(16000*s), generator=g) for s in seconds]
        tokens = pad_batch([torch.tensor([*self.teacher.prompt('en'), *torch.randint(256, 50000, (n,), generator=g).tolist(), self.teacher.eot])+1 for n in TEXT])[0]-1
        if not self.stored: return wavs,tokens
        with torch.no_grad():
            feats,mask = self.enc(*(lambda x,m: (x, m.sum(1)))(*pad_batch(wavs)))
            hidden = self.teacher.decoder_hidden(tokens[:,:-1].clamp(min=0), self.teacher.cross_attention_cache(feats))
            head = [torch.nn.functional.pad(o.unflatten(0, hidden.shape[:2]), (0,0,1,0)) for o in vars(top_k(hidden.flatten(0, 1), self.teacher.vocab_embedding, 64)).values()]
        return feats,mask,dict(teacher=(tokens,*head))
    def __call__(self, batch):
        t = time.process_time()
        if not self.stored:
            wavs,tokens = batch
            x,m = pad_batch(wavs)
            batch = *self.enc(x, m.sum(1)),dict(teacher=(tokens,))
        with torch.autocast('cpu', torch.bfloat16, self.dtype == 'bfloat16'): loss = self.model(*batch).loss
        self.opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 2.)
        self.opt.step()
        return time.process_time()-t

def main(python, out, folder=None):
    scratch = Path(tempfile.mkdtemp())
    peer = Peer(python, folder)
    path = folder or _random(scratch/'whisper')
    kinds = {f'{a}, {b}':Ours(path, b, a == 'stored') for a in ('live','stored') for b in ('float32','bfloat16')}
    todo = {'peer: as it is':lambda: peer(seconds=WHOLE), 'peer: Whisper frozen':lambda: peer(seconds=WHOLE, freeze_decoder=True), 'peer: and text trimmed':lambda: peer(seconds=WHOLE, freeze_decoder=True, trim_text=True),
        'peer: and teacher stored':lambda: peer(seconds=WHOLE, freeze_decoder=True, trim_text=True, cached=True), 'peer: as it is, matmul medium':lambda: peer(seconds=WHOLE, matmul='medium'), 'peer, clips: as it is':lambda: peer(seconds=CLIPS),
        'peer, clips: as it is, matmul medium':lambda: peer(seconds=CLIPS, matmul='medium')}
    for k,o in kinds.items():
        for name,seconds in (('ours',WHOLE), ('ours, clips',CLIPS)):
            todo[f'{name}: {k}'] = (lambda o,b: lambda: o(b))(o, o.batch(seconds))
    times = {k:[] for k in todo}
    for r in range(ROUNDS+1):
        for k,f in todo.items():
            t = f()
            if r: times[k].append(t)
            print(f'{r} {k:45} {t:7.2f}', flush=True)
    med = {k:statistics.median(v) for k,v in times.items()}
    res = dict(machine=f'{platform.machine()}, one thread, torch {torch.__version__}', amx='amx_bf16' in Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else None, weights='tiny.en' if folder else 'random', rounds=ROUNDS,
        seconds=dict(whole=sum(WHOLE), clips=sum(CLIPS)), times=times, cpu=med, peer=peer.about)
    Path(out).write_text(json.dumps(res, indent=1)+'\n')
    peer.p.terminate()
    shutil.rmtree(scratch)

def _random(path):
    "tiny.en's sizes, random weights, and a tokenizer of bytes"
    from transformers import WhisperConfig, WhisperForConditionalGeneration
    random_whisper(path)
    WhisperForConditionalGeneration(WhisperConfig(d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6, decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536, vocab_size=51864, pad_token_id=256, eos_token_id=256, bos_token_id=256, decoder_start_token_id=257)).save_pretrained(path)
    return str(path)

if __name__ == '__main__': main(*sys.argv[1:])
