"""Phonetic measures of DiscoPhon on the bundled sample, for test_phonetic.py

    python tests/make_golden_phonetic.py codes   # writes codes.json, here
    python tests/make_golden_phonetic.py values  # writes values.json, where discophon 0.2.0 is installed
"""
import csv
import json
import sys
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent
FOLDER = ROOT/'golden_phonetic'
SAMPLE = ROOT.parent/'quantizer'/'sample'


def gold_phones(folder=SAMPLE):
    "Id of a recording -> its phone every 10 ms; all times are multiples of 10 ms"
    with open(Path(folder)/'alignments.tsv') as f:
        rows = list(csv.DictReader(f, delimiter='\t', quoting=csv.QUOTE_NONE))
    res = {}
    for path,segments in groupby(rows, lambda o: o['path']):
        times = [(o['phone'], round(100*(float(o['end_s'])-float(o['start_s'])))) for o in segments]
        res[path] = [phone for phone,n in times for _ in range(n)]
    return res


def make_codes():
    "K-means of MFCC at 100 and 50 Hz, and random codes at 25 Hz, most of which occur once or twice"
    import torch
    from quantizer.data.corpus import Corpus
    from quantizer.data.features import MFCC
    from quantizer.quantizers.search import kmeans
    gold,mfcc,corpus = gold_phones(),MFCC(),Corpus.sample()
    g = torch.Generator().manual_seed(0)
    feats = {}
    for recording in corpus:
        if recording.id in gold:
            wav = torch.as_tensor(recording.audio(16000))[None]
            x = mfcc(wav, torch.tensor([wav.shape[1]]))[0][0]
            feats[recording.id] = x[:len(gold[recording.id])+1]
    x = torch.cat([*feats.values()])
    mean,std = x.mean(0),x.std(0)
    res = {}
    for step,K in ((1,100),(2,50)):
        centres = kmeans(((x-mean)/std)[::step], K, 20, g)
        codes = {k:torch.cdist((o[::step]-mean)/std, centres).argmin(1).tolist() for k,o in feats.items()}
        res[f'kmeans{100//step}'] = dict(token_rate=100/step, codebook_size=K, codes=codes)
    codes = {k:torch.randint(2000, (len(o[::4]),), generator=g).tolist() for k,o in feats.items()}
    res['random25'] = dict(token_rate=25., codebook_size=2000, codes=codes)
    return res


def make_values():
    "PNMI, phone error rate and boundaries by DiscoPhon"
    from discophon.evaluate import cooccurrence_matrix, phone_assignments, phone_segmentation, phoneme_discovery
    gold,res = gold_phones(),{}
    n = len({phone for o in gold.values() for phone in o})-1
    for name,o in json.loads((FOLDER/'codes.json').read_text()).items():
        kwargs = dict(n_units=o['codebook_size'], n_phonemes=n, step_units=round(1000/o['token_rate']))
        units = o['codes']
        found = phone_assignments(units, cooccurrence_matrix(units, gold, **kwargs), kind='many-to-one')
        boundaries = phone_segmentation(found, gold, step_units=kwargs['step_units'])
        values = phoneme_discovery(units, gold, kind='many-to-one', **kwargs)
        res[name] = dict(
            pnmi=values['pnmi'],
            per=values['per'],
            boundary_precision=boundaries.precision,
            boundary_recall=boundaries.recall,
            boundary_f1=values['f1'],
            boundary_r=values['r_val'])
    return res


if __name__ == '__main__':
    what = sys.argv[1]
    made = dict(codes=make_codes, values=make_values)[what]()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER/f'{what}.json').write_text(json.dumps(made, indent=1 if what == 'values' else None)+'\n')
