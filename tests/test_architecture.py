"What ARCHITECTURE.md promises to somebody who adds something, followed with one file of their own"
import importlib.util, json, re, subprocess, sys
from pathlib import Path

import pytest, yaml
from quantizer.all import ENCODERS, FEATURES, LOSSES, QUANTIZERS
from quantizer.app.cli import main

root = Path(__file__).parent.parent
page = (root/'ARCHITECTURE.md').read_text(encoding='utf-8')
PLUGIN = '''
import torch
from torch import nn
from quantizer.all import ENCODERS, FEATURES, LOSSES, QUANTIZERS, LogMel, VQ
from quantizer.models.backbones import ConvEncoder
from quantizer.models.objectives import Objective

@FEATURES.register('my_feature')
class MyFeature(LogMel):
    "Log-mel features of 20 bands"
    def __init__(self, n_mels:int=20): super().__init__(n_mels=n_mels)

@ENCODERS.register('my_encoder')
class MyEncoder(ConvEncoder):
    "The convolutional encoder under another name"

@QUANTIZERS.register('my_quantizer')
class MyQuantizer(VQ):
    "VQ under another name"

@LOSSES.register('my_loss')
def my_loss(y, x): return (y-x).abs().sqrt()

@LOSSES.register('my_objective')
class MyObjective(Objective):
    "Small vectors, as a layer of its own sees them"
    def __init__(self, weights):
        super().__init__(weights)
        self.layer = nn.Linear(64, 1)
    def terms(self, model, out, batch):
        sizes = self.layer(out.z_q)[...,0].pow(2)[out.token_mask]
        return dict(my_objective=(sizes.sum(), out.token_mask.sum()))
'''


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run of nothing but classes of one's own"
    registries = (ENCODERS, FEATURES, LOSSES, QUANTIZERS)
    before = [dict(o) for o in registries]
    place = tmp_path_factory.mktemp('own')
    plugin = place/'own_classes.py'
    plugin.write_text(PLUGIN)
    config = dict(plugins=[str(plugin)], data=dict(corpus='sample', batch_size=16, crop_s=1.0), features=dict(name='my_feature'),
        model=dict(encoder=dict(name='my_encoder', width=16, downsample=2), quantizer=dict(name='my_quantizer', codebook_size=16, dim=64),
            decoder=dict(name='conv', width=16), losses=dict(my_loss=1.0, my_objective=0.1, commitment=0.25)),
        train=dict(epochs=1))
    (place/'own.yaml').write_text(yaml.safe_dump(config))
    assert main(['train', str(place/'own.yaml'), '--out', str(place/'run')]) == 0
    yield place
    for registry, names in zip(registries, before):  # other tests go through all that is registered
        registry.clear()
        registry.update(names)


def test_own_classes(trained):
    "A quantizer, a loss, an objective, an encoder and a feature of one's own are trained by the command, and logged"
    columns = (trained/'run/log.csv').read_text().split('\n')[0].split(',')
    assert {'valid_my_loss', 'valid_my_objective', 'valid_commitment'} <= set(columns)
    assert yaml.safe_load((trained/'run/config.yaml').read_text())['plugins'] == [str(trained/'own_classes.py')]
    assert json.loads((trained/'run/measures.json').read_text())['this run']['nre'] > 0


def test_own_tokenizer(trained, capsys):
    "Its tokenizer is used with `--plugin`"
    place = str(trained)
    assert main(['encode', f'{place}/run', 'sample', '--plugin', f'{place}/own_classes.py', '--out', f'{place}/tokens.safetensors']) == 0
    assert ' tokens: ' in capsys.readouterr().out
    assert (trained/'tokens.safetensors').is_file()


def test_own_start(trained):
    "Its weights start another run, with an objective that has weights too"
    assert main(['train', f'{trained}/own.yaml', f'train.init_from={trained}/run', '--out', f'{trained}/next']) == 0


def test_without_the_plugin(trained):
    "A process that has not imported the classes says which one it lacks"
    code = 'import sys; from quantizer.app.cli import main; sys.exit(main(sys.argv[1:]))'
    args = ['info', str(trained/'run/tokenizer')]
    res = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True)
    assert res.returncode == 1 and res.stderr.startswith("quantizer: ") and res.stderr.count('\n') == 1
    assert "is called 'my_" in res.stderr and '--plugin' in res.stderr


def test_picture():
    "The picture of the rooms is what the imports are now"
    spec = importlib.util.spec_from_file_location('architecture', root/'docs/architecture.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.drawn(page) == page, 'run `make architecture`'


def test_paths():
    "Each file that the page names is there, and each name of code is somewhere in the package"
    paths = re.findall(r'`((?:nbs|quantizer|tests)/[^`<>*]+)`', page)
    assert len(paths) > 15
    assert not [o for o in paths if not (root/o).exists()]
