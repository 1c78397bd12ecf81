"Twenty steps of a quantizer on one rank's part of made-up frames; started by test_ranks.py in one process, and in two"
import sys, torch, torch.distributed as dist
from quantizer.all import QUANTIZERS, num_ranks

def parts(step, rank, world, dim):
    "A batch `(B,T,D)` and its mask: unequal parts, and sometimes an empty one; the whole is the parts one after the other"
    g = torch.Generator().manual_seed(step)
    z,lengths = torch.randn(6, 20, dim, generator=g)*(1+step/10),torch.randint(1, 21, (6,), generator=g)
    cut = (4, 1, 6)[step % 3] # the last leaves nothing to the second rank
    if cut == 6 and world > 1 and rank == 1: return torch.zeros(1, 20, dim), torch.zeros(1, 20, dtype=torch.bool)
    rows = slice(0, 6) if world == 1 else slice(0, cut) if rank == 0 else slice(cut, 6)
    return z[rows], (torch.arange(20)[None] < lengths[:,None])[rows]

def run(name, kwargs, rank, world, init, early):
    def group():
        if world > 1: dist.init_process_group('gloo', init_method=init, rank=rank, world_size=world)
    if early: group()
    torch.manual_seed(0)
    q = QUANTIZERS[name](dim=8, codebook_size=64, **kwargs).train()
    enc = torch.nn.Linear(8, 8)
    if not early: group()
    params = [*enc.parameters(), *q.parameters()]
    opt,log = torch.optim.SGD(params, lr=0.05),[]
    for step in range(20):
        z,mask = parts(step, rank, world, 8)
        out = q(enc(z), mask)
        n = torch.tensor(float(mask.sum()))
        if world > 1: dist.all_reduce(n)
        loss = world*((out.z_q-z).pow(2).sum(-1)*mask).sum()/n + out.loss
        opt.zero_grad()
        loss.backward()
        for p in params:
            if p.grad is None: p.grad = torch.zeros_like(p)
            if world > 1: dist.all_reduce(p.grad); p.grad /= world
        opt.step()
        log.append(torch.stack([o.detach() for o in out.losses.values()]) if out.losses else torch.zeros(1))
    g = torch.Generator().manual_seed(99)
    held = enc(torch.randn(4, 50, 8, generator=g)).detach()
    codes = q.eval().encode(held)
    if rank == 0: q(held) # one rank may evaluate alone
    return dict(losses=torch.stack(log), codes=codes, **{f'state.{k}':v for k,v in q.state_dict().items()}, **{f'enc.{k}':v for k,v in enc.state_dict().items()})

if __name__ == '__main__':
    import json
    from safetensors.torch import save_file
    name,kwargs,rank,world,init,early,out = sys.argv[1:]
    torch.set_num_threads(1)
    save_file({k:v.contiguous() for k,v in run(name, json.loads(kwargs), int(rank), int(world), init, early == 'early').items()}, out)
