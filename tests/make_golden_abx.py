"""Makes `golden_abx/` with fastabx 0.9.0, which needs Python 3.12 or newer: `python tests/make_golden_abx.py`

Random items of four speakers, with codes and vectors that depend on phone and speaker; and the ABX error of each case."""
import json, os
from itertools import product
from pathlib import Path

import numpy as np, polars as pl, torch
from fastabx import Dataset, InMemoryAccessor, Score, Task
from fastabx.dataset import load_data_from_item

HERE = Path(__file__).parent/'golden_abx'
RATES = {'50': 1, '12.5': 4}
COLUMNS = ['#file', 'onset', 'offset', '#phone', 'prev-phone', 'next-phone', 'speaker']

def recordings(rng):
    "Frames of each recording at 50 Hz, and its items, one after the other"
    frames, items = {}, []
    means = {phone: rng.normal(size=5) for phone in 'pqr'}
    for speaker, number in product(range(4), range(5)):
        name, at, parts = f's{speaker}-{number}', 0.0125, []
        voice = np.random.default_rng(speaker).normal(size=5)
        for _ in range(6):
            phone, seconds = rng.choice([*'pqr']), rng.integers(16, 40)/100 + 0.0025
            items.append((name, f'{at:.4f}', f'{at+seconds:.4f}', phone, rng.choice([*'mn']), rng.choice([*'mn']), f's{speaker}'))
            parts.append(means[phone] + 0.5*voice + rng.normal(size=(round(50*seconds), 5)))
            at += seconds
        x = np.concatenate([*parts, np.zeros((12, 5))]).round(3) # some more than the items have
        x[20] = 0 # a vector without direction
        frames[name] = x
    return frames, items

def shares(a, b):
    "Share of codebooks that differ, for every pair of frames"
    return (a[:, None, :, None] != b[None, :, None]).float().mean(-1)

def error(items, frames, rate, distance, mode, contexts, drop_last):
    os.environ['FASTABX_WITH_LIBRILIGHT_BUG'] = str(int(drop_last))
    times = pl.col('onset', 'offset').str.to_decimal(scale=4)
    labels = pl.DataFrame(items, schema=COLUMNS, orient='row').with_columns(times)
    ids = {name: name for name in frames}
    indices, data = load_data_from_item(ids, labels, rate, lambda name: frames[name], *COLUMNS[:3], torch.device('cpu'), progress=False)
    same = ['prev-phone', 'next-phone'] if contexts == 'triphone' else []
    conditions = dict(by=[*same, 'speaker']) if mode == 'within' else dict(by=same, across=['speaker'])
    task = Task(Dataset(labels, InMemoryAccessor(indices, data, torch.device('cpu'))), on='#phone', **conditions)
    score = Score(task, distance, progress=False)
    levels = [('next-phone', 'prev-phone'), 'speaker'] if same else ['speaker']
    return score.collapse(levels=levels), len(score.cells)

if __name__ == '__main__':
    frames, items = recordings(np.random.default_rng(0))
    values = {name: torch.tensor(x, dtype=torch.float32) for name, x in frames.items()}
    codes = {name: torch.stack([(2*x[:, 0]).round(), x[:, 1].sign()], 1).long() for name, x in values.items()}
    kinds = dict(identity=({k: x[:, :1] for k, x in codes.items()}, 'identical'), shares=(codes, shares),
        angular=(values, 'angular'), euclidean=(values, 'euclidean'))
    cases = []
    for (rate, step), (kind, (x, distance)), mode, contexts, drop_last in product(
            RATES.items(), kinds.items(), ('within', 'across'), ('triphone', 'phone'), (False, True)):
        value, cells = error(items, {k: o[::step].clone() for k, o in x.items()}, rate, distance, mode, contexts, drop_last)
        cases.append(dict(rate=rate, kind=kind, mode=mode, contexts=contexts, drop_last=drop_last, error=value, cells=cells))
    HERE.mkdir(exist_ok=True)
    (HERE/'items.json').write_text(json.dumps(items))
    (HERE/'frames.json').write_text(json.dumps({k: x.tolist() for k, x in frames.items()}))
    (HERE/'codes.json').write_text(json.dumps({k: x.tolist() for k, x in codes.items()}))
    (HERE/'errors.json').write_text('[\n'+',\n'.join(map(json.dumps, cases))+'\n]\n')
