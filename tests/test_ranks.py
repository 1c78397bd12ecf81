"What two processes compute together equals what one computes on all of it, for every quantizer"
import json, subprocess, sys
from pathlib import Path

import pytest, torch
from quantizer.all import QUANTIZERS
from safetensors.torch import load_file

worker = Path(__file__).with_name('rank_worker.py')
# without 'gumbel', whose noise is drawn by each rank for itself
variants = {**{k:(k, {}) for k in QUANTIZERS if k != 'gumbel'}, 'vq random start':('vq', dict(kmeans_iters=0)), 'vq gradient':('vq', dict(codebook='gradient')),
    'vq more codes than frames':('vq', dict(kmeans_iters=3, revive_below=0.5))}

def run(tmp, name, kwargs, world, early=True):
    init = f'file://{tmp}/group{world}{early}'
    outs = [tmp/f'{world}-{early}-{r}.safetensors' for r in range(world)]
    ps = [subprocess.Popen([sys.executable, '-W', 'ignore', worker, name, json.dumps(kwargs), str(r), str(world), init, 'early' if early else 'late', o]) for r,o in enumerate(outs)]
    assert [p.wait(timeout=120) for p in ps] == [0]*world
    return [load_file(o) for o in outs]

@pytest.mark.parametrize('variant', variants)
def test_two_ranks_equal_one(tmp_path, variant):
    name,kwargs = variants[variant]
    one, = run(tmp_path, name, kwargs, 1)
    for two in run(tmp_path, name, kwargs, 2, early=variant != 'vq'):
        assert two.keys() == one.keys()
        for k,v in one.items():
            if v.is_floating_point(): torch.testing.assert_close(two[k], v, rtol=1e-5, atol=1e-5, msg=lambda m: f'{k}: {m}')
            else: assert torch.equal(two[k], v), k
