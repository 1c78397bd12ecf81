"""What the tokens of finished runs tell of phones, beside k-means of equal bitrate, on the held-out speakers of each run.
`python tests/zoo_phonetic.py RUN... [--out FILE.json]`, with QUANTIZER_DATA; the runs are on the manifest that tests/read_speech.py writes"""
import argparse, json, os
from pathlib import Path
import pandas as pd, torch
from quantizer.app.build import corpus_from_config
from quantizer.app.config import load_config
from quantizer.data.store import FeatureStore
from quantizer.evaluate.abx import abx
from quantizer.evaluate.alignments import Alignments, items
from quantizer.evaluate.baselines import kmeans_model
from quantizer.evaluate.phonetic import measure_phonetic
from quantizer.tokens.token_set import Tokens
from quantizer.tokens.tokenizer import Tokenizer

def held_out(model, store, name):
    "Tokens of the held-out recordings, by the name of the file"
    codes = {Path(store.index.id[i]).name: model.encode(store.read(i)[None])[0] for i in store.part('valid')}
    return Tokens(codes, store.frame_rate/model.downsample, model.quantizer.codebook_size, name)

def systems(run, cfg, corpus):
    "Tokens of the run, and of k-means at its rate and size: on its features, and on those that it was to predict"
    tokenizer = Tokenizer.load(run)
    stores = [FeatureStore(cfg['data']['store'] or run/'features', corpus=corpus)]
    target = cfg['model'].get('target')
    if target: stores.append(FeatureStore(target['store'] or run/'targets', corpus=corpus))
    yield held_out(tokenizer.model, stores[0], run.name)
    for store in stores:
        model = kmeans_model(store, tokenizer.codebook_size, round(store.frame_rate/tokenizer.token_rate), seed=cfg['seed'])[1]
        yield held_out(model, store, f'k-means on {store.feature}')

def measure(tokens, alignments, speakers):
    "PNMI, its chance level, purity of phones and ABX across speakers"
    found = measure_phonetic(tokens, alignments)
    of = items(alignments, {id: speakers[id] for id in tokens.codes})
    res = {k: found[k] for k in ('pnmi','pnmi_chance','phone_purity')}
    return res | dict(abx_across=abx(of, tokens.codes, tokens.token_rate, 'across', max_x=5).estimate)

def better(own, other):
    "Do the intervals of both measures lie apart, on the right side?"
    return own['pnmi'].low > other['pnmi'].high and own['abx_across'].high < other['abx_across'].low

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('runs', nargs='+', type=Path)
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    table = pd.read_csv(Path(os.environ['QUANTIZER_DATA'])/'data'/'dev'/'alignments.tsv', sep='\t', keep_default_na=False)
    alignments = Alignments(table.assign(path=table.path.map(lambda o: Path(o).name)))
    rows = []
    for run in args.runs:
        cfg = load_config(run/'config.yaml')
        corpus = corpus_from_config(cfg)
        speakers = {Path(id).name: speaker for id, speaker in zip(corpus.ids, corpus.df.speaker)}
        own = None
        for tokens in systems(run, cfg, corpus):
            found = measure(tokens, alignments, speakers)
            verdict = '' if own is None else '   the run is better, and the intervals lie apart' if better(own, found) else '   not beaten'
            own = own or found
            print(f"{run.name}: {tokens.name}, {tokens.bitrate:.0f} bit/s   "+'   '.join(f'{k} {o}' for k, o in found.items())+verdict, flush=True)
            values = {k: dict(value=o.value, low=o.low, high=o.high) for k, o in found.items()}
            rows.append(dict(run=run.name, system=tokens.name, token_rate=tokens.token_rate, codebook_size=tokens.codebook_sizes[0]) | values)
    if args.out: args.out.write_text(json.dumps(rows, indent=1))

if __name__ == '__main__':
    with torch.no_grad(): main()
