"""Train every quantizer on three kinds of features at two sizes, measure all on held-out speakers, and write what they have.
`python tests/zoo.py [--runs FOLDER] [--out nbs/benchmarks/zoo.json] [--features mfcc,logmel,whisper] [--seeds 1]`, with QUANTIZER_DATA.
What is finished is not done again"""
import argparse, json, os, sys
from pathlib import Path
import read_speech, yaml
from quantizer.app.cli import main as quantizer
from quantizer.evaluate.evaluation import Evaluation, compare_measure

MODEL = Path(os.environ.get('QUANTIZER_DATA', '.'))/'models'/'whisper-tiny.en'
FEATURES = dict( # changes of the config: tokens at 50 Hz of each
    mfcc=['features={name: mfcc, n_mfcc: 13, deltas: 2}'],
    logmel=['features={name: logmel, n_mels: 80}'],
    whisper=[f'features={{name: whisper, model: {MODEL}, layer: 2}}', 'model.encoder.downsample=1'])
TRAINING = ['model.encoder.width=128', 'model.decoder.width=128', 'data.batch_size=16', 'train.epochs=5', 'train.epoch_steps=120',
    'model.losses={mse: 1.0}'] # losses of a quantizer's own have its defaults
BITS = (8, 10) # of a token
SINGLE = ('vq','gumbel','simvq','fsq','lfq','bsq','kmeans','random_projection') # one codebook
DOUBLE = ('residual','grouped') # two codebooks
MEASURES = ('usage','perplexity','bitrate','entropy_bitrate','bigram_bitrate','nre','pnmi','pnmi_chance','pnmi_corrected','phone_purity','per',
    'boundary_r','abx_within','abx_across','abx_across_phone','speaker_probe','gender_probe','ued','ued_white_10db','ued_pitch_up','stoi','pesq')
COMPARED = ('nre','pnmi_corrected','abx_across','ued','speaker_probe') # with k-means

def quantizers():
    "Config blocks of all quantizers at all sizes; those of one size have equal bitrates"
    single = [f'{{name: {name}, codebook_size: {2**bits}}}' for name in SINGLE for bits in BITS]
    return single + [f'{{name: {name}, codebook_size: [{2**(bits//2)}, {2**(bits//2)}]}}' for name in DOUBLE for bits in BITS]

def sweep(features, corpus, folder, seeds):
    "Train and compare all quantizers on one kind of features"
    over = ['model.quantizer='+','.join(quantizers()), 'seed='+','.join(map(str, range(seeds)))]
    options = [f'--over={o}' for o in over]
    return quantizer(['sweep', 'mfcc-vq', f'data.corpus={corpus}', *FEATURES[features], *TRAINING, *options, '--out', str(folder)])

def value(estimate):
    "An estimate as `[value, low, high]`"
    return [estimate.value, estimate.low, estimate.high]

def against_kmeans(evaluation, own, name):
    "1, 0, -1: the measure is better than that of k-means, not told apart, or worse"
    pair = [evaluation.measures(o).get(name) for o in (own,'k-means')]
    return None if None in pair else compare_measure(name, *pair)

def rows(features, folder):
    "A row for each run, and one for each baseline"
    baselines = {}
    for path in sorted(folder.glob('comparison/*/measures.json')):
        evaluation = Evaluation.load(path)
        own,*others = evaluation.systems
        cfg = yaml.safe_load((folder/path.parent.name/'config.yaml').read_text())
        size = evaluation.systems[own]['codebook_sizes']
        bits = round(evaluation.systems[own]['bitrate']/evaluation.systems[own]['token_rate'])
        about = dict(features=features, bits=bits, codebook_sizes=size)
        for name in (own, *others):
            if name == 'random codes': continue
            found = evaluation.measures(name)
            row = about | dict(quantizer=cfg['model']['quantizer']['name'] if name == own else f'{name} (baseline)', seed=cfg['seed'])
            row |= {k:value(found[k]) for k in MEASURES if k in found}
            if name == own:
                log = json.loads((folder/path.parent.name/'measures.json').read_text())['this run']
                yield row | dict(steps=log['step'], kmeans={k:against_kmeans(evaluation, own, k) for k in COMPARED})
            else: baselines.setdefault((name, bits), row | dict(seed=None))
    yield from baselines.values()

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument('--runs', type=Path, default=Path('build/zoo'))
    parser.add_argument('--out', type=Path, default=Path('nbs/benchmarks/zoo.json'))
    parser.add_argument('--features', default=','.join(FEATURES))
    parser.add_argument('--seeds', type=int, default=1)
    args = parser.parse_args()
    corpus = args.runs/'read_speech'
    read_speech.write(corpus)
    for features in args.features.split(','):
        code = sweep(features, corpus/'manifest.tsv', args.runs/features, args.seeds)
        if code: sys.exit(code)
    found = [row for features in FEATURES for row in rows(features, args.runs/features)]
    args.out.write_text(json.dumps(found).replace('}, {', '},\n{')+'\n')
    print(f'{len(found)} rows: {args.out}')

if __name__ == '__main__': main()
