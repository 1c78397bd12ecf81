"""Train the same small tokens with every objective, measure all on held-out speakers, and write what they are worth.
`python tests/objectives.py [--runs FOLDER] [--out nbs/benchmarks/objectives.json] [--seeds 1] [--only A,B]`, with QUANTIZER_DATA.
What is finished is not done again"""
import argparse, json, os, sys
from pathlib import Path
import read_speech
from zoo import against_kmeans, value
from quantizer.app.cli import main as quantizer
from quantizer.evaluate.evaluation import Evaluation

MODEL = Path(os.environ.get('QUANTIZER_DATA', '.'))/'models'/'whisper-tiny.en'
VIEWS = ['data.views=4', 'data.augment={pitch: [0.8, 0.88, 1.0, 1.12, 1.25], noise: {snr: [5, 30], kind: any, p: 0.6}, gain: [-6, 6]}']
LINEAR = ['model.encoder.blocks=0', 'model.encoder.kernel=1', 'model.encoder.instance_norm=true'] # sees one token, without the mean and variance of its recording
LOW_DIM = ['model.quantizer.dim=32', 'model.losses.commitment=0.05']
OBJECTIVES = { # changes of one recipe: tokens of MFCCs, 256 codes at 50 Hz
    'reconstruction': [],
    'augmentation': VIEWS,
    'speaker-decoder': ['model.speaker={}'],
    'jitter': ['model.jitter=0.12'],
    'adversary': ['model.losses.speaker_adversary=0.1'],
    'masked-prediction': ['model.losses.masked_prediction=1.0'],
    'instance-norm': LINEAR,
    'contrastive': [*LINEAR, 'model.losses.contrastive=1.0'],
    'consistency': [*LINEAR, *LOW_DIM, *VIEWS, 'model.losses.consistency=1.0'],
    'consistency-fsq': [*LINEAR, *VIEWS, 'model.quantizer={name: fsq, codebook_size: 256}', 'model.losses={mse: 1.0, consistency: 1.0}'],
    'reconstruction-fsq': ['model.quantizer={name: fsq, codebook_size: 256}', 'model.losses={mse: 1.0}'],
    'distillation': [*VIEWS, 'model.losses={mse: 0.1, commitment: 0.25, distillation: 1.0}',
        f'model.target={{features: {{name: whisper, model: {MODEL}, layer: 2}}}}']}
TRAINING = ['model.encoder.width=128', 'model.decoder.width=128', 'data.batching=buckets', 'data.batch_size=4', 'train.epochs=8']
FAMILIES = 'coding,signal,phonetic,abx,leakage,robustness'
MEASURES = ('nre','perplexity','pnmi','pnmi_chance','pnmi_corrected','per','abx_within','abx_across','speaker_probe','ued','ued_white_10db')
COMPARED = ('nre','pnmi_corrected','abx_across','ued_white_10db','speaker_probe') # with k-means

def train(name, seed, corpus, folder):
    "Train one run, or finish it; returns its folder"
    out = folder/f'{name}-{seed}'
    stores = 'views' if 'data.views=4' in OBJECTIVES[name] else 'plain'
    args = [f'data.corpus={corpus}', f'data.store={folder}/features-{stores}-{seed}', f'seed={seed}', *TRAINING, *OBJECTIVES[name]]
    if 'distillation' in name: args.append(f'model.target.store={folder}/targets')
    if not (out/'report.html').is_file():
        code = quantizer(['train', 'mfcc-vq', *args, '--resume', '--out', str(out)])
        if code: sys.exit(code)
    return out

def compare(runs, corpus, folder):
    "Measure runs beside their baselines; what is measured is not measured again"
    code = quantizer(['compare', *map(str, runs), '--corpus', str(corpus), '--split', 'valid', '--only', FAMILIES, '--out', str(folder)])
    if code: sys.exit(code)

def rows(name, seed, run, evaluation):
    "A row for the run, and one for k-means"
    for system in (evaluation.own, 'k-means'):
        found = evaluation.measures(system)
        is_own = system == evaluation.own
        row = dict(objective=name, seed=seed) if is_own else dict(objective='k-means', seed=None)
        row |= {k:value(found[k]) for k in MEASURES if k in found}
        if is_own:
            log = json.loads((run/'measures.json').read_text())['this run']
            row |= dict(steps=log['step'], kmeans={k:against_kmeans(evaluation, evaluation.own, k) for k in COMPARED})
        yield row

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument('--runs', type=Path, default=Path('build/objectives'))
    parser.add_argument('--out', type=Path, default=Path('nbs/benchmarks/objectives.json'))
    parser.add_argument('--seeds', type=int, default=1)
    parser.add_argument('--only', default=','.join(OBJECTIVES), help='objectives, separated by commas')
    args = parser.parse_args()
    corpus = args.runs/'read_speech'
    read_speech.write(corpus)
    chosen = [(name, seed) for seed in range(args.seeds) for name in args.only.split(',')]
    runs = {o:train(*o, corpus/'manifest.tsv', args.runs) for o in chosen}
    compare(runs.values(), corpus/'manifest.tsv', args.runs/'comparison')
    found = {}
    for (name,seed),run in runs.items():
        evaluation = Evaluation.load(args.runs/'comparison'/run.name/'measures.json')
        for row in rows(name, seed, run, evaluation):
            found[row['objective'], row['seed']] = row
    args.out.write_text(json.dumps([*found.values()]).replace('}, {', '},\n{')+'\n')
    print(f'{len(found)} rows: {args.out}')

if __name__ == '__main__': main()
