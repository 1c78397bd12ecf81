"Some steps of every quantizer, and of every objective that draws, on one rank's part of made-up frames; started by test_ranks.py, it forks one process, and two"
import multiprocessing, sys, torch, torch.distributed as dist
from safetensors.torch import save_file
from quantizer.all import Quantizer
from quantizer.evaluate.health import count_codes
from quantizer.core.distributed import all_reduce_sum
from quantizer.models.autoencoder import add_objectives, build_model, check_model
from variants import make, variants

def parts(step, rank, world, dim):
    "A batch `(B,T,D)` and its mask: unequal parts, and sometimes an empty one; the whole is the parts one after the other"
    g = torch.Generator().manual_seed(step)
    z,lengths = torch.randn(6, 20, dim, generator=g)*(1+step/10),torch.randint(1, 21, (6,), generator=g)
    cut = (4, 1, 6)[step % 3] # the last leaves nothing to the second rank
    if cut == 6 and world > 1 and rank == 1: return torch.zeros(1, 20, dim), torch.zeros(1, 20, dtype=torch.bool)
    rows = slice(0, 6) if world == 1 else slice(0, cut) if rank == 0 else slice(cut, 6)
    return z[rows], (torch.arange(20)[None] < lengths[:,None])[rows]

def average_gradients(params, world):
    "In one message, which is much faster than one for each"
    grads = torch.cat([p.grad.flatten() for p in params])
    dist.all_reduce(grads)
    for p,g in zip(params, (grads/world).split([p.numel() for p in params])): p.grad.copy_(g.view_as(p))

def run(q, enc, rank, world):
    params = [*enc.parameters(), *q.parameters()]
    opt,log = torch.optim.SGD(params, lr=0.01),[]
    for step in range(12):
        z,mask = parts(step, rank, world, 8)
        out = q.train()(enc(z), mask)
        n = torch.tensor(float(mask.sum()))
        if world > 1: dist.all_reduce(n)
        loss = world*((out.z_q-z).pow(2).sum(-1)*mask).sum()/n + out.loss
        opt.zero_grad()
        loss.backward()
        for p in params:
            if p.grad is None: p.grad = torch.zeros_like(p)
        if world > 1: average_gradients(params, world)
        opt.step()
        log.append(torch.stack([o.detach() for o in out.losses.values()]) if out.losses else torch.zeros(1))
    held = enc(torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(99))).detach()
    codes = q.eval().encode(held)
    if rank == 0: q(held) # one rank may evaluate alone
    return dict(losses=torch.stack(log), codes=codes, **{f'state.{k}':v for k,v in q.state_dict().items() if not k.endswith('draws')}, **{f'enc.{k}':v for k,v in enc.state_dict().items()})

OBJECTIVES = { # losses, and options of them
    'masked':dict(losses=dict(masked_prediction=1.), masking=dict(width=16, layers=1, codebook_size=32, start=0.3, span=2)),
    'own':dict(losses=dict(masked_prediction=1.), masking=dict(targets='own', width=16, layers=1, start=0.3, span=2, decay=0.5)),
    'contrastive':dict(losses=dict(contrastive=1.), contrastive=dict(steps=3, negatives=8, width=16, temperature=1.))}

def train_objective(options, rank, world):
    "Six steps of a model with an objective that draws, one of them without frames on the second rank"
    torch.manual_seed(0)
    block = check_model(dict(encoder=dict(name='conv', width=16), quantizer=dict(name='vq', dim=8, codebook_size=16), decoder=dict(name='conv', width=16)) | options)
    model,log = build_model(block, torch.zeros(8), torch.ones(8)),[]
    add_objectives(model, block, None, None)
    params = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.SGD(params, lr=0.05)
    for step in range(6):
        out = model.train()(*parts(step, rank, world, 8))
        opt.zero_grad()
        out.loss.backward()
        for p in params:
            if p.grad is None: p.grad = torch.zeros_like(p)
        if world > 1: average_gradients(params, world)
        opt.step()
        log.append(torch.stack([o.detach() for o in (*out.losses.values(), *out.counts.values())]))
    return dict(losses=torch.stack(log), **{k:v for k,v in model.state_dict().items() if k != 'quantizer.draws'})

def counted(rank, world):
    "How often each code of a very large codebook occurs in the parts of two steps, on all ranks"
    a,b = [(parts(step, rank, world, 2)[0].abs()*30).long() << 36 for step in (0, 1)]
    counts = all_reduce_sum(count_codes(a, 2**50) + count_codes(b, 2**50)).coalesce()
    return {'counts:index':counts.indices().contiguous(), 'counts:values':counts.values()}

def build(variant, rank):
    torch.manual_seed(0)
    q,enc = make(variant, dim=8, codebook_size=64),torch.nn.Linear(8, 8)
    for m in q.modules():
        if isinstance(m, Quantizer): m.draws += 1000*rank # ranks that were seeded differently agree
    return q,enc

def work(rank, world, folder):
    "All variants, built before the process group, then built after it"
    early = {k:build(k, rank) for k in variants}
    if world > 1: dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=world)
    for made in ('early','late')[:world]:
        res = {k:run(*(early[k] if made == 'early' else build(k, rank)), rank, world) for k in variants}
        res |= {k:train_objective(o, rank, world) for k,o in OBJECTIVES.items()}
        save_file({f'{k}:{n}':v.contiguous() for k,o in res.items() for n,v in o.items()} | counted(rank, world), f'{folder}/{world}-{made}-{rank}.safetensors')

if __name__ == '__main__':
    torch.set_num_threads(1)
    import torch._dynamo # an optimizer wants it
    fork = multiprocessing.get_context('fork')  # this process has all imports done
    ps = [fork.Process(target=work, args=(rank, world, sys.argv[1])) for rank,world in ((0,1), (0,2), (1,2))]
    for p in ps: p.start()
    for p in ps: p.join()
    sys.exit(max(abs(p.exitcode) for p in ps))
