"ABX: the errors that fastabx 0.9.0 has for the same items (made by make_golden_abx.py), and hostile items"
import json
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from quantizer.core.errors import QuantizerError
from quantizer.evaluate import abx as module
from quantizer.evaluate.abx import abx
from quantizer.evaluate.dtw import dtw

HERE = Path(__file__).parent/'golden_abx'
COLUMNS = ['id', 'start_s', 'end_s', 'phone', 'prev', 'next', 'speaker']
CASES = json.loads((HERE/'errors.json').read_text())

def read(name): return {k: np.array(x) for k, x in json.loads((HERE/f'{name}.json').read_text()).items()}

@pytest.fixture(scope='module')
def items():
    rows = json.loads((HERE/'items.json').read_text())
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict(start_s=float, end_s=float))

@pytest.fixture(scope='module')
def frames():
    codes, values = read('codes'), read('frames')
    first = {k: x[:, :1] for k, x in codes.items()}
    return dict(identity=first, shares=codes, angular=values, euclidean=values)

@pytest.mark.parametrize('kind', ('identity', 'shares', 'angular', 'euclidean'))
@pytest.mark.parametrize('rate', ('50', '12.5'))
def test_agrees_with_fastabx(items, frames, kind, rate):
    step = round(50/float(rate))
    x = {k: o[::step] for k, o in frames[kind].items()}
    for case in (o for o in CASES if (o['kind'], o['rate']) == (kind, rate)):
        options = {k: case[k] for k in ('mode', 'contexts', 'drop_last')}
        distance = 'identity' if kind == 'shares' else kind
        res = abx(items, x, float(rate), distance=distance, resamples=1, **options)
        assert res.error == pytest.approx(case['error'], abs=1e-6), case
        assert len(res.cells) == case['cells']

def test_memory_bound_changes_nothing(items, frames, monkeypatch):
    "Small batches give the same cells"
    def cells(distance): return abx(items, frames[distance], 50, distance=distance, contexts='phone', resamples=1).cells
    whole = {distance: cells(distance) for distance in ('identity', 'angular')}
    for name in ('_BATCH', '_CODE_BATCH'): monkeypatch.setattr(module, name, 500)
    for distance, expected in whole.items(): pd.testing.assert_frame_equal(cells(distance), expected)

def test_order_changes_nothing(items, frames):
    shuffled = items.sample(frac=1, random_state=1)
    for mode in ('within', 'across'):
        a, b = (abx(o, frames['identity'], 50, mode=mode, resamples=20) for o in (items, shuffled))
        assert a.error == b.error
        np.testing.assert_array_equal(a.estimate.draws, b.estimate.draws)

def test_caps(items, frames):
    exact = abx(items, frames['identity'], 50, mode='across', contexts='phone', resamples=1)
    loose = abx(items, frames['identity'], 50, mode='across', contexts='phone', resamples=1, max_per_group=30, max_x=3)
    pd.testing.assert_frame_equal(loose.cells, exact.cells)
    res = abx(items, frames['identity'], 50, mode='across', contexts='phone', resamples=1, max_per_group=4, max_x=2)
    assert res.cells.triples.max() == 4**3
    assert (res.cells.groupby(['phone', 'phone_b', 'speaker']).size() == 2).all()
    within = abx(items, frames['identity'], 50, contexts='phone', resamples=1, max_per_group=4)
    assert within.cells.triples.max() == 4*4*3
    seeds = {abx(items, frames['identity'], 50, contexts='phone', resamples=1, max_per_group=4, seed=seed).error for seed in range(5)}
    assert len(seeds) > 1 and abs(np.mean([*seeds])-abx(items, frames['identity'], 50, contexts='phone', resamples=1).error) < 0.05

def test_tensors_and_flat_codes(items, frames):
    flat = {k: torch.tensor(x[:, 0]) for k, x in frames['identity'].items()}
    assert abx(items, flat, 50, resamples=1).error == abx(items, frames['identity'], 50, resamples=1).error

def test_many_codebooks():
    "The scores of a cell, one pair of items after the other"
    rng = np.random.default_rng(0)
    x = {id: rng.integers(2, size=(n, 64)) for id, n in zip('abcd', (30, 25, 28, 31))}
    items = pd.DataFrame(dict(id=[*'abcd'], start_s=0, end_s=99, phone=[*'ppqq'], prev='', next='', speaker='s'))
    cells = abx(items, x, 1, resamples=1).cells
    def distance(a, b): return dtw((x[a][:, None] != x[b]).sum(-1))
    wins = [distance(a, b) < distance(a, c) for a, b in ('ab', 'ba') for c in 'cd']
    assert cells.error[0] == 1-np.mean(wins)

def test_bootstrap_draws_speakers(items, frames):
    "A draw of one speaker alone is the error of that speaker; the mean over speakers weighs by draws"
    res = abx(items, frames['identity'], 50, contexts='phone', resamples=3000)
    alone = {abx(items[items.speaker == s], frames['identity'], 50, contexts='phone', resamples=1).error for s in items.speaker.unique()}
    draws = {round(o, 9) for o in res.estimate.draws}
    assert {round(o, 9) for o in alone} <= draws and res.estimate.groups == 4
    assert res.estimate.draws.min() == pytest.approx(min(alone)) and res.estimate.draws.max() == pytest.approx(max(alone))

@pytest.mark.parametrize('change,options,message', [
    (lambda o: o.iloc[:0], {}, 'nothing to compare in 0 items'),
    (lambda o: o.assign(end_s=o.start_s-1), {}, 'nothing to compare in 0 items, 120 more were left out'),
    (lambda o: o.assign(id='other'), {}, 'nothing to compare in 0 items, 120'),
    (lambda o: o.assign(phone='p'), {}, 'a speaker says twice, and another one with the same neighbours'),
    (lambda o: o.assign(speaker='s'), dict(mode='across'), 'two speakers or more'),
    (lambda o: o.drop(columns='prev'), {}, 'no column prev'),
    (lambda o: o, dict(mode='withn'), "did you mean 'within'"),
    (lambda o: o, dict(distance='cosine'), "expected identity, angular, euclidean"),
])
def test_refusals(items, frames, change, options, message):
    with pytest.raises(QuantizerError, match=message):
        abx(change(items), frames['identity'], 50, **options)

def test_not_a_number(items, frames):
    broken = {k: np.where(x == x[0], np.nan, x) for k, x in frames['angular'].items()}
    with pytest.raises(QuantizerError, match='infinite or NaN'):
        abx(items, broken, 50, distance='angular')

def test_too_many_cells(items, frames, monkeypatch):
    monkeypatch.setattr(module, '_MAX_CELLS', 10)
    with pytest.raises(QuantizerError, match='set max_x'):
        abx(items, frames['identity'], 50, mode='across')

def test_unlabelled_items_are_counted(items, frames):
    some = items.copy()
    some.loc[[0, 1], 'speaker'] = None
    some.loc[2, 'start_s'] = np.nan
    res = abx(some, frames['identity'], 50, resamples=1)
    assert (res.items, res.left_out) == (117, 3)
    assert res.error == abx(items[3:], frames['identity'], 50, resamples=1).error
