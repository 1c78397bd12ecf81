"What two processes compute together equals what one computes on all of it, for every quantizer and every objective that draws"
import subprocess, sys
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file
from rank_worker import OBJECTIVES
from variants import variants

worker = Path(__file__).with_name('rank_worker.py')

@pytest.fixture(scope='module')
def results(tmp_path_factory):
    "Of one process, and of two with what was made early or late"
    tmp = tmp_path_factory.mktemp('ranks')
    subprocess.run([sys.executable, '-W', 'ignore', worker, tmp], check=True, timeout=400)
    return load_file(tmp/'1-early-0.safetensors'), {made:[load_file(tmp/f'2-{made}-{rank}.safetensors') for rank in range(2)] for made in ('early','late')}

@pytest.mark.parametrize('made', ('early','late'))
@pytest.mark.parametrize('variant', [*variants, *OBJECTIVES])
def test_two_ranks_equal_one(results, variant, made):
    "`made` early: before the process group; late: after it"
    one,two = results[0],results[1][made]
    mine = [k for k in one if k.startswith(f'{variant}:')]
    assert mine and all(o.keys() == one.keys() for o in two)
    for rank in two:
        for k in mine:
            if one[k].is_floating_point(): torch.testing.assert_close(rank[k], one[k], rtol=1e-5, atol=1e-5, msg=lambda m: f'{k}: {m}')
            else: assert torch.equal(rank[k], one[k]), k

def test_sparse_counts(results):
    "Counts of a codebook too large for a table are added over ranks like others"
    one,two = results[0],results[1]['early']
    assert len(one['counts:values']) > 40 and one['counts:values'].sum() == 480
    for rank in two:
        assert all(torch.equal(rank[k], one[k]) for k in ('counts:index','counts:values'))
