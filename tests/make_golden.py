"""Made the files in `golden`, which test_golden.py reads; a record of how, never run by tests

The project had another layout then: this ran at commit ee805a8, with one thread, as
OMP_NUM_THREADS=1 python -W ignore tests/make_golden.py"""
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import torch
from golden_tools import machine, rows, run, summary
from quantizer.all import FEATURES, Corpus, SpeechLearner, load_audio, load_config
from quantizer.train.checkpoint_files import step_checkpoints
from safetensors.torch import save_file

golden = Path(__file__).with_name('golden')

# Settings that many have
FEW = 'data.corpus=/PLACE/few.tsv'
STORE = 'data.store=/PLACE/store'
BARE = 'model.losses={mse: 1.0}'
SMALL = [
    'features={name: mfcc, n_mfcc: 4, deltas: 1}',
    'data.crop_s=0.4',
    'data.batch_size=3',
    'train.log_steps=2',
    'train.lr=4e-3',
    'model.encoder={name: conv, width: 4, kernel: 3, dropout: 0.1}',
    'model.decoder={name: conv, width: 4, kernel: 3, dropout: 0.1}']


def part(kind, name, more=''):
    "A part of a model as a change of the config"
    return f"model.{kind}={{name: {name}{', ' if more else ''}{more}}}"


def vq(more='', dim=8):
    "A small codebook"
    return part('quantizer', 'vq', f"dim: {dim}, codebook_size: 16{', ' if more else ''}{more}")


# Tokenizers: name -> what differs from `vq`
TOKENIZERS = {
    'vq': [],
    'vq_drawn': [vq('temperature: 0.5, diversity_weight: 0.1')],
    'vq_cosine': [vq('metric: cosine')],
    'vq_factorised': [vq('metric: cosine, codebook_dim: 3')],
    'vq_gradient': [vq('codebook: gradient, orthogonal_weight: 0.1')],
    'vq_heads': [vq('heads: 2')],
    'gumbel': [part('quantizer', 'gumbel', 'dim: 8, codebook_size: 16'), BARE],
    'simvq': [part('quantizer', 'simvq', 'dim: 8, codebook_size: 16')],
    'fsq': [part('quantizer', 'fsq', 'dim: 8, levels: [5, 4, 3]'), BARE],
    'fsq_bare': [part('quantizer', 'fsq', 'dim: 3, levels: [5, 4, 3]'), BARE],
    'lfq': [part('quantizer', 'lfq', 'dim: 8, codebook_size: 16')],
    'bsq': [part('quantizer', 'bsq', 'dim: 8, codebook_size: 16')],
    'kmeans': [part('quantizer', 'kmeans', 'dim: 8, codebook_size: 16')],
    'random_projection': [
        part('quantizer', 'random_projection', 'dim: 8, codebook_size: 16, codebook_dim: 4')],
    'residual_vq': [part('quantizer', 'residual', 'dim: 8, codebook_size: [16, 8, 4]')],
    'residual_fsq': [
        part('quantizer', 'residual', 'dim: 8, num_quantizers: 2, quantizer: {name: fsq, levels: [4, 4]}'),
        BARE],
    'residual_gumbel': [
        part('quantizer', 'residual', 'dim: 8, codebook_size: 8, num_quantizers: 2, quantizer: gumbel'),
        BARE],
    'residual_shared': [
        part('quantizer', 'residual', 'dim: 8, codebook_size: 16, num_quantizers: 3, shared: true')],
    'residual_beam': [
        part('quantizer', 'residual', 'dim: 8, codebook_size: 16, num_quantizers: 2, beam: 3, '
             'quantizer: {name: vq, codebook_dim: 3}')],
    'grouped': [part('quantizer', 'grouped', 'dim: 8, codebook_size: 16, groups: 2')],
    'grouped_residual': [
        part('quantizer', 'grouped', 'dim: 8, codebook_size: 8, groups: 2, '
             'quantizer: {name: residual, num_quantizers: 2}')],
    'stack_logmel': [
        'features={name: logmel, n_mels: 8}',
        part('encoder', 'stack', 'downsample: 3'),
        vq('codebook: gradient', 24),
        part('decoder', 'stack'),
        'model.losses={mse: 1.0, codebook: 1.0}'],
    'conv_fbank': [
        'features={name: fbank, n_mels: 8}',
        'model.encoder.downsample=4',
        'model.encoder.blocks=2'],
    'transformer': [
        part('encoder', 'transformer', 'width: 8, heads: 2, layers: 1, mult: 2'),
        part('decoder', 'transformer', 'width: 8, heads: 2, layers: 1, mult: 2')],
    'transformer_window': [
        part('encoder', 'transformer', 'width: 8, heads: 2, layers: 2, mult: 1, window: 8')],
    'bottleneck': [
        part('encoder', 'bottleneck', 'layers: 1, pool: mean, mult: 1'),
        vq(),
        part('decoder', 'bottleneck', 'layers: 1, mult: 1, silence: 10')],
    'bottleneck_conv': [
        part('encoder', 'bottleneck', 'pool: conv'),
        vq(dim=4),
        part('decoder', 'bottleneck', 'layers: 0, silence: 4')],
    'whisperspeech': [
        'features={name: logmel, n_mels: 4}',
        part('encoder', 'whisperspeech', 'pool: conv, mult: 1'),
        vq('metric: cosine, codebook_dim: 3', 4),
        part('decoder', 'whisperspeech', 'heads: 2, mult: 1')],
}
HEARD = ('words/en_allison_10.flac', 'words/it_carlo_3.flac')  # what they encode

