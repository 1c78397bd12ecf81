"What two processes compute together equals what one computes on all of it, for every quantizer"
import subprocess, sys
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file
from variants import variants

worker = Path(__file__).with_name('rank_worker.py')

def run(tmp, world, early):
    "All variants, one after the other, in one process or in two"
    outs = [tmp/f'{world}-{early}-{r}.safetensors' for r in range(world)]
    ps = [subprocess.Popen([sys.executable, '-W', 'ignore', worker, str(r), str(world), f'file://{tmp}/group{world}{early}', early, o]) for r,o in enumerate(outs)]
    assert [p.wait(timeout=400) for p in ps] == [0]*world
    return [load_file(o) for o in outs]

@pytest.fixture(scope='session') # made once, whatever runs between these tests
def results(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('ranks')
    return run(tmp, 1, 'early')[0], dict(early=run(tmp, 2, 'early'), late=run(tmp, 2, 'late'))

@pytest.mark.parametrize('made', ('early','late'))
@pytest.mark.parametrize('variant', variants)
def test_two_ranks_equal_one(results, variant, made):
    "`made` early: before the process group; late: after it"
    one,two = results[0],results[1][made]
    mine = [k for k in one if k.startswith(f'{variant}:')]
    assert mine and all(o.keys() == one.keys() for o in two)
    for rank in two:
        for k in mine:
            if one[k].is_floating_point(): torch.testing.assert_close(rank[k], one[k], rtol=1e-5, atol=1e-5, msg=lambda m: f'{k}: {m}')
            else: assert torch.equal(rank[k], one[k]), k

@pytest.mark.xdist_group('ranks')
def test_sparse_counts(results):
    "Counts of a codebook too large for a table are added over ranks like others"
    one,two = results[0],results[1]['early']
    assert len(one['counts:values']) > 40 and one['counts:values'].sum() == 480
    for rank in two:
        assert all(torch.equal(rank[k], one[k]) for k in ('counts:index','counts:values'))
