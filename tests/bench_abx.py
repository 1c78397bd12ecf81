"""Time and memory of ABX of codes, and of fastabx: `python tests/bench_abx.py PYTHON`, a part of `make bench-phonetic`

`PYTHON` is that of an environment with fastabx 0.9.0, which needs Python 3.12. Codes and items are those of bench_phonetic.py. Each
case runs in a process of its own, ours and theirs in turn, and twice in each. Ours has intervals too, of a thousand draws of speakers.
The capped case draws its own items in each, so its errors differ a little."""
import json, subprocess, sys, tempfile
from pathlib import Path
from bench_phonetic import FOLDER, make_codes, time_twice

RATE = 50
CASES = {'triphone within': ('triphone', 'within', None), 'triphone across': ('triphone', 'across', None), 'phone within, 10 items': ('phone', 'within', 10)}
LABELS = {'id': '#file', 'start_s': 'onset', 'end_s': 'offset', 'phone': '#phone'} # our columns and theirs

def write_inputs(out):
    "Codes, and items of both kinds, as files that both read"
    import pandas as pd
    from quantizer.evaluate.alignments import Alignments, items
    codes = make_codes(RATE, 256)['codes']
    manifest = pd.read_csv(FOLDER/'manifest.tsv', sep='\t', quoting=3, keep_default_na=False)
    speakers = {id: speaker for id, speaker in zip(manifest.path, manifest.speaker) if id in codes}
    alignments = Alignments.load(FOLDER/'alignments.tsv')
    for kind in ('triphone', 'phone'): items(alignments, speakers, kind).to_csv(out/f'{kind}.tsv', sep='\t', index=False)
    (out/'codes.json').write_text(json.dumps(codes))

def ours(folder, kind, mode, cap):
    import numpy as np, pandas as pd
    from quantizer.evaluate.abx import abx
    items = pd.read_csv(folder/f'{kind}.tsv', sep='\t', keep_default_na=False, dtype=dict(phone=str, prev=str, next=str))
    codes = {id: np.array(o)[:, None] for id, o in json.loads((folder/'codes.json').read_text()).items()}
    return lambda: abx(items, codes, RATE, mode, kind, max_per_group=cap).error

def theirs(folder, kind, mode, cap):
    import polars as pl, torch
    from fastabx import Dataset, InMemoryAccessor, Score, Subsampler, Task
    from fastabx.dataset import load_data_from_item
    labels = pl.read_csv(folder/f'{kind}.tsv', separator='\t', quote_char=None).rename(LABELS)
    labels = labels.with_columns(pl.col('onset', 'offset').cast(pl.String).str.to_decimal(scale=4))
    codes = {id: torch.tensor(o)[:, None] for id, o in json.loads((folder/'codes.json').read_text()).items()}
    device = torch.device('cpu')
    indices, data = load_data_from_item({o: o for o in codes}, labels, RATE, codes.get, '#file', 'onset', 'offset', device, progress=False)
    same = ['prev', 'next'] if kind == 'triphone' else []
    conditions = dict(by=[*same, 'speaker']) if mode == 'within' else dict(by=same, across=['speaker'])
    if cap: conditions['subsampler'] = Subsampler(cap, None)
    levels = [('next', 'prev'), 'speaker'] if same else ['speaker']
    def run():
        task = Task(Dataset(labels, InMemoryAccessor(indices, data, device)), on='#phone', **conditions)
        return Score(task, 'identical', progress=False).collapse(levels=levels)
    return run

def measure(who, folder, case):
    run = globals()[who](Path(folder), *CASES[case])
    time_twice(lambda: dict(error=run()), case=case, who=who)

if __name__ == '__main__':
    if len(sys.argv) > 2: measure(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as d:
            write_inputs(Path(d))
            for case in CASES:
                for who, python in dict(ours=sys.executable, theirs=sys.argv[1]).items():
                    subprocess.run([python, '-W', 'ignore', __file__, who, d, case], check=True)