# Front ends, and the configs that need no other model
FRONTS = {
    'logmel': dict(n_mels=20),
    'mfcc': {},
    'whisper_logmel': {},
    'fbank': dict(n_mels=20, snip_edges=True)}
CONFIGS = ('mfcc-vq', 'mfcc-gumbel', 'logmel-vq', 'logmel-fsq', 'logmel-rvq', 'logmel-transformer')

# Runs: what the command is given, how many processes there are, and is the test to run it only with `--slow`?
WHISPER = [
    'data.corpus=/PLACE/spoken.tsv',
    'features.model=/PLACE/whisper',
    'features.layer=-1',
    'data.views=0',
    'data.augment=null',
    'model.losses={mse: 1.0, kl: 0.0, ce: 0.0, commitment: 0.25}',
    'data.batch_size=2',
    'train.wer=2',
    'model.decoder.layers=1',
    'model.quantizer.codebook_size=16',
    'train.precision=fp32',
    'train.epoch_steps=3',
    'train.log_steps=1',
    'model.teacher.topk=8',
    'train.phases=[{epochs: 1}, {epochs: 1, losses: {kl: 0.5, ce: 0.1}}]']
PLATEAU = [
    *SMALL, FEW,
    vq('temperature: 0.5, codebook_dim: 4, decay: 0.7, revive_below: 0.6'),
    'data.dtype=float16',
    'data.augment={spec: {time_width: 5, freq_width: 2}}',
    'train.epochs=9',
    'train.accumulate=2',
    'train.epoch_steps=6',
    'train.schedule={name: plateau, monitor: valid_loss, patience: 2}',
    'train.early_stop={monitor: valid_loss, patience: 6}',
    'train.log_steps=3',
    'train.anneal={temperature: {start: 1.0, end: 0.1}, mse: {start: 1.0, end: 2.0, shape: linear}}',
    'train.checkpoint={steps: 4, keep: 1}',
    'train.nonfinite=skip']
PHASES = [
    *SMALL, FEW, STORE,
    'model.quantizer={name: vq, dim: 8, codebook_size: 8}',
    'data.batching=buckets',
    'model.losses={mse: 1.0, l1: 0.0, commitment: 0.25}',
    'train.log_steps=3',
    'train.phases=[{epochs: 1}, {epochs: 2, codebook_size: 12, losses: {l1: 0.5}}, '
    '{epochs: 1, codebook_size: 20}]',
    'train.checkpoint={steps: 3, keep: 1, monitor: valid_mse}']
TWO = [
    *SMALL, FEW, STORE,
    part('quantizer', 'residual', 'dim: 8, codebook_size: 16, num_quantizers: 2, dropout: 0.5'),
    'data.batch_size=2',
    'train.schedule=wsd',
    'train.accumulate=2',
    'train.epochs=4',
    'train.log_steps=1',
    'train.epoch_steps=4',
    'train.anneal={dropout: {start: 0.8, end: 0.2, shape: linear}}',
    'train.checkpoint={steps: 5, keep: 1}']
