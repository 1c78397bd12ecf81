"""Training steps of WhisperSpeech's quantizer, on request: `VENV/bin/python tests/bench_whisper_peer.py [WHISPER_FOLDER] [--threads 1]`

Run by the Python of a virtual environment of its own (tests/bench_whisper_requirements.txt), as what it needs does not fit ours; bench_whisper.py asks. The classes are those of
`whisperspeech.vq_stoks`, at the size of Whisper tiny.en; weights are random without a folder of `transformers`. First a line of JSON tells that it is ready; then a line of JSON asks
and a line answers: `{"cpu", "wall", "loss"}`, seconds of a step and the last loss, or `{"error"}`. What may be asked, and what it is without being asked: `ask`."""
import sys, os
OUT = os.fdopen(os.dup(1), 'w', buffering=1)
os.dup2(2, 1) # what the libraries print is no answer
import argparse, json, time, warnings
warnings.simplefilter('ignore')
sys.modules['torchaudio.lib._torchaudio'] = None # torchaudio's compiled ops do not fit this torch; it takes them for not built, and nothing here needs them
import torch
from pathlib import Path
from whisper.model import ModelDimensions, Whisper
from whisperspeech.vq_stoks import RQBottleneckTransformer, Tunables, add_masks, get_tokenizer, tokenize_text

RATE,NAME = 16000,'tiny.en'
DIMS = ModelDimensions(n_mels=80, n_audio_ctx=1500, n_audio_state=384, n_audio_head=6, n_audio_layer=4, n_vocab=51864, n_text_ctx=448, n_text_state=384, n_text_head=6, n_text_layer=4)
NAMES = {'model.':'', '.layers.':'.blocks.', 'encoder_attn':'cross_attn', 'self_attn':'attn', '_attn_layer_norm':'_attn_ln', 'attn_layer_norm':'attn_ln', 'q_proj':'query', 'k_proj':'key',
    'v_proj':'value', 'out_proj':'out', 'fc1':'mlp.0', 'fc2':'mlp.2', 'final_layer_norm':'mlp_ln', 'encoder.layer_norm':'encoder.ln_post', 'decoder.layer_norm':'decoder.ln',
    'embed_positions.weight':'positional_embedding', 'embed_tokens':'token_embedding'} # transformers' names, in Whisper's own; in this order

def whisper(folder=None):
    "Whisper with the weights of a folder of `transformers`, or random ones"
    model = Whisper(DIMS).eval()
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.01) # else it is whatever the memory held
    if not folder: return model
    from safetensors.torch import load_file
    state = load_file(Path(folder)/'model.safetensors')
    state.pop('proj_out.weight', None) # tied to the tokens' embedding
    def _name(k):
        for a,b in NAMES.items(): k = k.replace(a, b)
        return k
    model.load_state_dict({_name(k): v for k,v in state.items()})
    return model

def optimizer(model):
    "AdamW in the groups of their `train`, with its warm-up; that function itself expects two results of a model, and this one gives three"
    t,groups = model.tunables,{}
    for m in model.modules():
        if not (hasattr(m, 'no_weight_decay') or hasattr(m, 'lr_scale')): continue
        wd,lr = 0 if hasattr(m, 'no_weight_decay') else t.weight_decay,t.lr0*getattr(m, 'lr_scale', 1)
        groups.setdefault((wd, lr), dict(params=[], weight_decay=wd, lr=lr))['params'] += m.parameters()
    grouped = {p for g in groups.values() for p in g['params']}
    other = [dict(params=o, weight_decay=t.weight_decay)] if (o := [p for p in model.parameters() if p not in grouped]) else []
    opt = torch.optim.AdamW([*groups.values(), *other], lr=t.lr0, betas=(0.9, 0.95))
    return opt,torch.optim.lr_scheduler.LinearLR(opt, 1e-3, 1, t.warmup_steps)

def batch(seconds, text):
    "What their dataset gives: sound of 30 s with zeros after its end, masks, and text in 200 positions"
    g = torch.Generator().manual_seed(0)
    sound = [torch.nn.functional.pad(torch.randn(int(s*RATE), generator=g)/10, (0, 30*RATE - int(s*RATE))) for s in seconds]
    samples = tokenize_text(add_masks(dict(tstart=0, tend=s, txt=' the'*n) for s,n in zip(seconds, text)), model=NAME)
    res = [torch.stack(o) for o in zip(*[(x, s['mask'], s['in_ttoks'], s['out_ttoks']) for x,s in zip(sound, samples)])]
    if ((res[3] != -100).sum(1) != torch.tensor(text)+2).any(): raise ValueError(f'text of {text} tokens: at most 198 go into 200 positions')
    return res

class Peer:
    "Their quantizer with its optimizer"
    def __init__(self, folder):
        torch.manual_seed(0)
        self.model = RQBottleneckTransformer(codebook_dim=64, vq_codes=512, q_depth=1, depth=1, n_head=6, downsample=2, threshold_ema_dead_code=0, use_cosine_sim=True,
            whisper_model_name=NAME, tunables=Tunables()).train() # `make_model`'s `*-2d-512c-dim64`, which it has for base and larger
        self.model.whmodel,self.model.tokenizer = [whisper(folder)],get_tokenizer(NAME, 'en') # as `ensure_whisper`, which would download
        self.opt,self.sched = optimizer(self.model)

    def step(self, b):
        self.opt.zero_grad(set_to_none=True)
        loss = self.model(*b)[-1].mean()
        loss.backward()
        value = loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.model.tunables.clip_gradient_norm)
        self.opt.step()
        self.sched.step()
        return value

    def ask(self, seconds=(30,)*8, # sound in each recording, up to 30
        text=(30,)*8, # tokens of text in each, up to 198
        steps=1,
        freeze_decoder=False, # keep no gradients for Whisper, which is not trained
        trim_text=False, # cut the 200 positions to the longest text; the loss falls, as theirs draws the decoder to uniform predictions at padding
        cached=False, # features and the teacher's logits from before, not within the time
        matmul='highest', # of float32; theirs is 'medium', which may compute in bfloat16
    ):
        "Take steps; seconds of CPU and of the clock for one"
        torch.set_float32_matmul_precision(matmul)
        b,wh = batch(seconds, text),self.model.whmodel[0].requires_grad_(not freeze_decoder)
        if freeze_decoder: wh.zero_grad(set_to_none=True)
        if trim_text: b[2],b[3] = (o[:,:max(text)+2].contiguous() for o in b[2:])
        self.model.__dict__.pop('extract_teacher', None)
        if cached:
            known = self.model.extract_teacher(b[0], *b[2:])
            self.model.extract_teacher = lambda *_: known
        cpu,wall = time.process_time(),time.perf_counter()
        for _ in range(steps): loss = self.step(b)
        return dict(cpu=(time.process_time() - cpu)/steps, wall=(time.perf_counter() - wall)/steps, loss=loss)

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('folder', nargs='?')
    p.add_argument('--threads', type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    peer = Peer(args.folder)
    print(json.dumps(dict(ready=True, torch=torch.__version__, weights='loaded' if args.folder else 'random', params=sum(p.numel() for p in peer.model.parameters()))), file=OUT)
    for line in sys.stdin:
        try: res = peer.ask(**json.loads(line))
        except Exception as e: res = dict(error=f'{type(e).__name__}: {e}')
        print(json.dumps(res), file=OUT)