PACKED = [
    *SMALL, FEW, STORE,
    part('quantizer', 'gumbel', 'dim: 8, codebook_size: 16'),
    'data.batching=packed',
    'model.losses={mse: 1.0, diversity: 0.1}',
    'data.longest_s=2',
    'train.precision=bf16',
    'train.epochs=4',
    'train.schedule=cosine',
    'train.log_steps=1']
LIVE = [
    *SMALL, FEW,
    part('quantizer', 'fsq', 'dim: 8, levels: [5, 4, 3]'),
    'model.losses={huber: 1.0, cosine: 0.1}',
    'data.live=true',
    'data.augment={gain: [-6, 6], speed: [0.9, 1.1], noise: {snr: [10, 20]}}',
    'train.epochs=3',
    'train.activation_checkpointing=true',
    'train.schedule=linear']
RUNS = {
    'mfcc-vq': dict(args=['train', 'mfcc-vq', FEW, 'train.epochs=2']),
    'logmel-vq': dict(args=['train', 'logmel-vq', FEW, 'train.epochs=2']),
    'whisper': dict(args=['train', 'whisper-vq-512', *WHISPER], whisper='/PLACE/whisper'),
    'two': dict(args=['train', 'mfcc-vq', *TWO], world=2),
    'plateau': dict(args=['train', 'mfcc-vq', *PLATEAU]),
    'phases': dict(args=['train', 'mfcc-vq', *PHASES]),
    'packed': dict(args=['train', 'mfcc-vq', *PACKED], slow=True),
    'live': dict(args=['train', 'mfcc-vq', *LIVE], slow=True),
}

# Those that were stopped: as which batch of training began, and how
STOPPED = {'plateau': (27, signal.SIGTERM), 'phases': (9, signal.SIGKILL), 'two': (9, signal.SIGTERM)}


def write(name, data):
    "A JSON file of the golden ones"
    (golden/name).write_text(json.dumps(data, indent=1))


def manifest(to, n, every):
    "List the `n` shortest recordings of one speaker; one of `every` is for validation"
    df = Corpus.sample().df
    has = df[(df.speaker == 'allison') & (df.duration_s < 0.9)]
    at = has.sort_values('duration_s', kind='stable').index[:n].sort_values()
    table = df.loc[at, ['path', 'duration_s', 'speaker', 'text', 'language']]
    split = ['valid' if i % every == every-1 else 'train' for i in range(len(at))]
    table.assign(split=split).to_csv(to, sep='\t', index=False)
    return [*table.path]


def set_up(place):
    "Corpora and their recordings"
    used = {*HEARD, *manifest(golden/'few.tsv', 18, 3), *manifest(golden/'spoken.tsv', 8, 4)}
    (place/'words').mkdir()
    for o in sorted(used):
        shutil.copy(Corpus.sample().root/o, place/o)
    for o in ('few.tsv', 'spoken.tsv'):
        shutil.copy(golden/o, place/o)


def do(place, args, world=1, whisper=None, before=None, ends=None):
    "Run the command in `place`, which stands for `/PLACE`"
    args = [o.replace('/PLACE/', f'{place}/') for o in args]
    whisper = whisper and whisper.replace('/PLACE/', f'{place}/')
    codes = run(dict(args=args, cwd=str(place), world=world, whisper=whisper), before)
    assert codes == (ends or [0]*world), (codes, (place/'said.txt').read_text()[-3000:])


def make_store(place):
    "Features in float32; those in float16 are in the run `plateau`"
    do(place, ['features', 'mfcc-vq', SMALL[0], FEW, '--out', 'store'])
    shutil.copytree(place/'store', golden/'store')


def make_fronts(place):
    "Hash and means of the frames of one recording"
    wav = load_audio(place/HEARD[0], 16000)
    res = {}
    for name, args in FRONTS.items():
        x = FEATURES[name](**args)(wav[None])[0][0]
        save_file(dict(x=x), place/'frames.safetensors')
        frames = summary(place/'frames.safetensors')['x']
        res[name] = dict(args=args, shape=list(x.shape), frames=frames, means=x.mean(0).tolist())
    write('fronts.json', res)


def make_tokenizer(place, name):
    "Train for some steps, then encode and decode"
    still = ['model.encoder.dropout=0', 'model.decoder.dropout=0', 'train.epochs=2']
    changes = [*SMALL, vq(), *still, *TOKENIZERS[name]]
    do(place, ['train', 'mfcc-vq', FEW, *changes, '--out', f'made/{name}'])
    do(place, ['encode', f'made/{name}', *HEARD, '--out', 'tokens.safetensors'])
    shutil.rmtree(place/'decoded', ignore_errors=True)
    do(place, ['decode', f'made/{name}', 'tokens.safetensors', '--out', 'decoded'])
    to = golden/'tokenizers'/name
    shutil.copytree(place/'made'/name/'tokenizer', to/'tokenizer')
    shutil.copy(place/'tokens.safetensors', to)
    shutil.copy(place/'decoded/features.safetensors', to)


def weights(folder):
    "Hashes of what the last checkpoint of a run holds"
    last = step_checkpoints(folder/'checkpoints')[-1]
    found = {o: summary(last/f'{o}.safetensors') for o in ('model', 'optimizer')}
    return dict(checkpoint=last.name, **found)


def make_run(place, name):
    "A run, and what it ends with"
    job = RUNS[name]
    do(place, [*job['args'], '--out', f'runs/{name}'], job.get('world', 1), job.get('whisper'))
    to = golden/'runs'/name
    to.mkdir(parents=True)
    for o in ('log.csv', 'steps.csv', 'measures.json'):
        shutil.copy(place/'runs'/name/o, to)
    (to/'weights.json').write_text(json.dumps(weights(place/'runs'/name)))


def stop_at(n, signum):
    "A function that has the first process send itself a signal as its `n`th training batch begins"
    def _arm(rank):
        call = SpeechLearner.__call__
        seen = []

        def _call(self, event):
            if event == 'before_batch' and self.training and not rank:
                seen.append(event)
                if len(seen) == n:
                    os.kill(os.getpid(), signum)
            return call(self, event)
        SpeechLearner.__call__ = _call
    return _arm


def make_stopped(place, name):
    "A run that was stopped; it goes on to where the one ended that was not"
    args, world = RUNS[name]['args'], RUNS[name].get('world', 1)
    n, signum = STOPPED[name]
    ends = [143]*world if signum == signal.SIGTERM else [-9]
    do(place, [*args, '--out', f'stopped/{name}'], world, before=stop_at(n, signum), ends=ends)
    to = golden/'stopped'/name
    shutil.copytree(place/'stopped'/name, to, ignore=shutil.ignore_patterns('.lock'))
    settings = (to/'config.yaml').read_text()
    (to/'config.yaml').write_text(settings.replace(f'{place}/', '/PLACE/'))
    do(place, ['train', '--resume', '--out', f'stopped/{name}'], world)
    assert weights(place/'stopped'/name) == weights(place/'runs'/name), name


def make_demo(place):
    "What `make demo` trains"
    res = {}
    for o in ('mfcc-vq', 'logmel-vq'):
        do(place, ['train', o, '--out', f'demo/{o}'])
        folder = place/'demo'/o
        measures = json.loads((folder/'measures.json').read_text())
        log = rows(folder/'log.csv')[-3:]
        res[o] = dict(args=['train', o], log=log, measures=measures, weights=weights(folder))
    write('demo.json', res)


def main():
    "Everything, from nothing"
    torch.set_num_threads(1)
    shutil.rmtree(golden, ignore_errors=True)
    golden.mkdir()
    place = Path(tempfile.mkdtemp())
    write('machine.json', machine())
    write('configs.json', {o: load_config(o) for o in CONFIGS})
    write('runs.json', RUNS)
    set_up(place)
    make_fronts(place)
    make_store(place)
    for o in TOKENIZERS:
        make_tokenizer(place, o)
    for o in RUNS:
        make_run(place, o)
    write('whisper.json', summary(place/'whisper/model.safetensors'))
    for o in STOPPED:
        make_stopped(place, o)
    make_demo(place)
    shutil.rmtree(place)


if __name__ == '__main__':
    main()
